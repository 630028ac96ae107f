"""What can be scored: a file, frames in memory, or a file object. All give the same messages."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from typing import IO, TypeGuard, cast

import numpy as np

from dagr_jax.runtime.errors import DagrError, environment
from dagr_jax.video.clip import clips_of, plan_clips, read_clips
from dagr_jax.video.clock import Timeline
from dagr_jax.video.inputs import InputSpec
from dagr_jax.video.readers import Message
from dagr_jax.video.reading import VideoInfo
from dagr_jax.video.stream import Limits, VideoError

Video = str | os.PathLike[str] | np.ndarray | IO[bytes]


@contextlib.contextmanager
def messages_of(
    video: Video, spec: InputSpec, segments: float, limits: Limits | None
) -> Iterator[Iterable[Message]]:
    """Gives the messages of a video that this process reads (`video.clip.read_clips`).

    Args:
        video: Path; all frames as (T, H, W, 3) uint8 RGB; or a binary file object.
        spec: Frames that the model sees, and their sizes.
        segments: Duration of a segment in seconds; 0: no segments.
        limits: Limits on the video; None: no limits.

    Raises:
        VideoError: The video cannot be read.
        DagrError: The frames have another shape or type.
    """
    if isinstance(video, np.ndarray):
        yield _of_frames(video, spec, segments)
    elif is_path(video):
        yield read_clips(video, spec, segments, limits)
    else:
        # FFmpeg may read a file more than once, and not every file object allows that.
        with tempfile.NamedTemporaryFile(suffix=".video") as copy:
            with environment(name_of(video) or "file object", VideoError):
                shutil.copyfileobj(cast(IO[bytes], video), copy)
                copy.flush()
            try:
                yield read_clips(copy.name, spec, segments, limits)
            except VideoError as error:
                name = name_of(video) or "file object"
                raise VideoError(name, error.problem, error.remedy) from None


def _of_frames(frames: np.ndarray, spec: InputSpec, segments: float) -> Iterator[Message]:
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
        raise DagrError(
            f"frames are {frames.dtype} of shape {frames.shape}; give uint8 (T, H, W, 3), RGB"
        )
    plan = plan_clips("frames", Timeline.of([None] * len(frames), 0.0, 0.0), segments)
    yield plan
    yield from clips_of(frames, spec, plan)
    yield VideoInfo.of_frames(*frames.shape[:3])


def is_path(video: Video) -> TypeGuard[str | os.PathLike[str]]:
    """Returns whether a video is given by its path."""
    return isinstance(video, (str, os.PathLike))


def name_of(video: Video) -> str:
    """Returns the name of a video as the user gave it; "" if it has none."""
    if isinstance(video, np.ndarray):
        return ""
    if is_path(video):
        return os.fspath(video)
    name = getattr(video, "name", "")
    return name if isinstance(name, str) else ""
