"""Gaze sets: videos with a density map and fixations for each frame."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from scipy.ndimage import gaussian_filter

from dagr_jax.video.decode import VideoError, decode_frames, probe
from dagr_jax.video.inputs import Stream
from dagr_jax.video.pictures import check_same_numbers, pictures, read_picture
from dagr_jax.video.resize import resize_bilinear


class Gaze(Protocol):
    """Gaze of a video, in the storage format of a data set."""

    def length(self, fps: float) -> int:
        """Returns the number of video frames with gaze.

        Args:
            fps: Frame rate of the video in frames per second; 0: unknown.
        """
        ...

    def read(
        self, chosen: np.ndarray, shape: tuple[int, int], fps: float, size: tuple[int, int]
    ) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
        """Reads the density maps and the fixations of chosen frames.

        Args:
            chosen: (T,) frame indices.
            shape: (height, width) of the video in pixels.
            fps: Frame rate of the video in frames per second; 0: unknown.
            size: (h, w) of the returned maps in pixels.

        Returns:
            (T, h, w) uint8 density maps, 255 at the peak of each map, all 0 if nobody looked at the
            frame; (n, 3) int32 fixations: the index into `chosen`, and y and x in pixels; and the
            (height, width) in pixels of the data set's own pictures, to which y and x refer.
        """
        ...


@runtime_checkable
class Clip(Protocol):
    """Frames of a video that are in no video file, such as crops of a photograph."""

    def __fspath__(self) -> str:
        """Returns the file that the frames are made from."""
        ...

    def __len__(self) -> int:
        """Returns the number of frames."""
        ...

    def read(self, chosen: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Reads chosen frames at a size: (T,) indices → (T, h, w, 3) uint8."""
        ...


@dataclass(frozen=True)
class Pictures:
    """Gaze as two folders of grey pictures, one picture per frame, in the order of their names.

    Attributes:
        maps: Folder of the density maps.
        fixations: Folder of the fixation maps.
    """

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
        check_same_numbers(maps, fixations)
        return len(maps)

    def read(
        self, chosen: np.ndarray, shape: tuple[int, int], fps: float, size: tuple[int, int]
    ) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
        maps, fixations = pictures(self.maps), pictures(self.fixations)
        own = [read_picture(fixations[i], "L") for i in chosen.tolist()]
        for i, picture in zip(chosen.tolist(), own, strict=True):
            if picture.shape != own[0].shape:
                raise VideoError(
                    fixations[i], "differs in size from the first of them", "unpack it again"
                )
        return (
            np.stack([density(read_picture(maps[i], "L"), size) for i in chosen.tolist()]),
            np.argwhere(np.stack(own)).astype(np.int32),
            (own[0].shape[0], own[0].shape[1]),
        )


@dataclass(frozen=True)
class GazeVideo:
    """A video with gaze.

    Attributes:
        video: Name, unique in the data set.
        content: Content key.
        frames: Video file, a folder of pictures in the order of their names, or a `Clip`.
        gaze: Gaze of the viewers.
        part: "train", "val" or "test" if the data set defines it, else "".
    """

    video: str
    content: str
    frames: Path | Clip
    gaze: Gaze
    part: str = ""


@dataclass(frozen=True)
class GazeSet:
    """A gaze set.

    Attributes:
        title: Name of the data set, as in its paper.
        citation: Authors, title, venue, year.
        counts: {part: published number of videos}.
        find: Function: source folder → its videos that have annotation.
    """

    title: str
    citation: str
    counts: dict[str, int]
    find: Callable[[Path], list[GazeVideo]]


