"""What a data set of video quality is: its scale, its label files, and where its videos lie."""

import math
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from dagr_jax.data import labels
from dagr_jax.data.labels import Label, LabelError
from dagr_jax.video.stream import RawVideo

SUFFIXES = (".mp4", ".avi", ".mkv", ".mov", ".webm", ".yuv", ".m4v", ".mpg", ".y4m")


@dataclass(frozen=True)
class Source:
    """A rated video and where it lies.

    Attributes:
        video: Name, unique in the data set: the path below the source folder, '/' between parts.
        path: The file, a `RawVideo` if it holds bare pictures; None where there is none.
        mos: On the data set's scale; NaN where it has none.
        content: Key of what the video shows; videos of one content stay on one side of a split.
        part: "train" or "test" where the data set's own files say so, else "".
    """

    video: str
    path: os.PathLike[str] | None
    mos: float
    content: str
    part: str = ""


@dataclass(frozen=True)
class RatedSet:
    """A data set of video quality.

    Attributes:
        title: As its paper writes it.
        citation: Authors, title, venue, year.
        scale: (lowest, highest) MOS that the rating procedure can give; the [0, 1] of training.
            None: not known, the lowest and highest label.
        counts: Published number of videos, by the label file's part ("" for the only one).
        readers: (name of an official label file, its reader), in order of preference.
        names: A name in a label file → file names to look for, without folders.
        content: A name in a label file → content key.
        part: Its label file and a label → "train", "test" or "".
        raw: Width, height and frames per second of .yuv files, 4:2:0 with 8 bits.
        higher_is_better: Direction of the score; true of MOS, false of DMOS.
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

    def read(self, path: Path) -> list[Label]:
        """Reads a label file, official or a list `path, x, x, mos`.

        Raises:
            LabelError: It cannot be read, or a MOS lies outside of the scale.
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
        """The official label file in a folder or one folder below it.

        Raises:
            LabelError: There is none.
        """
        for name, _ in self.readers:
            for path in (source / name, *sorted(source.glob(f"*/{name}"))):
                if path.is_file():
                    return path
        official = " or ".join(name for name, _ in self.readers) or "a list 'path, x, x, mos'"
        raise LabelError(source, f"{official} is not in it", "give the label file with --labels")

    def sources(self, source: Path, label_file: Path) -> list[Source]:
        """The rated videos, in the order of the label file; missing ones have no path.

        Raises:
            LabelError: The label file cannot be used, names a path outside of the source folder,
                or names a file that several in the folder could be.
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
            content = label.row.get("content") or self.content(label.video)
            found.append(Source(name, file, label.mos, content, self.part(label_file, label)))
        return found


def inside(label_file: Path, label: Label) -> PurePosixPath:
    """A label's path, relative to the source folder.

    Raises:
        LabelError: It leaves the folder.
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
    """The video files below a folder, by name."""

    def __init__(self, source: Path):
        if not source.is_dir():
            raise LabelError(source, "there is no such folder", "give the folder of the videos")
        self.source = source
        self._by_name: dict[str, list[Path]] = {}
        for folder, below, names in os.walk(source, followlinks=True):
            below.sort()
            for name in sorted(names):
                if Path(name).suffix.lower() in SUFFIXES:
                    self._by_name.setdefault(name.casefold(), []).append(Path(folder) / name)

    def find(
        self, label_file: Path, label: Label, relative: PurePosixPath, names: Iterable[str]
    ) -> Path | None:
        """The file of a label: at its path, or anywhere below the folder under one of the names.

        Of several files with one name the label's own folder decides.
        """
        wanted = [relative.name, *names]
        for name in wanted:
            path = self.source / relative.parent / name
            if path.suffix and path.is_file():
                return path
        for name in wanted:
            found = self._by_name.get(name.casefold(), [])
            tails = [p for p in found if p.parent.parts[-1:] == relative.parent.parts[-1:]]
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
