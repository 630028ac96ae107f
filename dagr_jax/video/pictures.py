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

    Their names may differ, and one series may count from 0 and the other from 1.

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
        pairs = list(zip(_numbered(first), _numbered(other), strict=True))
        # One may count from 0 and the other from 1.
        (one, _), (two, _) = pairs[0] if pairs else ((None, None), (None, None))
        shift = two - one if one is not None and two is not None and {one, two} == {0, 1} else 0
        for (one, ours), (two, theirs) in pairs:
            if one is not None and two is not None and one + shift != two:
                raise VideoError(
                    theirs,
                    f"does not belong to {ours.name} by its number: a picture is missing",
                    "unpack both again",
                )


def _numbered(series: list[Path]) -> list[tuple[int | None, Path]]:
    """Returns pictures with their numbers; None if they have no numbers.

    The number of a picture is the last one in its name that is not the same in all names.
    """
    found = [[int(one) for one in re.findall(r"[0-9]+", path.stem)] for path in series]
    if len({len(numbers) for numbers in found}) == 1:
        for column in reversed(list(zip(*found, strict=True))):
            if len(set(column)) == len(series):
                return list(zip(column, series, strict=True))
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
            if image.mode == "F":  # shares, or values up to 255
                real = np.nan_to_num(np.asarray(image))
                whole = real * 255 if real.max() <= 1 else real
                image = Image.fromarray(whole.clip(0, 255).astype(np.uint8))
            elif image.mode.startswith("I;16") or (
                image.mode == "I" and np.asarray(image).max() > 255
            ):  # which Pillow would clip to 255
                deep = np.asarray(image).astype(np.int64)
                grey = np.where(deep > 0, np.maximum((deep + 128) // 257, 1), 0)
                image = Image.fromarray(grey.clip(0, 255).astype(np.uint8))
            return np.asarray(image.convert(mode))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise VideoError(
            path, f"cannot be read as a picture ({said})", "unpack it again"
        ) from error
