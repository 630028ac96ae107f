"""The model side of scoring: clips in, predictions out."""

import functools
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dagr_jax.data.map_folder import read_maps
from dagr_jax.registry import model_module
from dagr_jax.score.maps import MapPlan
from dagr_jax.video.clip import Clip, Look


class Predictor:
    """A model with its weights, compiled as it is needed.

    Args:
        variables: {"params", "batch_stats"} of a complete model.
        meta: What the checkpoint says of itself (`train.meta.make_meta`).

    Attributes:
        look: Which frames of a clip the model sees.
        variables: As given.
        plan: How their saliency maps are made.
        whole: Whether the model makes the score of the frames alone, or else of maps too.
    """

    def __init__(self, variables: Mapping[str, Any], meta: Mapping[str, Any]):
        self._meta = meta
        self.variables = variables
        self.model = model_module(meta["model"]).Model(**meta["model_args"])
        self.plan = plan = MapPlan.from_meta(meta)
        alpha = meta["model_args"]["alpha"]
        self.whole = plan.plain or not alpha
        sampling, size = meta["sampling"], tuple(meta["resize"]["size"])
        # Where nobody looks at a window's map, it need not be read.
        windows = plan.window if alpha and not plan.outside else 0
        self.look = Look(
            sampling["num_frames"], sampling["rule"], size, windows, plan.choice, plan.antialias
        )
        self._programs: dict[int, jax.stages.Compiled] = {}
        self._maps = jax.jit(lambda v, frames: self.model.apply(v, frames, method="maps"))
        self._score = jax.jit(
            lambda v, frames, maps: self.model.apply(v, frames, maps, method="score")
        )

    @functools.cached_property
    def digest(self) -> str:
        """Twelve digits that stand for the weights and how they are used."""
        found = hashlib.blake2b(digest_size=6)
        used = ("model", "model_args", "preset", "mos_range", "sampling", "resize", "maps")
        told = {name: self._meta[name] for name in used}
        found.update(json.dumps(told, sort_keys=True).encode())
        for path, leaf in jax.tree_util.tree_leaves_with_path(self.variables):
            found.update(jax.tree_util.keystr(path).encode())
            found.update(np.ascontiguousarray(leaf).view(np.uint8).data)
        return found.hexdigest()

    def program(self, batch_size: int) -> jax.stages.Compiled:
        """The whole model, compiled for the frames of so many clips."""
        if batch_size not in self._programs:
            shape = (batch_size, self.look.num_frames, *self.look.size, 3)
            frames = jax.ShapeDtypeStruct(shape, np.uint8)
            lowered = jax.jit(self.model.apply).lower(self.variables, frames)
            self._programs[batch_size] = lowered.compile()
        return self._programs[batch_size]

    def maps_for(self, clip: Clip, folder: str | os.PathLike[str] | None) -> np.ndarray | None:
        """The maps that go with a clip's frames, (n, h, w); None if the model makes them itself.

        Args:
            clip: Of a video.
            folder: Of the maps of another model, for a plan that wants these.

        Raises:
            VideoError: A map cannot be read.
        """
        if self.whole:
            return None
        if folder is None:
            return self.own_maps(clip)
        args = self._meta["model_args"]
        size = tuple(args["saliency_size"] or self.look.size)
        chosen = self.look.frames(clip.length)
        choice, preset = self.plan.choice, self._meta["preset"]
        return read_maps(Path(folder), chosen, clip.length, choice, size, preset)

    def own_maps(self, clip: Clip) -> np.ndarray:
        """The maps that the saliency net makes for a clip's frames, (n, h, w) in [0, 1]."""

        if not self.look.window:
            return self.plan.of_sampled(self.window_maps(clip.frames))
        maps = np.concatenate([self.window_maps(window) for window in clip.windows])
        return maps[self.look.windows(clip.length)[1]]

    def window_maps(self, frames: np.ndarray) -> np.ndarray:
        """The saliency net's map of each frame of one window.

        Args:
            frames: (n, height, width, 3) uint8 of the size that the model sees.

        Returns:
            (n, h, w) float32 in [0, 1].
        """
        return np.asarray(self._maps(self.variables, frames[None])[0])

    def predict(
        self, frames: Sequence[np.ndarray], maps: Sequence[np.ndarray | None], batch_size: int
    ) -> np.ndarray:
        """Predictions on the [0, 1] scale, (b,).

        Args:
            frames: (n, height, width, 3) uint8 of each of b clips.
            maps: (n, h, w) of each, as `maps_for` gives them.
            batch_size: At least b; the last clip fills the batch up.
        """
        rows = np.minimum(np.arange(batch_size), len(frames) - 1)
        pictures = np.stack([frames[row] for row in rows])
        if self.whole:
            found = self.program(batch_size)(self.variables, pictures)
        else:
            chosen = np.stack([np.asarray(maps[row]) for row in rows])
            found = self._score(self.variables, pictures, chosen)
        return np.asarray(found)[: len(frames)]
