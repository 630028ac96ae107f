"""Folders of pictures: frames, gaze maps and saliency maps as single files."""

from pathlib import Path

import numpy as np
from PIL import Image

from dagr_jax.runtime.errors import environment
from dagr_jax.video.stream import VideoError

_IMAGES = (".png", ".jpg", ".jpeg", ".bmp")


def pictures(folder: Path) -> list[Path]:
    """Lists the pictures of a folder, sorted by name; names that are numbers are sorted by value.

    Args:
        folder: The folder; it may be missing.

    Raises:
        VideoError: The folder cannot be read.
    """

    def order(path: Path) -> tuple[bool, int, str]:
        return not path.stem.isdigit(), int(path.stem) if path.stem.isdigit() else 0, path.name

    with environment(folder, VideoError):
        if not folder.is_dir():
            return []
        found = [p for p in folder.iterdir() if p.suffix.lower() in _IMAGES]
    return sorted(found, key=order)


def read_picture(path: Path, mode: str) -> np.ndarray:
    """Reads a picture.

    Args:
        path: Picture file.
        mode: "L" (grey) or "RGB".

    Returns:
        uint8, (h, w) for "L" and (h, w, 3) for "RGB".

    Raises:
        VideoError: The file cannot be read.
    """
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert(mode))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise VideoError(
            path, f"cannot be read as a picture ({said})", "unpack it again"
        ) from error
