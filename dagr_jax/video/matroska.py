"""The crop in the header of a Matroska file, which PyAV does not pass on (RFC 9559, 5.1.4.1.28)."""

import contextlib
import os
from typing import BinaryIO, NamedTuple

_SEGMENT, _TRACKS, _TRACK, _VIDEO = 0x18538067, 0x1654AE6B, 0xAE, 0xE0
_CLUSTER = 0x1F43B675  # the pictures begin here; the header is before them
_CROPS = {0x54BB: "top", 0x54AA: "bottom", 0x54CC: "left", 0x54DD: "right"}
_LONGEST = 1 << 20  # bytes of a header that are read


class Crop(NamedTuple):
    """Rows and columns at the edges of the stored pictures that are not shown, in pixels."""

    top: int = 0
    bottom: int = 0
    left: int = 0
    right: int = 0


def crop_of(path: str | os.PathLike[str]) -> Crop:
    """Reads the crop of the first video track; nothing is cropped if the header has no crop.

    Args:
        path: Matroska or WebM file.
    """
    found: dict[str, int] = {}
    with contextlib.suppress(OSError, EOFError), open(path, "rb") as file:
        _read(file, os.fstat(file.fileno()).st_size, found)
    return Crop(**found)


def _read(file: BinaryIO, end: int, found: dict[str, int], depth: int = 0) -> bool:
    """Reads the elements up to `end`; returns whether a video track was found."""
    while file.tell() < min(end, _LONGEST):
        name, size = _name(file), _size(file)
        if name == _CLUSTER:
            return True
        after = end if size is None else min(file.tell() + size, end)
        if name in (_SEGMENT, _TRACKS, _TRACK) and depth < 3:
            if _read(file, after, found, depth + 1):
                return True
        elif name == _VIDEO:
            while file.tell() < after:
                name, size = _name(file), _size(file) or 0
                data = file.read(min(size, 8))
                file.seek(size - len(data), os.SEEK_CUR)
                if name in _CROPS:
                    found[_CROPS[name]] = int.from_bytes(data)
            return True
        file.seek(after)
    return False


def _name(file: BinaryIO) -> int:
    """Reads the identifier of an element: its length is the number of leading zero bits + 1."""
    first = _byte(file)
    rest = file.read(8 - first.bit_length())
    return int.from_bytes(bytes([first]) + rest)


def _size(file: BinaryIO) -> int | None:
    """Reads the size of an element; None: unknown, as in a live stream."""
    first = _byte(file)
    length = 9 - first.bit_length()
    value = int.from_bytes(bytes([first & (0xFF >> length)]) + file.read(length - 1))
    return None if value == (1 << 7 * length) - 1 else value


def _byte(file: BinaryIO) -> int:
    data = file.read(1)
    if not data or not data[0]:
        raise EOFError
    return data[0]
