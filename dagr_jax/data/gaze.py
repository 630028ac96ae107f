"""What a data set of gaze is: videos, and for each frame a density map and a fixation map."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from dagr_jax.video.decode import VideoError, decode_frames, probe
from dagr_jax.video.inputs import Stream
from dagr_jax.video.pictures import pictures, read_picture
from dagr_jax.video.resize import resize_bilinear


class Gaze(Protocol):
    """Where people looked in a video, as a data set stores it."""

    def length(self, fps: float) -> int:
        """Frames of the video that it covers, at `fps` frames a second (0: unknown)."""
        ...

    def read(
        self, chosen: np.ndarray, shape: tuple[int, int], fps: float, size: tuple[int, int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Density and fixations of chosen frames.

        Args:
            chosen: (T,) frame indices.
            shape: (height, width) of the video.
            fps: Its frames a second (0: unknown).
            size: (h, w) of what is returned.

        Returns:
            maps (T, h, w), 255 at each one's peak and 0 where nobody looked; fixations (T, h, w)
            0 or 1; both uint8.
        """
        ...


@dataclass(frozen=True)
class Pictures:
    """Gaze as folders of grey pictures, one a frame, in the order of their names."""

    maps: Path
    fixations: Path

    def length(self, fps: float) -> int:
        maps, fixations = pictures(self.maps), pictures(self.fixations)
        if not maps or len(maps) != len(fixations):
            raise VideoError(
                self.maps,
                f"has {len(maps)} maps and {len(fixations)} fixation maps",
                "unpack the annotation again",
            )
        return len(maps)

    def read(
        self, chosen: np.ndarray, shape: tuple[int, int], fps: float, size: tuple[int, int]
    ) -> tuple[np.ndarray, np.ndarray]:
        maps, fixations = pictures(self.maps), pictures(self.fixations)
        return (
            np.stack([density(read_picture(maps[i], "L"), size) for i in chosen.tolist()]),
            np.stack([_points(read_picture(fixations[i], "L"), size) for i in chosen.tolist()]),
        )


@dataclass(frozen=True)
class GazeVideo:
    """A video and where people looked in it.

    Attributes:
        video: Name, unique in the data set.
        content: Key of what it shows.
        frames: Video file, or a folder of pictures in the order of their names.
        gaze: Where people looked.
        part: "train", "val" or "test" where the data set says so, else "".
    """

    video: str
    content: str
    frames: Path
    gaze: Gaze
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


def gaze_record(video: GazeVideo, stream: Stream, map_size: tuple[int, int]) -> dict[str, Any]:
    """Samples a video and its maps into what `prepare.Saliency` holds of it.

    A video and its maps may differ by some frames at the end: what both have is sampled.

    Returns:
        `frames` (T, h, w, 3), `maps` (T, h, w) with 255 at each map's peak, `fixations` (T, h, w)
        0 or 1, all uint8, and how many frames there are, `length`.

    Raises:
        VideoError: The video or a picture cannot be read, or maps are missing.
    """
    shown = pictures(video.frames) if video.frames.is_dir() else []
    if video.frames.is_dir():
        count, fps = len(shown), 0.0
        shape = read_picture(shown[0], "L").shape if shown else (0, 0)
    else:
        info = probe(video.frames)
        count, fps, shape = info.num_frames, info.fps, (info.height, info.width)
    length = min(count, video.gaze.length(fps))
    if not length:
        raise VideoError(video.frames, "has no frames with gaze", "unpack it again")
    chosen = stream.indices(length)
    size = stream.resize.size
    assert size is not None  # a prepared set holds frames of one size
    if shown:
        read = [read_picture(shown[i], "RGB") for i in chosen.tolist()]
        frames = np.stack([resize_bilinear(one, size) for one in read])
    else:
        frames = decode_frames(video.frames, chosen, size)
    maps, fixations = video.gaze.read(chosen, (shape[0], shape[1]), fps, map_size)
    return {
        "video": video.video,
        "content": video.content,
        "frames": resize_bilinear(frames, map_size, antialias=True),
        "maps": maps,
        "fixations": fixations,
        "length": np.int32(length),
    }


def density(grey: np.ndarray, size: tuple[int, int]) -> np.ndarray:
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
