"""What is under way while videos are read and scored."""

import dataclasses
import os
import time

from dagr_jax.score.predictor import Ready
from dagr_jax.video.clip import ClipPlan
from dagr_jax.video.reading import VideoInfo


@dataclasses.dataclass
class PendingVideo:
    """A video of which not all is read and scored."""

    name: str
    folder: str | os.PathLike[str] | None
    begin: float = dataclasses.field(default_factory=time.perf_counter)
    plan: ClipPlan | None = None
    predictions: dict[tuple[int, int], float] = dataclasses.field(default_factory=dict)
    info: VideoInfo | None = None
    failure: str = ""

    @property
    def done(self) -> bool:
        """Whether nothing is missing for its row."""
        scored = self.plan is not None and len(self.predictions) == len(self.plan.different)
        return bool(self.failure or (self.info and scored))


@dataclasses.dataclass
class PendingClip:
    """A clip that is not scored yet."""

    video: PendingVideo
    clip: Ready


def forget(one: PendingVideo, pending: list[PendingClip]) -> None:
    """Drops what was scored of a video, and what is pending."""
    one.predictions.clear()
    pending[:] = [other for other in pending if other.video is not one]
