"""Scores of a live video, window by window."""

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
        source: As it was given.
        window: Number of the window from 0; those that were dropped count.
        connection: Number of the connection from 1.
        start, end: Seconds of the video since the connection began.
        time: When its last frame had come, UTC, ISO 8601.
        score: 100 · prediction on the checkpoint's [0, 1] scale, not clipped.
        mos: The same on the training set's own scale.
        lag: Seconds from then until the score was there.
        dropped: Windows that have been dropped so far, because others came too fast.
        damaged: Packets of the window that did not decode and frames marked as corrupt.
        checkpoint: Twelve digits that stand for the weights and how they are used.
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
        """The fields as plain data, in the order of the class."""
        return dataclasses.asdict(self)


def watch(scorer: Scorer, feed: Feed) -> Iterator[LiveScore | Again]:
    """Scores the windows of a feed as they come.

    Args:
        scorer: With a saliency network of its own.
        feed: With the `inputs` of the scorer.

    Yields:
        A LiveScore for each window that is not dropped, and what the feed says of its connections.

    Raises:
        VideoError: The source cannot be read (any more).
        DagrError: The checkpoint was trained with saliency maps of another model.
    """
    low, high = scorer.meta["mos_range"]
    # What it takes to compile is over before anything comes that would have to wait.
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
