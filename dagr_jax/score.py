"""Scoring videos with a checkpoint."""

import dataclasses
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dagr_jax.data.map_folder import read_maps
from dagr_jax.registry import model_module
from dagr_jax.train.checkpoints import load_variables
from dagr_jax.train.meta import CheckpointError
from dagr_jax.video.decode import VideoInfo, decode_frames, read_clip
from dagr_jax.video.resize import resize_bilinear
from dagr_jax.video.sampling import map_indices, sample_indices, windows_of

# (frame indices, whether antialiased) → those frames of a video, resized
Read = Callable[[np.ndarray, bool], np.ndarray]


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


@dataclasses.dataclass(frozen=True)
class MapPlan:
    """How the saliency maps of a video's sampled frames are made.

    Attributes:
        window: 0: the sampled frames are one window of the saliency net, each map is of its frame.
            Otherwise the net runs over every frame of the video, in consecutive windows of so
            many, as the PyTorch release does, and `choice` picks the maps.
        choice: See `video.sampling.map_indices`. Of one window only "static" differs from
            "matched".
        antialias: How the frames of these windows are resized.
        outside: Another model made the maps; there is no saliency net.
    """

    window: int
    choice: str
    antialias: bool
    outside: bool = False

    @property
    def plain(self) -> bool:
        """Whether the maps are those that the whole model makes when it is given the frames."""
        return not (self.window or self.outside or self.choice == "static")

    def of_sampled(self, maps: np.ndarray) -> np.ndarray:
        """The maps (n, h, w) of the sampled frames → those that go with them."""
        return maps[map_indices(np.arange(len(maps)), len(maps), self.choice)]

    @classmethod
    def from_meta(cls, meta: Mapping[str, Any]) -> "MapPlan":
        """The plan of a checkpoint: the release's maps are made of antialiased frames."""
        return cls(**meta["maps"], antialias=meta["preset"] == "release")

    def maps(
        self,
        look: Callable[[np.ndarray], Any],
        read: Read,
        frames: np.ndarray,
        length: int,
    ) -> np.ndarray:
        """Maps for the sampled frames; of every frame's windows only those are computed that count.

        Args:
            look: (1, window, H, W, 3) uint8 frames → their maps.
            read: Of the video.
            frames: (n,) indices of the sampled frames.
            length: Frames of the video.

        Returns:
            (n, h, w) float32 in [0, 1].
        """
        chosen = map_indices(frames, length, self.choice)
        windows, place = windows_of(chosen, length, self.window)
        pictures = read(windows.reshape(-1), self.antialias)
        pictures = pictures.reshape(*windows.shape, *pictures.shape[1:])
        maps = np.concatenate([np.asarray(look(window[None])[0]) for window in pictures])
        return maps[place]


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
        self._size = tuple(meta["resize"]["size"])
        self._plan = MapPlan.from_meta(meta)
        self._apply = jax.jit(self.model.apply)
        self._maps = jax.jit(lambda v, frames: self.model.apply(v, frames, method="maps"))
        self._score = jax.jit(
            lambda v, frames, maps: self.model.apply(v, frames, maps, method="score")
        )

    @classmethod
    def from_checkpoint(cls, path: str | os.PathLike[str]) -> "Scorer":
        """Loads the best checkpoint of a run.

        Args:
            path: The run's workdir or its `vqa/`, or a folder that `dagr convert` made.

        Raises:
            CheckpointError: There is no complete checkpoint of a model that scores.
        """
        variables, meta = load_variables(Path(path))
        if meta["mos_range"] is None:
            raise CheckpointError(
                f"{path}: holds one network, which gives no score by itself; name a run's workdir, "
                "or join two networks with dagr convert --saliency A --vqa B --alpha 0.5"
            )
        return cls(variables, meta)

    def score(
        self,
        video: str | os.PathLike[str] | np.ndarray,
        *,
        maps: str | os.PathLike[str] | None = None,
    ) -> Result:
        """Scores one video.

        Args:
            video: A file, or all of its frames as (T, H, W, 3) uint8 RGB.
            maps: Folder of its saliency maps, as grey pictures (`data.map_folder`): for a
                checkpoint that was trained with maps of another model, and for no other.

        Raises:
            VideoError: The file or a map cannot be read; one line that names it.
            ValueError: Frames of another shape or type; maps missing, or not wanted.
        """
        begin = time.perf_counter()
        name = "" if isinstance(video, np.ndarray) else os.fspath(video)
        if self._plan.outside != (maps is not None):
            raise ValueError(
                f"{name or 'frames'}: the checkpoint was trained with saliency maps of another "
                "model; give its folder of maps"
                if self._plan.outside
                else f"{maps}: the checkpoint makes its own saliency maps; leave these out"
            )
        frames, facts, read = self._look_at(video)
        prediction = self._predict(frames, facts["total_frames"], read, maps)
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

    def maps(self, video: str | os.PathLike[str] | np.ndarray) -> np.ndarray:
        """Saliency maps, (T, h, w) in [0, 1], of the frames that `score` would look at.

        Args:
            video: As in `score`.

        Raises:
            ValueError: As `score`, or the checkpoint has no saliency network.
        """
        frames, facts, read = self._look_at(video)
        return self._maps_of(frames, facts["total_frames"], read)

    def _predict(
        self,
        frames: np.ndarray,
        length: int,
        read: Read,
        folder: str | os.PathLike[str] | None,
    ) -> float:
        """The prediction on the [0, 1] scale."""
        if self._plan.plain or not self.meta["model_args"]["alpha"]:
            return float(self._apply(self._variables, frames[None])[0])
        if folder is None:
            maps = self._maps_of(frames, length, read)
        else:
            chosen = sample_indices(length, **self._sampling())
            args = self.meta["model_args"]
            size = tuple(args["saliency_size"] or self._size)
            choice, preset = self._plan.choice, self.meta["preset"]
            maps = read_maps(Path(folder), chosen, length, choice, size, preset)
        return float(self._score(self._variables, frames[None], maps[None])[0])

    def _maps_of(self, frames: np.ndarray, length: int, read: Read) -> np.ndarray:
        if not self._plan.window:
            return self._plan.of_sampled(np.asarray(self._maps(self._variables, frames[None])[0]))
        chosen = sample_indices(length, **self._sampling())
        return self._plan.maps(lambda x: self._maps(self._variables, x), read, chosen, length)

    def _look_at(
        self, video: str | os.PathLike[str] | np.ndarray
    ) -> tuple[np.ndarray, dict[str, Any], Read]:
        """The sampled frames, what is known of the video, and how to read more of it."""
        if isinstance(video, np.ndarray):
            if video.dtype != np.uint8 or video.ndim != 4 or video.shape[-1] != 3:
                raise ValueError(
                    f"frames are {video.dtype} of shape {video.shape}; give uint8 (T, H, W, 3), RGB"
                )

            def pick(indices: np.ndarray, antialias: bool) -> np.ndarray:
                return resize_bilinear(video[indices], self._size, antialias=antialias)

            chosen = sample_indices(len(video), **self._sampling())
            return pick(chosen, False), _facts_of_frames(video), pick

        def decode(indices: np.ndarray, antialias: bool) -> np.ndarray:
            return decode_frames(video, indices, self._size, antialias=antialias)

        frames, info = read_clip(video, **self._sampling(), size=self._size)
        return frames, _facts_of_file(info), decode

    def _sampling(self) -> dict[str, Any]:
        sampling = self.meta["sampling"]
        return {"n": sampling["num_frames"], "rule": sampling["rule"]}


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
