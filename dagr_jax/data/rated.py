"""Sets of rated videos: their MOS scale, label files and video files."""

import logging
import math
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from dagr_jax.data import labels
from dagr_jax.data.labels import Label, LabelError
from dagr_jax.video.files import suffixes, walk
from dagr_jax.video.stream import RawVideo

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """A rated video and its file.

    Attributes:
        video: Name, unique in the data set: the path below the source folder, with '/'.
        path: The file, a `RawVideo` for raw .yuv frames; None if there is no file.
        mos: MOS on the scale of the data set; NaN if there is none.
        content: Content key. Videos of one content stay in one part of a split.
        part: "train" or "test" if the data set's own files define it, else "".
        relative: Whether the MOS is comparable only within the content.
    """

    video: str
    path: os.PathLike[str] | None
    mos: float
    content: str
    part: str = ""
    relative: bool = False


@dataclass(frozen=True)
class RatedSet:
    """A set of rated videos.

    Attributes:
        title: Name of the data set, as in its paper.
        citation: Authors, title, venue, year.
        scale: (lowest, highest) MOS that the rating procedure can give; training maps this range to
            [0, 1]. None: unknown, use the lowest and highest label.
        counts: {part: published number of videos}; the part is "" if there is only one.
        readers: (name of an official label file, its reader), in order of preference.
        names: Function: name in a label file → file names to look for, without folders.
        content: Function: name in a label file → content key.
        part: Function: (label file, label) → "train", "test" or "".
        raw: (width, height, frames per second) of .yuv files, which are 8-bit 4:2:0.
        higher_is_better: Direction of the score: True for MOS, False for DMOS.
        relative: Function: label → whether its MOS is comparable only with those of the same
            content.
        make: Function: (source folder, output folder, processes) → label file, for a set that is
            made from other material. It continues where an earlier call stopped. The videos are in
            the folder `videos` next to the label file. None: the set is not made.
    """

    title: str
    citation: str
    scale: tuple[float, float] | None
    counts: dict[str, int]
    readers: Sequence[tuple[str, Callable[[Path], list[Label]]]]
    names: Callable[[str], Iterable[str]]
    content: Callable[[str], str]
    part: Callable[[Path, Label], str] = lambda path, label: ""
    raw: tuple[int, int, int] | None = None
    higher_is_better: bool = True
    relative: Callable[[Label], bool] = lambda label: False
    make: Callable[[Path, Path, int], Path] | None = None

    def read(self, path: Path) -> list[Label]:
        """Reads an official label file or a list `path, x, x, mos`.

        Args:
            path: The label file.

        Returns:
            One label for each row that names a video.

        Raises:
            LabelError: The file cannot be read, or a MOS is outside the scale.
        """
        if labels.is_list(path):
            found = labels.read_list(path)
        else:
            readers = dict(self.readers)
            known = [name for name in readers if Path(name).suffix == path.suffix.lower()]
            if path.name not in readers and not known:
                official = ", ".join(readers) or "none"
                raise LabelError(
                    path, f"it is no label file of {self.title}", f"official ones are {official}"
                )
            found = readers[path.name if path.name in readers else known[0]](path)
        low, high = self.scale or (-math.inf, math.inf)
        for label in found:
            if not (math.isnan(label.mos) or low <= label.mos <= high):
                raise LabelError(
                    path,
                    f"line {label.line}: MOS {label.mos:g} of {label.video} is outside of "
                    f"{self.title}'s scale {low:g} to {high:g}",
                    "give the labels on that scale",
                )
        return found

    def find_labels(self, source: Path) -> Path:
        """Finds the official label file in a folder or in one of its direct subfolders.

        Args:
            source: Folder of the data set.

        Raises:
            LabelError: There is no official label file.
        """
        for name, _ in self.readers:
            for path in (source / name, *sorted(source.glob(f"*/{name}"))):
                if path.is_file():
                    return path
        official = " or ".join(name for name, _ in self.readers) or "a list 'path, x, x, mos'"
        raise LabelError(source, f"{official} is not in it", "give the label file with --labels")

    def sources(self, source: Path, label_file: Path) -> list[Source]:
        """Lists the rated videos, in the order of the label file.

        Args:
            source: Folder of the videos.
            label_file: The label file.

        Returns:
            One entry per label. The path of a missing video is None.

        Raises:
            LabelError: The label file cannot be used, has a path outside the source folder, or has
                a name that matches several files.
        """
        files = Files(source)
        found = []
        for label in self.read(label_file):
            relative = inside(label_file, label)
            path = files.find(label_file, label, relative, self.names(relative.name))
            name = path.relative_to(source).as_posix() if path else relative.as_posix()
            file: os.PathLike[str] | None = path
            if path and path.suffix.lower() == ".yuv" and self.raw:
                width, height, fps = self.raw
                file = RawVideo(str(path), width, height, fps=fps)
            content = label.row.get("content") or self.content(relative.as_posix())
            part, within = self.part(label_file, label), self.relative(label)
            found.append(Source(name, file, label.mos, content, part, within))
        return _apart(found, label_file)


