"""Maps that a score uses, for pages, overlays and strips."""

import dataclasses
import itertools
import os
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from dagr_jax.models.contract import Outputs
from dagr_jax.score.scorer import Scorer
from dagr_jax.video.clip import Clip, ClipPlan, Piece, clips_of, read_clips
from dagr_jax.video.decode import timed_frames
from dagr_jax.video.readers import Readers
from dagr_jax.video.stream import Limits, VideoError


class TimedMaps(NamedTuple):
    """A frame of a video with its maps.

    Attributes:
        seconds: Presentation time of the frame, in seconds.
        frame: (height, width, 3) uint8 RGB, at display size.
        maps: Name → (h, w) in [0, 1], at the output size of the model.
    """

    seconds: float
    frame: np.ndarray
    maps: dict[str, np.ndarray]


class Seen(NamedTuple):
    """The frames and maps that the score of one segment uses.

    Attributes:
        seconds: (n,) presentation time of each frame in seconds, computed as if the frame rate
            were constant within the segment.
        frames: (n, height, width, 3) uint8 RGB, as the model reads them; the first crop if there
            are several.
        maps: Name → (t, h, w) in [0, 1], with t ≤ n; {} if the score uses no maps.
    """

    seconds: np.ndarray
    frames: np.ndarray
    maps: dict[str, np.ndarray]


def maps_of(outputs: Outputs) -> dict[str, np.ndarray]:
    """Returns the maps of one clip: name → (T, h, w) float32 in [0, 1]."""
    return {name: np.asarray(maps, np.float32) for name, maps in outputs.maps.items()}


def looks(
    scorer: Scorer,
    video: str | os.PathLike[str],
    *,
    segments: float = 0.0,
    limits: Limits | None = None,
    readers: Readers | None = None,
) -> Iterator[ClipPlan | Seen]:
    """Yields the frames and maps that `scorer.score` uses in each segment.

    Args:
        scorer: Scorer of the checkpoint.
        video: Video file.
        segments: Length of a segment in seconds; 0: the whole video is one segment.
        limits: Largest number of pixels and seconds; a file above a limit is refused.
        readers: Processes one of which reads the file, so that it cannot crash this one; None: this
            process reads it.

    Yields:
        A ClipPlan, then a Seen for each of its segments as soon as the segment is read. A second
        ClipPlan replaces the first: everything yielded before it must be discarded.

    Raises:
        VideoError: The file cannot be read.
    """
    plan = ClipPlan((), 0.0)
    name, first = next(iter(scorer.inputs.streams.items()))
    pieces: dict[tuple[int, int], list[Piece]] = {}
    messages = (readers.clips if readers else read_clips)(
        os.fspath(video), scorer.inputs, segments, limits
    )
    for message in messages:
        if isinstance(message, ClipPlan):
            begin = int(bool(segments))
            plan = dataclasses.replace(
                message, bounds=message.bounds[begin:], shown=message.shown[begin:]
            )
            pieces.clear()
            yield plan
        elif isinstance(message, Piece):
            pieces.setdefault((message.start, message.length), []).append(message)
        elif isinstance(message, Clip):
            own = pieces.pop((message.start, message.length), [])
            if (message.start, message.length) not in plan.bounds:
                continue
            start, end = plan.shown[plan.bounds.index((message.start, message.length))]
            share = first.indices(message.length) / message.length
            # A model that needs the maps of another model cannot run without them.
            maps = {} if scorer.outside else maps_of(scorer.outputs([*own, message]))
            frames = message.inputs.get(name)
            if frames is None:  # the stream comes in pieces; show its first piece
                frames = next(piece.frames for piece in own if piece.stream == name)
            frames = frames[0] if frames.ndim == 5 else frames
            yield Seen(start + share * (end - start), frames, maps)


def maps_over_time(
    scorer: Scorer, video: str | os.PathLike[str], readers: Readers | None = None
) -> Iterator[TimedMaps]:
    """Yields every frame of a file with its maps, computed in consecutive windows.

    A window has the window length of the checkpoint, or else as many frames as a score uses. The
    last window is padded with the last frame. Each window is scored as a separate video. Memory
    holds one window.

    Args:
        scorer: Scorer of the checkpoint.
        video: Video file.
        readers: As in `looks`.

    Yields:
        A TimedMaps for each frame, in presentation order.

    Raises:
        VideoError: The file cannot be read, or the score of the checkpoint uses no maps.
    """
    no_maps = "leave --overlay out, or use a checkpoint whose score uses maps"
    if scorer.outside:
        raise VideoError(video, "the checkpoint was trained with maps of another model", no_maps)
    streams = scorer.inputs.streams.values()
    length = next((s.window for s in streams if s.window), next(iter(streams)).frames or 8)
    plan = ClipPlan(((0, length),), 0.0, path=os.fspath(video))
    frames = (readers.frames if readers else timed_frames)(os.fspath(video))
    while window := list(itertools.islice(frames, length)):
        filled = [frame for _, frame in window]
        filled += filled[-1:] * (length - len(window))
        found = maps_of(scorer.outputs(clips_of(filled, scorer.inputs, plan)))
        if not found:
            raise VideoError(video, "the score of this checkpoint uses no maps to show", no_maps)
        for number, (seconds, frame) in enumerate(window):
            # A model may give fewer maps than frames.
            own = {name: maps[number * len(maps) // length] for name, maps in found.items()}
            yield TimedMaps(seconds, frame, own)
