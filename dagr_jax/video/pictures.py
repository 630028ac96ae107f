"""Folders of pictures: frames, gaze maps and saliency maps as single files."""

import re
from pathlib import Path

import numpy as np
from PIL import Image

from dagr_jax.runtime.errors import environment
from dagr_jax.video.stream import VideoError

_IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".pgm", ".webp")


def pictures(folder: Path) -> list[Path]:
    """Lists the pictures of a folder in natural order: numbers in names are sorted by value.

    Hidden files, such as the `._0001.png` of macOS, are left out.

    Args:
        folder: The folder; it may be missing.

    Raises:
        VideoError: The folder cannot be read.
    """
    with environment(folder, VideoError):
        if not folder.is_dir():
            return []
        found = [
            path
            for path in folder.iterdir()
            if path.suffix.lower() in _IMAGES and not path.name.startswith(".")
        ]
    return sorted(found, key=natural)


def natural(path: Path) -> list[tuple[bool, int, str]]:
    """Returns the sorting key of a name in natural order: frame_2 is before frame_10."""
    parts = re.findall(r"[0-9]+|[^0-9]+", path.stem)
    key = [(not one.isascii() or not one.isdigit(), one) for one in parts]
    return [(text, 0 if text else int(one), one) for text, one in key] + [(True, 0, path.name)]


def check_same_numbers(*series: list[Path]) -> None:
    """Checks that pictures that belong together, such as frames and maps, do so one by one.

    Their names may differ, and each series may start at another number.

    Args:
        *series: Pictures of each kind, in order.

    Raises:
        VideoError: The series have different lengths, or a number is missing in one of them.
    """
    first = series[0]
    for other in series[1:]:
        if len(other) != len(first):
            raise VideoError(
                (other or first)[0].parent,
                f"has {len(other)} pictures, and {first[0].parent.name} has {len(first)}",
                "unpack both again",
            )
        for ours, theirs in zip(_counted(first), _counted(other), strict=True):
            if None not in (ours[0], theirs[0]) and ours[0] != theirs[0]:
                raise VideoError(
                    theirs[1],
                    f"does not belong to {ours[1].name} by its number: a picture is missing",
                    "unpack both again",
                )


def _counted(series: list[Path]) -> list[tuple[int | None, Path]]:
    """Returns pictures with their numbers, counted from the first; None if they have no numbers.

    The number of a picture is the last one in its name that is not the same in all names.
    """
    found = [[int(one) for one in re.findall(r"[0-9]+", path.stem)] for path in series]
    if len({len(numbers) for numbers in found}) == 1:
        for column in reversed(list(zip(*found, strict=True))):
            if len(set(column)) == len(series):
                return [(n - column[0], path) for n, path in zip(column, series, strict=True)]
    return [(None, path) for path in series]


def read_picture(path: Path, mode: str) -> np.ndarray:
    """Reads a picture. Samples of 16 bits are scaled to 8; what is not 0 does not become 0.

    Args:
        path: Picture file.
        mode: "L" (grey) or "RGB".

    Returns:
        uint8, (h, w) for "L" and (h, w, 3) for "RGB".

    Raises:
        VideoError: The file cannot be read.
    """
    try:
        with Image.open(path) as opened:
            image: Image.Image = opened
            if image.mode.startswith("I"):  # which Pillow would clip to 255
                deep = np.asarray(image).astype(np.int64)
                grey = np.where(deep > 0, np.maximum((deep + 128) // 257, 1), 0)
                image = Image.fromarray(grey.clip(0, 255).astype(np.uint8))
            return np.asarray(image.convert(mode))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise VideoError(
            path, f"cannot be read as a picture ({said})", "unpack it again"
        ) from error
