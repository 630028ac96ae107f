"""The photographs and clips from which the starter corpus is made (docs/starter.md).

A source folder holds any of the subfolders of `KINDS`. Several source folders may be given. Each
file belongs to one part of the split, so that no photograph and no clip is in two parts.
"""

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path

from dagr_jax.runtime.errors import DagrError
from dagr_jax.video.files import suffixes
from dagr_jax.video.pictures import pictures


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of source.

    Attributes:
        folder: Subfolder of the source folder.
        reduce: Smallest factor by which a file is reduced before it counts as sharp and free of
            compression artefacts.
        parts: Number of files of the validation part and of the test part.
        ordered: Whether the last files, by name, are the test part and those before it the
            validation part, as the gaze set `osie` has it. Otherwise, digests of the names decide.
        clips: Whether the files are videos.
    """

    folder: str
    reduce: float
    parts: tuple[int, int]
    ordered: bool = False
    clips: bool = False


KINDS: dict[str, Kind] = {
    # JPEG of about quality 75 at 800 × 600.
    "osie": Kind("osie/images", 2.0, (100, 100), ordered=True),
    "kodak": Kind("kodak", 1.0, (3, 4)),
    "wallpapers": Kind("wallpapers", 1.4, (1, 2)),
    "clips": Kind("clips", 2.0, (1, 1), clips=True),
}


@dataclasses.dataclass(frozen=True)
class Source:
    """A photograph or clip.

    Attributes:
        kind: Key of `KINDS`.
        path: The file.
        part: "train", "val" or "test".
    """

    kind: str
    path: Path
    part: str

    @property
    def name(self) -> str:
        """Name that identifies the file in labels: kind/file name."""
        return f"{self.kind}/{self.path.name}"


def find(folders: Sequence[Path]) -> list[Source]:
    """Finds the photographs and clips below the source folders, sorted by kind and name.

    Args:
        folders: Source folders. Each may hold any of the subfolders of `KINDS`.

    Raises:
        DagrError: A folder is missing, a kind is missing, or a kind has too few files for three
            parts.
    """
    for folder in folders:
        if not folder.is_dir():
            raise DagrError(folder, "there is no such folder", "check --source")
    found: list[Source] = []
    for name, kind in KINDS.items():
        paths = [p for folder in folders for p in _files(folder / kind.folder, kind.clips)]
        val, test = kind.parts
        if len(paths) <= val + test:
            what = "videos" if kind.clips else "pictures"
            raise DagrError(
                folders[0],
                f"its subfolder {kind.folder} has {len(paths)} {what}, and the starter corpus "
                f"needs more than {val + test}",
                "unpack the sources as docs/starter.md says",
            )
        if not kind.ordered:
            paths.sort(key=lambda p: hashlib.sha256(p.name.encode()).digest())
        first = len(paths) - val - test
        parts = ["train"] * first + ["val"] * val + ["test"] * test
        found += [Source(name, p, part) for p, part in zip(paths, parts, strict=True)]
    return sorted(found, key=lambda source: source.name)


def _files(folder: Path, clips: bool) -> list[Path]:
    if not folder.is_dir():
        return []
    if not clips:
        return pictures(folder)
    known = suffixes()
    return sorted(p for p in folder.iterdir() if p.is_file() and p.suffix.lower() in known)
