"""State of the videos and clips that are being read and scored."""

import dataclasses
import os
import time

from dagr_jax.score.predictor import Ready
from dagr_jax.video.clip import ClipPlan
from dagr_jax.video.reading import VideoInfo


@dataclasses.dataclass
class PendingVideo:
    """A video that is not completely read and scored yet."""

    name: str
    folder: str | os.PathLike[str] | None
    begin: float = dataclasses.field(default_factory=time.perf_counter)
    plan: ClipPlan | None = None
    predictions: dict[tuple[int, int], float] = dataclasses.field(default_factory=dict)
    info: VideoInfo | None = None
    failure: str = ""
    cause: Exception | None = None  # of a failure of the model

    @property
    def done(self) -> bool:
        """Whether the row of the video can be made: it failed, or it is completely scored."""
        scored = self.plan is not None and len(self.predictions) == len(self.plan.different)
        return bool(self.failure or (self.info and scored))


@dataclasses.dataclass
class PendingClip:
    """A clip that is not scored yet."""

    video: PendingVideo
    clip: Ready


def forget(one: PendingVideo, pending: list[PendingClip]) -> None:
    """Drops the predictions and the pending clips of a video.

    Args:
        one: The video.
        pending: Pending clips of all videos; changed in place.
    """
    one.predictions.clear()
    pending[:] = [other for other in pending if other.video is not one]