def gaze_record(video: GazeVideo, stream: Stream, map_size: tuple[int, int]) -> dict[str, Any]:
    """Samples a video and its gaze into what `prepare.Saliency` and `prepare.Gaze` hold of it.

    The lengths of a video file and its maps may differ by a few frames at the end. Only frames that
    both have are sampled. Where the frames are pictures too, their numbers must agree.

    Args:
        video: The video with its gaze.
        stream: Which frames are stored, and how they are resized.
        map_size: (h, w) of the stored frames and maps in pixels.

    Returns:
        A dict with `video`, `content`, `frames` (T, h, w, 3) uint8, `maps` (T, h, w) uint8 with 255
        at the peak of each map, `points` (n, 3) int32 and `shape` (2,) int32 as `Gaze.read` returns
        the fixations, and the number of frames with gaze, `length`.

    Raises:
        VideoError: The video or a picture cannot be read, or maps are missing.
    """
    size = stream.resize.size
    assert size is not None  # a prepared set holds frames of one size
    count, fps, shape, read = _opened(video, size)
    length = min(count, video.gaze.length(fps))
    if not length:
        raise VideoError(video.frames, "has no frames with gaze", "unpack it again")
    chosen = stream.indices(length)
    frames = read(chosen)
    maps, points, native = video.gaze.read(chosen, shape, fps, map_size)
    return {
        "video": video.video,
        "content": video.content,
        "frames": resize_bilinear(frames, map_size, antialias=True),
        "maps": maps,
        "points": points,
        "shape": np.array(native, np.int32),
        "length": np.int32(length),
    }


def _opened(
    video: GazeVideo, size: tuple[int, int]
) -> tuple[int, float, tuple[int, int], Callable[[np.ndarray], np.ndarray]]:
    """Returns the number of frames, frames per second, shape, and a function that reads frames.

    The function takes (T,) indices and returns (T, h, w, 3) uint8 frames of the given size.
    """
    source = video.frames
    if isinstance(source, Clip):
        height, width = read_picture(Path(source), "L").shape
        return len(source), 0.0, (height, width), lambda chosen: source.read(chosen, size)
    if not source.is_dir():
        info = probe(source)
        shape = (info.height, info.width)
        return info.num_frames, info.fps, shape, lambda chosen: decode_frames(source, chosen, size)
    shown = pictures(source)
    if not shown:
        return 0, 0.0, (0, 0), lambda chosen: np.zeros((0, *size, 3), np.uint8)
    if isinstance(video.gaze, Pictures):
        check_same_numbers(shown, pictures(video.gaze.maps))
    height, width = read_picture(shown[0], "L").shape

    def read(chosen: np.ndarray) -> np.ndarray:
        own = [read_picture(shown[i], "RGB") for i in chosen.tolist()]
        return np.stack([resize_bilinear(one, size) for one in own])

    return len(shown), 0.0, (height, width), read


def blurred(
    points: np.ndarray, shape: tuple[int, int], deviation: float, size: tuple[int, int]
) -> np.ndarray:
    """Returns the density of fixations: a Gaussian at each of them.

    Args:
        points: (n, 2) y and x in pixels, inside the picture.
        shape: (height, width) of the picture in pixels.
        deviation: Standard deviation of the Gaussian, in pixels of the picture.
        size: (h, w) of the map.

    Returns:
        (h, w) uint8 with 255 at the peak; all 0 if there are no points.
    """
    (height, width), (h, w) = shape, size
    y, x = points.T
    seen = np.zeros(size)
    np.add.at(seen, ((y / height * h).astype(int), (x / width * w).astype(int)), 1)
    sigma = (deviation * h / height, deviation * w / width)
    wide = gaussian_filter(seen, sigma, mode="constant")
    return (wide / (wide.max() or 1.0) * 255 + 0.5).astype(np.uint8)


def density(grey: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes a density map and scales its peak to 255. An all-zero map stays all-zero.

    Args:
        grey: (H, W) density map, any scale.
        size: (h, w) of the result.

    Returns:
        (h, w) uint8.
    """
    small = resize_bilinear(grey[..., None], size, antialias=True)[..., 0].astype(np.float32)
    peak = small.max()
    return (small / peak * 255 + 0.5).astype(np.uint8) if peak else small.astype(np.uint8)


def child(folder: Path, *names: str) -> Path | None:
    """Returns the subfolder with one of the names, ignoring case; None if there is none."""
    there = {p.name.casefold(): p for p in folder.iterdir()} if folder.is_dir() else {}
    return next((there[n.casefold()] for n in names if n.casefold() in there), None)


def folders(source: Path) -> Sequence[Path]:
    """Returns the direct subfolders of a folder that are not hidden, sorted by name."""
    found = [entry for entry in os.scandir(source) if entry.is_dir()]
    return sorted(Path(entry.path) for entry in found if not entry.name.startswith("."))
