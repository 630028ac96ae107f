"""The maps that scores use, for pages, overlays and strips."""

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
from dagr_jax.video.stream import Limits, VideoError


class TimedMaps(NamedTuple):
    """A frame of a video with its maps.

    Attributes:
        seconds: When it is shown.
        frame: (height, width, 3) uint8 RGB, at its display size.
        maps: Name → (h, w) in [0, 1], at the size that the model makes it.
    """

    seconds: float
    frame: np.ndarray
    maps: dict[str, np.ndarray]


class Seen(NamedTuple):
    """What a score of a segment looked at.

    Attributes:
        seconds: (n,) when each frame is shown, as if the rate did not vary within the segment.
        frames: (n, height, width, 3) uint8 RGB, as the model sees them; of several crops the first.
        maps: Name → (t, h, w) in [0, 1], t up to n; {} where the score uses none.
    """

    seconds: np.ndarray
    frames: np.ndarray
    maps: dict[str, np.ndarray]


def maps_of(outputs: Outputs) -> dict[str, np.ndarray]:
    """The maps of one clip: name → (T, h, w) float32 in [0, 1]."""
    return {name: np.asarray(maps, np.float32) for name, maps in outputs.maps.items()}


def looks(
    scorer: Scorer,
    video: str | os.PathLike[str],
    *,
    segments: float = 0.0,
    limits: Limits | None = None,
) -> Iterator[ClipPlan | Seen]:
    """The frames that `scorer.score` looks at in each segment, with the maps that it uses.

    Args:
        scorer: What scores.
        video: A file.
        segments: Seconds of a segment; 0: the video is the only one.
        limits: Of pixels and seconds, beyond which a file is refused.

    Yields:
        A ClipPlan, and what is seen of each segment of it as soon as it is read; another plan where
        what came before does not count.

    Raises:
        VideoError: The file cannot be read.
    """
    plan = ClipPlan((), 0.0)
    name, first = next(iter(scorer.inputs.streams.items()))
    pieces: dict[tuple[int, int], list[Piece]] = {}
    for message in read_clips(video, scorer.inputs, segments, limits):
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
            # Without the maps of another model nothing can be scored.
            maps = {} if scorer.outside else maps_of(scorer.outputs([*own, message]))
            frames = message.inputs.get(name)
            if frames is None:  # of a stream in pieces the first one stands for all
                frames = next(piece.frames for piece in own if piece.stream == name)
            frames = frames[0] if frames.ndim == 5 else frames
            yield Seen(start + share * (end - start), frames, maps)


def maps_over_time(scorer: Scorer, video: str | os.PathLike[str]) -> Iterator[TimedMaps]:
    """The maps of every frame of a file, in consecutive windows.

    A window has as many frames as a score looks at, or as the windows of the checkpoint; the last
    one is filled up with the last frame. Each window is scored as a video of its own. Memory holds
    one window.

    Raises:
        VideoError: The file cannot be read, or the score of the checkpoint uses no maps.
    """
    no_maps = "leave --overlay out, or use a checkpoint whose score uses maps"
    if scorer.outside:
        raise VideoError(video, "the checkpoint was trained with maps of another model", no_maps)
    streams = scorer.inputs.streams.values()
    length = next((s.window for s in streams if s.window), next(iter(streams)).frames or 8)
    plan = ClipPlan(((0, length),), 0.0, path=os.fspath(video))
    frames = timed_frames(video)
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
