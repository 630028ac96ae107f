"""What a sample is, and the list of a prepared set's records."""

import csv
import dataclasses
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from dagr_jax.runtime.atomic import atomic_file
from dagr_jax.runtime.errors import DagrError

LIST = "videos.csv"


@dataclasses.dataclass(frozen=True)
class Clip:
    """A labelled video.

    Attributes:
        video: Name of its file, relative to the data set's video folder.
        content: Key of what it shows. Videos of one content never stand in two parts of a split.
        mos: Mean opinion score on the data set's own scale.
    """

    video: str
    content: str
    mos: float


@dataclasses.dataclass(frozen=True)
class Listed:
    """A record of a prepared set, as `videos.csv` names it.

    Attributes:
        video, content: As in `Clip`.
        part: "train", "val" or "test" where the data set's own files say so, else "".
        digest: Of the file's bytes, 16 hexadecimal digits; tells the same file under two names,
            and in two data sets. "" where the video is a folder of pictures.
    """

    video: str
    content: str
    part: str = ""
    digest: str = ""


_COLUMNS = [field.name for field in dataclasses.fields(Listed)]


def write_list(folder: Path, listed: Sequence[Listed]) -> None:
    """Writes `videos.csv`, a row for each record in their order, whole or not at all."""
    with atomic_file(folder / LIST) as partial, open(partial, "w", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(_COLUMNS)
        writer.writerows(dataclasses.astuple(row) for row in listed)


def read_list(folder: Path) -> list[Listed]:
    """The records of a prepared set, in their order.

    Raises:
        DagrError: The folder holds no prepared set.
    """
    path = folder / LIST
    if not path.is_file():
        raise DagrError(path, "no prepared set is here", "run the prepare stage first")
    with open(path, newline="") as stream:
        return [Listed(**row) for row in csv.DictReader(stream)]


def file_digest(path: os.PathLike[str]) -> str:
    """16 hexadecimal digits that stand for a file's bytes; "" for a folder."""
    if os.path.isdir(path):
        return ""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:16]
