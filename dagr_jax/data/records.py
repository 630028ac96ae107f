"""Labelled clips, and the list of the records of a prepared set (`videos.csv`)."""

import csv
import dataclasses
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from dagr_jax.runtime.atomic import atomic_file
from dagr_jax.runtime.errors import DagrError
from dagr_jax.runtime.texts import open_text, read_own_table

LIST = "videos.csv"


@dataclasses.dataclass(frozen=True)
class Clip:
    """A labelled video.

    Attributes:
        video: File name, relative to the video folder of the data set.
        content: Content key. No content appears in more than one part of a split.
        mos: Mean opinion score on the scale of the data set.
        relative: Whether the MOS is comparable only within the content.
    """

    video: str
    content: str
    mos: float
    relative: bool = False


@dataclasses.dataclass(frozen=True)
class Listed:
    """A record of a prepared set, as listed in `videos.csv`.

    Attributes:
        video: File name, relative to the video folder of the data set.
        content: Content key. No content appears in more than one part of a split.
        part: "train", "val" or "test" if the data set's own files define it, else "".
        digest: Digest of the file, 16 hexadecimal digits. It identifies the same file under another
            name or in another data set. "" if the video is a folder of pictures.
    """

    video: str
    content: str
    part: str = ""
    digest: str = ""


_COLUMNS = [field.name for field in dataclasses.fields(Listed)]


def write_list(folder: Path, listed: Sequence[Listed]) -> None:
    """Writes `videos.csv` atomically, with one row per record, in the order of the records."""
    with atomic_file(folder / LIST) as partial, open_text(partial) as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(_COLUMNS)
        writer.writerows(dataclasses.astuple(row) for row in listed)


def read_list(folder: Path) -> list[Listed]:
    """Reads the list of a prepared set.

    Args:
        folder: Folder of the prepared set.

    Returns:
        One entry per record, in the order of the records.

    Raises:
        DagrError: The folder has no prepared set.
    """
    path = folder / LIST
    if not path.is_file():
        raise DagrError(path, "no prepared set is here", "run the prepare stage first")
    return [Listed(**row) for _, row in read_own_table(path).rows]


def file_digest(path: os.PathLike[str]) -> str:
    """Returns 16 hexadecimal digits of the SHA-256 of a file; "" for a folder."""
    if os.path.isdir(path):
        return ""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:16]
