"""What a data set of gaze is: videos, and for each frame a density map and a fixation map."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dagr_jax.data.prepare import Sampling
from dagr_jax.video.decode import VideoError, decode_frames, probe
from dagr_jax.video.resize import resize_bilinear

_IMAGES = (".png", ".jpg", ".jpeg", ".bmp")


@dataclass(frozen=True)
class GazeVideo:
    """A video and where people looked in it.

    Attributes:
        video: Name, unique in the data set.
        content: Key of what it shows.
        frames: Video file, or a folder of pictures in the order of their names.
        maps, fixations: Folders of grey pictures, one a frame, in the order of their names.
        part: "train", "val" or "test" where the data set says so, else "".
    """

    video: str
    content: str
    frames: Path
    maps: Path
    fixations: Path
    part: str = ""


@dataclass(frozen=True)
class GazeSet:
    """A data set of gaze.

    Attributes:
        title: As its paper writes it.
        citation: Authors, title, venue, year.
        counts: Published number of videos by part.
        find: Source folder → its videos; those without annotation are not among them.
    """

    title: str
    citation: str
    counts: dict[str, int]
    find: Callable[[Path], list[GazeVideo]]


def pictures(folder: Path) -> list[Path]:
    """The pictures of a folder in the order of their names, numbers by value."""

    def order(path: Path) -> tuple[bool, int, str]:
        return not path.stem.isdigit(), int(path.stem) if path.stem.isdigit() else 0, path.name

    if not folder.is_dir():
        return []
    found = [p for p in folder.iterdir() if p.suffix.lower() in _IMAGES]
    return sorted(found, key=order)


def gaze_record(video: GazeVideo, sampling: Sampling, map_size: tuple[int, int]) -> dict[str, Any]:
    """Samples a video and its maps into what `prepare.Saliency` holds of it.

    A video and its maps may differ by some frames at the end: what both have is sampled.

    Returns:
        `frames` (T, h, w, 3), `maps` (T, h, w) with 255 at each map's peak, `fixations` (T, h, w)
        0 or 1, all uint8, and how many frames there are, `length`.

    Raises:
        VideoError: The video or a picture cannot be read, or maps are missing.
    """
    maps, fixations = pictures(video.maps), pictures(video.fixations)
    if not maps or len(maps) != len(fixations):
        raise VideoError(
            video.maps,
            f"has {len(maps)} maps and {len(fixations)} fixation maps",
            "unpack the annotation again",
        )
    shown = pictures(video.frames) if video.frames.is_dir() else []
    count = len(shown) if video.frames.is_dir() else probe(video.frames).num_frames
    length = min(count, len(maps))
    if not length:
        raise VideoError(video.frames, "has no frames", "unpack it again")
    chosen = sampling.indices(length)
    if shown:
        frames = np.stack(
            [resize_bilinear(_read(shown[i], "RGB"), sampling.size) for i in chosen.tolist()]
        )
    else:
        frames = decode_frames(video.frames, chosen, sampling.size)
    density = [_density(_read(maps[i], "L"), map_size) for i in chosen.tolist()]
    points = [_points(_read(fixations[i], "L"), map_size) for i in chosen.tolist()]
    return {
        "video": video.video,
        "content": video.content,
        "frames": resize_bilinear(frames, map_size, antialias=True),
        "maps": np.stack(density),
        "fixations": np.stack(points),
        "length": np.int32(length),
    }


def _read(path: Path, mode: str) -> np.ndarray:
    """A picture as uint8, (h, w) or (h, w, 3)."""
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert(mode))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise VideoError(
            path, f"cannot be read as a picture ({said})", "unpack it again"
        ) from error


def _density(grey: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A density map of another size, 255 at its peak; an empty one stays empty."""
    small = resize_bilinear(grey[..., None], size, antialias=True)[..., 0].astype(np.float32)
    peak = small.max()
    return (small / peak * 255 + 0.5).astype(np.uint8) if peak else small.astype(np.uint8)


def _points(grey: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Fixations of another size: each stays in its place; resizing would blur or lose it."""
    y, x = np.nonzero(grey)
    out = np.zeros(size, np.uint8)
    out[y * size[0] // grey.shape[0], x * size[1] // grey.shape[1]] = 1
    return out


def child(folder: Path, *names: str) -> Path | None:
    """The folder of one of the names, case aside; None where there is none."""
    there = {p.name.casefold(): p for p in folder.iterdir()} if folder.is_dir() else {}
    return next((there[n.casefold()] for n in names if n.casefold() in there), None)


def folders(source: Path) -> Sequence[Path]:
    """The folders directly in a folder, by name."""
    return sorted(Path(entry.path) for entry in os.scandir(source) if entry.is_dir())
