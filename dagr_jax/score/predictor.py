"""The model side of scoring: from the frames of clips to the outputs of the model."""

import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dagr_jax import registry
from dagr_jax.data.map_folder import read_maps
from dagr_jax.models.contract import CachedStream, Contract, Outputs
from dagr_jax.video.clip import Clip, Piece
from dagr_jax.video.inputs import InputSpec


@dataclasses.dataclass
class Ready:
    """The model inputs of one clip.

    Attributes:
        start, length: First frame and number of frames of the part of the video that the clip
            represents.
        inputs: Name → array of each stream and cached stream, without the batch axis.
    """

    start: int
    length: int
    inputs: dict[str, np.ndarray]


class Predictor:
    """A model with its weights, compiled when it is first needed.

    Args:
        variables: {"params", "batch_stats"} of a complete model.
        meta: Metadata of the checkpoint (`train.meta.make_meta`).

    Attributes:
        contract: Contract of the model.
        model: Flax module.
        inputs: Specification of the frames that the model reads from a video.
        streams: Cached streams that a score needs.
        variables: The argument `variables`.
    """

    def __init__(self, variables: Mapping[str, Any], meta: Mapping[str, Any]):
        self._meta = meta
        self.variables = variables
        self.contract: Contract = registry.contract(meta["model"])
        self.model = self.contract.build(meta["model_args"])
        self.inputs = InputSpec.from_json(meta["inputs"])
        self.streams = tuple(self.contract.streams(self.model, self.inputs, meta["settings"]))
        self._programs: dict[int, jax.stages.Compiled] = {}
        self._apply = jax.jit(self.model.apply)
        self._compute = {stream.name: jax.jit(stream.compute) for stream in self.streams}
        # Entries of cached streams whose pieces have arrived, by clip and name.
        self._entries: dict[tuple[int, int, str], list[tuple[np.ndarray, np.ndarray]]] = {}

    @functools.cached_property
    def digest(self) -> str:
        """Digest of the weights and of all settings that a score depends on, 12 hex digits."""
        found = hashlib.blake2b(digest_size=6)
        used = ("model", "model_args", "preset", "mos_range", "inputs", "settings")
        told = {name: self._meta[name] for name in used}
        found.update(json.dumps(told, sort_keys=True).encode())
        for path, leaf in jax.tree_util.tree_leaves_with_path(self.variables):
            found.update(jax.tree_util.keystr(path).encode())
            found.update(np.ascontiguousarray(leaf).view(np.uint8).data)
        return found.hexdigest()

    @property
    def outside(self) -> CachedStream | None:
        """The cached stream that another model makes; None if there is none."""
        return next((stream for stream in self.streams if stream.outside), None)

    @property
    def whole(self) -> bool:
        """Whether the model computes all its cached streams itself, from frames of one shape."""
        fixed = all(stream.fixed for stream in self.inputs.streams.values())
        return fixed and all(stream.inline for stream in self.streams)

    @property
    def num_frames(self) -> int:
        """Number of frames that the first stream samples from a clip."""
        return next(iter(self.inputs.streams.values())).frames

    def program(self, batch_size: int) -> jax.stages.Compiled:
        """Returns the complete model, compiled for a batch size; only for `whole` models."""
        if batch_size not in self._programs:
            shapes = {}
            for name, stream in self.inputs.streams.items():
                size = stream.resize.size
                assert size is not None  # a fixed stream has a size
                shape: tuple[int, ...] = (batch_size, stream.frames, *size, 3)
                if stream.crops:
                    count = len(stream.crops.corners(*size))
                    window = stream.crops.window(*size)
                    shape = (batch_size, count, stream.frames, *window, 3)
                shapes[name] = jax.ShapeDtypeStruct(shape, np.uint8)
            lowered = self._apply.lower(self.variables, shapes)
            self._programs[batch_size] = lowered.compile()
        return self._programs[batch_size]

    def take(self, piece: Piece) -> None:
        """Computes the entries of the cached streams of a piece and keeps them for its clip."""
        for stream in self.streams:
            if stream.of == piece.stream:
                entries = self.entries(stream, piece.frames)
                key = piece.start, piece.length, stream.name
                self._entries.setdefault(key, []).append((piece.places, entries))

    def forget(self) -> None:
        """Drops the entries of clips that were never completed."""
        self._entries.clear()

    def entries(self, stream: CachedStream, frames: np.ndarray) -> np.ndarray:
        """Computes the entries of a cached stream, one for each frame of a video.

        Args:
            stream: One of `streams`.
            frames: (t, height, width, 3) uint8 RGB; with crops (count, t, height, width, 3).

        Returns:
            (t, …), the output of `stream.compute` without the batch axis.
        """
        return np.asarray(self._compute[stream.name](self.variables, {stream.of: frames[None]})[0])

    def ready(self, clip: Clip, folder: str | os.PathLike[str] | None = None) -> Ready:
        """Adds to a clip the cached streams that the model does not compute itself.

        Args:
            clip: Clip of a video. The pieces of its streams must have been passed to `take` before.
            folder: Folder of maps of another model, for a model that was trained with such maps.

        Returns:
            The model inputs of the clip.

        Raises:
            VideoError: A map cannot be read.
        """
        inputs = dict(clip.inputs)
        for stream in self.streams:
            if not stream.inline:
                inputs[stream.name] = self.cached(stream, clip, folder)
        return Ready(clip.start, clip.length, inputs)

    def cached(
        self, stream: CachedStream, clip: Clip, folder: str | os.PathLike[str] | None = None
    ) -> np.ndarray:
        """Returns the entries of a cached stream for the frames of a clip.

        Args:
            stream: One of `streams`.
            clip: Clip of a video. The pieces of its streams must have been passed to `take` before.
            folder: Folder of maps of another model, for a model that was trained with such maps.

        Returns:
            (n, …), one entry for each frame that the stream samples from the clip.

        Raises:
            VideoError: A map cannot be read.
        """
        source = self.inputs.streams[stream.of]
        if stream.outside:
            assert folder is not None  # `Scorer` requires it
            chosen = self.inputs.indices(stream.of, clip.length)
            preset = "release" if stream.release else "paper"
            return read_maps(Path(folder), chosen, clip.length, stream.choice, stream.size, preset)
        if source.chunk:
            found = self._entries.pop((clip.start, clip.length, stream.name))
            return self.inputs.joined(stream.of, clip.length, found)
        return stream.chosen(self.entries(stream, clip.inputs[stream.of]))

    def predict(self, clips: Sequence[Ready], batch_size: int) -> list[Outputs]:
        """Runs the model on a batch of clips.

        Args:
            clips: Model inputs of 1 to `batch_size` clips; a short batch is padded with the last
                clip.
            batch_size: Number of clips per batch on the device.

        Returns:
            The outputs of each clip, without the batch axis.
        """
        rows = np.minimum(np.arange(batch_size), len(clips) - 1).tolist()
        batch = self._stacked([clips[row].inputs for row in rows])
        program = self.program(batch_size) if self.whole else self._apply
        outputs = jax.device_get(program(self.variables, batch))
        return [jax.tree.map(lambda x, i=i: x[i], outputs) for i in range(len(clips))]

    def _stacked(self, inputs: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """Stacks inputs to a batch; masked streams are padded with zeros to the longest clip."""
        batch = {}
        for name in inputs[0]:
            arrays = [one[name] for one in inputs]
            cached = next((s for s in self.streams if s.name == name), None)
            stream = self.inputs.streams[cached.of if cached else name]
            if stream.mask:
                axis = 1 if stream.crops and cached is None else 0
                lengths = [array.shape[axis] for array in arrays]
                longest = max(*lengths, 0 if cached else stream.frames)
                arrays = [_padded(array, longest, axis) for array in arrays]
                batch[f"{name}_mask"] = np.arange(longest) < np.array(lengths)[:, None]
            batch[name] = np.stack(arrays)
        return batch


def _padded(array: np.ndarray, length: int, axis: int) -> np.ndarray:
    widths = [(0, 0)] * array.ndim
    widths[axis] = (0, length - array.shape[axis])
    return np.pad(array, widths)
