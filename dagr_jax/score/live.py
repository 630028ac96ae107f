"""Scores live video, window by window."""

import dataclasses
import datetime
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from dagr_jax.score.scorer import Scorer
from dagr_jax.video.clip import ClipPlan, clips_of
from dagr_jax.video.live import Again, Feed


@dataclasses.dataclass(frozen=True)
class LiveScore:
    """The score of one window.

    Attributes:
        source: Name of the source, as the user gave it.
        window: Number of the window, from 0; dropped windows are counted.
        connection: Number of the connection, from 1.
        start, end: Start and end of the window, in seconds since the connection began.
        time: Time when the last frame of the window arrived, UTC, ISO 8601.
        score: 100 · prediction on the checkpoint's [0, 1] scale, not clipped.
        mos: The prediction on the scale of the training set, not clipped.
        lag: Seconds from `time` until the score was ready.
        dropped: Number of windows dropped so far because windows arrived too fast.
        damaged: Number of packets of the window that could not be decoded, plus packets and frames
            marked as corrupt.
        checkpoint: Digest of the weights and the settings that a score depends on, twelve
            hexadecimal digits.
    """

    source: str
    window: int
    connection: int
    start: float
    end: float
    time: str
    score: float
    mos: float
    lag: float
    dropped: int
    damaged: int
    checkpoint: str

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as plain data, in the order of the class."""
        return dataclasses.asdict(self)


def watch(scorer: Scorer, feed: Feed) -> Iterator[LiveScore | Again]:
    """Scores the windows of a feed as they arrive.

    Args:
        scorer: Scorer of a checkpoint that makes its own saliency maps.
        feed: Feed that was made with `scorer.inputs`.

    Yields:
        A LiveScore for each window that is not dropped, and each Again of the feed: a connection
        that was lost or not made.

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
        prediction = scorer.predict(item.pictures)
        when = datetime.datetime.fromtimestamp(item.arrived, datetime.UTC)
        yield LiveScore(
            source=feed.source,
            window=item.number,
            connection=item.connection,
            start=round(item.start, 3),
            end=round(item.end, 3),
            time=when.isoformat(timespec="milliseconds"),
            score=100.0 * prediction,
            mos=low + prediction * (high - low),
            lag=round(time.time() - item.arrived, 3),
            dropped=item.dropped,
            damaged=item.damaged,
            checkpoint=digest,
        )