def _apart(found: list[Source], label_file: Path) -> list[Source]:
    """Says which videos of one name in several folders are taken for one content.

    If all of them would be one content, such as `NAME/video.mp4`, the folder tells them apart.
    """
    folders: dict[str, set[PurePosixPath]] = {}
    for source in found:
        path = PurePosixPath(source.video)
        if source.content == path.stem:
            folders.setdefault(source.content, set()).add(path.parent)
    if len(found) > 1 and [len(homes) for homes in folders.values()] == [len(found)]:
        by_path = [str(PurePosixPath(source.video).with_suffix("")) for source in found]
        return [replace(one, content=path) for one, path in zip(found, by_path, strict=True)]
    if several := [content for content, homes in folders.items() if len(homes) > 1]:
        homes = ", ".join(sorted(map(str, folders[several[0]]))[:3])
        _LOG.warning(
            "%s: %d contents are in several folders, such as %s in %s; if these are different "
            "contents, add a column content",
            label_file,
            len(several),
            several[0],
            homes,
        )
    return found


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def inside(label_file: Path, label: Label) -> PurePosixPath:
    """Returns the path of a label, relative to the source folder.

    Args:
        label_file: The label file, for messages.
        label: The label.

    Raises:
        LabelError: The path is outside the source folder.
    """
    written = label.video.replace("\\", "/")
    path = PurePosixPath(written)
    if path.is_absolute() or ".." in path.parts or re.match("[A-Za-z]:/", written):
        raise LabelError(
            label_file,
            f"line {label.line}: {label.video!r} leaves the source folder",
            "write paths below it",
        )
    return path


class Files:
    """Index by name of the video files below a folder.

    Names are compared without regard to case and to how accents are stored (Unicode NFC or NFD).

    Args:
        source: The folder.

    Raises:
        LabelError: The folder does not exist.
    """

    def __init__(self, source: Path):
        if not source.is_dir():
            raise LabelError(source, "there is no such folder", "give the folder of the videos")
        self.source = source
        self._by_name: dict[str, list[Path]] = {}
        for folder, names in walk(source):
            for name in names:
                known = Path(name).suffix.lower() in suffixes() | {".yuv"}
                if known and not name.startswith("."):
                    self._by_name.setdefault(_folded(name), []).append(Path(folder) / name)

    def find(
        self, label_file: Path, label: Label, relative: PurePosixPath, names: Iterable[str]
    ) -> Path | None:
        """Finds the file of a label: at its path, or by name anywhere below the folder.

        If several files have the same name, the one in the label's own folder is used.

        Args:
            label_file: The label file, for messages.
            label: The label.
            relative: Path of the label, relative to the source folder.
            names: Further file names to look for.

        Returns:
            The file, or None.

        Raises:
            LabelError: Several files match.
        """
        wanted = [relative.name, *names]
        for name in wanted:
            path = self.source / relative.parent / name
            if path.suffix and path.is_file():
                return path
        for name in wanted:
            found = self._by_name.get(_folded(name), [])
            tails = [p for p in found if _folded(p.parent.name) == _folded(relative.parent.name)]
            if len(tails or found) > 1:
                listed = ", ".join(str(p.relative_to(self.source)) for p in (tails or found)[:3])
                raise LabelError(
                    label_file,
                    f"line {label.line}: {label.video} could be {listed}",
                    "keep one of them, or write its path in the label file",
                )
            if found:
                return (tails or found)[0]
        return None
