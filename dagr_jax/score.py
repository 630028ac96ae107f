"""Scoring videos with a checkpoint."""

import dataclasses
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dagr_jax.registry import model_module
from dagr_jax.train.checkpoints import load_variables
from dagr_jax.video.decode import VideoInfo, read_clip
from dagr_jax.video.resize import resize_bilinear
from dagr_jax.video.sampling import sample_indices


@dataclasses.dataclass(frozen=True)
class Result:
    """The score of one video.

    Attributes:
        file: The path as it was given; "" for frames.
        score: 100 · prediction on the checkpoint's [0, 1] scale, **not clipped**: a video worse
            or better than all training videos may leave [0, 100].
        mos: The same on the training set's own scale, `mos_range`.
        mos_range: (lowest, highest) of that scale.
        dataset: Data set that the checkpoint was trained on.
        frames: Frames that were looked at.
        total_frames: Frames that the file holds.
        width, height: Pixels as displayed (0 for frames given without a file: their own size).
        fps: Frames per second (0 where unknown).
        rotation: Clockwise degrees that the frames were turned by.
        codec: FFmpeg's name of the codec; "" for frames.
        seconds: Wall time of decoding and scoring.
        model, preset, step, version: What scored: model name, preset, checkpoint step, package
            version of the checkpoint.
    """

    file: str
    score: float
    mos: float
    mos_range: tuple[float, float]
    dataset: str
    frames: int
    total_frames: int
    width: int
    height: int
    fps: float
    rotation: int
    codec: str
    seconds: float
    model: str
    preset: str
    step: int
    version: str

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain data, in the order of the class."""
        return {**dataclasses.asdict(self), "mos_range": list(self.mos_range)}


class Scorer:
    """A model with its weights, ready to score.

    Args:
        variables: {"params", "batch_stats"} of a complete model.
        meta: What the checkpoint says of itself (`train.meta.make_meta`).
    """

    def __init__(self, variables: Mapping[str, Any], meta: Mapping[str, Any]):
        self.meta = dict(meta)
        self.model = model_module(meta["model"]).Model(**meta["model_args"])
        self._variables = variables
        self._apply = jax.jit(self.model.apply)
        self._maps = jax.jit(lambda v, frames: self.model.apply(v, frames, method="maps"))

    @classmethod
    def from_checkpoint(cls, path: str | os.PathLike[str]) -> "Scorer":
        """Loads the best checkpoint of a run.

        Args:
            path: The run's workdir or its `vqa/`.

        Raises:
            CheckpointError: There is no complete checkpoint of a quality model.
        """
        return cls(*load_variables(Path(path)))

    def score(self, video: str | os.PathLike[str] | np.ndarray) -> Result:
        """Scores one video.

        Args:
            video: A file, or all of its frames as (T, H, W, 3) uint8 RGB.

        Raises:
            VideoError: The file cannot be decoded; one line that names it.
            ValueError: Frames of another shape or type.
        """
        begin = time.perf_counter()
        if isinstance(video, np.ndarray):
            name, frames, facts = "", self._sample(video), _facts_of_frames(video)
        else:
            name = os.fspath(video)
            sampling, size = self.meta["sampling"], self.meta["resize"]["size"]
            frames, info = read_clip(video, sampling["num_frames"], sampling["rule"], tuple(size))
            facts = _facts_of_file(info)
        prediction = float(self._apply(self._variables, frames[None])[0])
        low, high = self.meta["mos_range"]
        return Result(
            file=name,
            score=100.0 * prediction,
            mos=low + prediction * (high - low),
            mos_range=(low, high),
            dataset=self.meta["dataset"],
            frames=len(frames),
            **facts,
            seconds=round(time.perf_counter() - begin, 3),
            model=self.meta["model"],
            preset=self.meta["preset"],
            step=self.meta["step"],
            version=self.meta["version"],
        )

    def maps(self, frames: np.ndarray) -> np.ndarray:
        """Saliency maps, (T, h, w) in [0, 1], of the frames that `score` would look at.

        Args:
            frames: (T, H, W, 3) uint8 RGB, all frames of a video.
        """
        return np.asarray(self._maps(self._variables, self._sample(frames)[None])[0])

    def _sample(self, frames: np.ndarray) -> np.ndarray:
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
            raise ValueError(
                f"frames are {frames.dtype} of shape {frames.shape}; give uint8 (T, H, W, 3), RGB"
            )
        sampling = self.meta["sampling"]
        chosen = sample_indices(len(frames), sampling["num_frames"], sampling["rule"])
        return resize_bilinear(frames[chosen], tuple(self.meta["resize"]["size"]))


def _facts_of_file(info: VideoInfo) -> dict[str, Any]:
    return {
        "total_frames": info.num_frames,
        "width": info.width,
        "height": info.height,
        "fps": round(float(info.fps), 3),
        "rotation": info.rotation,
        "codec": info.codec,
    }


def _facts_of_frames(frames: np.ndarray) -> dict[str, Any]:
    count, height, width, _ = frames.shape
    return {
        "total_frames": count,
        "width": width,
        "height": height,
        "fps": 0.0,
        "rotation": 0,
        "codec": "",
    }
