"""What is under way while videos are read and scored."""

import dataclasses
import os
import time

import numpy as np

from dagr_jax.video.clip import Clip, Cut
from dagr_jax.video.reading import VideoInfo


@dataclasses.dataclass
class UnderWay:
    """A video of which not all is read and scored."""

    name: str
    folder: str | os.PathLike[str] | None
    begin: float = dataclasses.field(default_factory=time.perf_counter)
    cut: Cut | None = None
    predictions: dict[tuple[int, int], float] = dataclasses.field(default_factory=dict)
    info: VideoInfo | None = None
    failure: str = ""

    @property
    def done(self) -> bool:
        """Whether nothing is missing for its row."""
        scored = self.cut is not None and len(self.predictions) == len(self.cut.different)
        return bool(self.failure or (self.info and scored))


@dataclasses.dataclass
class Waiting:
    """A clip that is not scored yet."""

    video: UnderWay
    clip: Clip
    maps: np.ndarray | None


def forget(one: UnderWay, waiting: list[Waiting]) -> None:
    """Drops what was scored of a video, and what waits."""
    one.predictions.clear()
    waiting[:] = [other for other in waiting if other.video is not one]
