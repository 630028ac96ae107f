"""Scores live video, window by window."""

import dataclasses
import datetime
import math
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from dagr_jax.runtime.errors import one_file
from dagr_jax.score.results import not_finite
from dagr_jax.score.scorer import Scorer
from dagr_jax.video.clip import Clip, ClipPlan, clips_of
from dagr_jax.video.live import Again, Feed, Window
from dagr_jax.video.stream import VideoError, check_damage


@dataclasses.dataclass(frozen=True)
class LiveWindow:
    """A window of a live video.

    Attributes:
        source: Name of the source, as the user gave it.
        window: Number of the window, from 0; dropped windows are counted.
        connection: Number of the connection, from 1.
        start, end: Start and end of the window, in seconds since the connection began.
        time: Time when the last frame of the window arrived, UTC, ISO 8601.
    """

    source: str
    window: int
    connection: int
    start: float
    end: float
    time: str

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as plain data, in the order of the class."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class LiveScore(LiveWindow):
    """The score of one window.

    Attributes:
        score: 100 · prediction on the checkpoint's [0, 1] scale, not clipped.
        mos: The prediction on the scale of the training set, not clipped.
        lag: Seconds from `time` until the score was ready.
        dropped: Number of windows dropped so far because windows arrived too fast.
        damaged: Number of packets of the window that could not be decoded, plus packets and frames
            marked as corrupt.
        notes: What is unusual in the connection and how it is treated; "" if nothing is.
        checkpoint: Digest of the weights and the settings that a score depends on, twelve
            hexadecimal digits.
    """

    score: float
    mos: float
    lag: float
    dropped: int
    damaged: int
    notes: str
    checkpoint: str


@dataclasses.dataclass(frozen=True)
class LiveFailure(LiveWindow):
    """A window that could not be scored.

    Attributes:
        dropped, damaged, notes: As in `LiveScore`.
        error: The error in one line.
    """

    dropped: int
    damaged: int
    notes: str
    error: str


def watch(scorer: Scorer, feed: Feed) -> Iterator[LiveScore | LiveFailure | Again]:
    """Scores the windows of a feed as they arrive.

    Args:
        scorer: Scorer of a checkpoint that makes its own saliency maps.
        feed: Feed that was made with `scorer.inputs`.

    Yields:
        A LiveScore for each window that is not dropped, or a LiveFailure if its pictures are
        damaged or scoring it failed; and each Again of the feed: a connection that was lost or not
        made.

    Raises:
        VideoError: The source cannot be read (any more).
        DagrError: The checkpoint was trained with saliency maps of another model.
    """
    low, high = scorer.meta["mos_range"]
    # Compile before the first window arrives, so that no window waits for the compiler.
    spec = scorer.inputs
    length = max(max(stream.frames, stream.window) for stream in spec.streams.values()) or 1
    nothing = np.zeros((length, 64, 64, 3), np.uint8)
    scorer.predict(clips_of(nothing, spec, ClipPlan(((0, length),), 0.0)))
    digest = scorer.digest
    for item in feed:
        if isinstance(item, Again):
            yield item
            continue
        when = datetime.datetime.fromtimestamp(item.arrived, datetime.UTC)
        told: dict[str, Any] = {
            "source": feed.source,
            "window": item.number,
            "connection": item.connection,
            "start": round(item.start, 3),
            "end": round(item.end, 3),
            "time": when.isoformat(timespec="milliseconds"),
            "dropped": item.dropped,
            "damaged": item.damaged,
            "notes": item.notes,
        }
        try:
            with one_file(feed.source, VideoError, "scoring a window"):
                prediction = _predicted(scorer, item, feed.source)
        except VideoError as error:
            yield LiveFailure(**told, error=str(error))
            continue
        yield LiveScore(
            **told,
            score=100.0 * prediction,
            mos=low + prediction * (high - low),
            lag=round(time.time() - item.arrived, 3),
            checkpoint=digest,
        )


def _predicted(scorer: Scorer, window: Window, source: str) -> float:
    """Returns the prediction for a window.

    Raises:
        VideoError: Its pictures are damaged, or the prediction is not a finite number.
    """
    if window.problem:
        raise VideoError(source, window.problem, "check the source")
    check_damage(source, window.damaged, window.frames)
    if not any(isinstance(one, Clip) for one in window.pictures):
        raise VideoError(source, "no frame of the window decodes", "check the source")
    prediction = scorer.predict(window.pictures)
    if not math.isfinite(prediction):
        raise not_finite(source)
    return prediction
