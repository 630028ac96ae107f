"""The photographs and clips from which the starter corpus is made (docs/starter.md).

The source folder has the subfolders of `KINDS`. Each file belongs to one part of the split, so that
no photograph and no clip is in two parts.
"""

import dataclasses
import hashlib
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


def find(folder: Path) -> list[Source]:
    """Finds the photographs and clips below the source folder, sorted by kind and name.

    Args:
        folder: Source folder, which has all subfolders of `KINDS`.

    Raises:
        DagrError: The folder or a kind is missing, or a kind has too few files for three parts.
    """
    if not folder.is_dir():
        raise DagrError(folder, "there is no such folder", "check --source")
    found: list[Source] = []
    for name, kind in KINDS.items():
        paths = _files(folder / kind.folder, kind.clips)
        val, test = kind.parts
        if len(paths) <= val + test:
            what = "videos" if kind.clips else "pictures"
            raise DagrError(
                folder,
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
    return sorted(
        p
        for p in folder.iterdir()
        if p.is_file() and p.suffix.lower() in known and not p.name.startswith(".")
    )
