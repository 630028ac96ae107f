"""A run: its configuration, its folder, and what all stages ask of them. Nothing here writes."""

import dataclasses
import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import config_dict

from dagr_jax import registry
from dagr_jax.data import loader
from dagr_jax.data.prepare import has_records
from dagr_jax.models.contract import CachedStream, Contract, TrainStage
from dagr_jax.runtime import distributed
from dagr_jax.runtime.errors import DagrError
from dagr_jax.stages import split
from dagr_jax.stages.artifacts import StageError, digest, plain
from dagr_jax.train import mesh as meshes
from dagr_jax.train.loop import predict_all
from dagr_jax.train.meta import make_meta
from dagr_jax.video.inputs import InputSpec, Stream


@dataclasses.dataclass(frozen=True)
class Run:
    """A configuration and the folder of its artifacts."""

    config: config_dict.ConfigDict
    workdir: Path

    @functools.cached_property
    def mesh(self) -> jax.sharding.Mesh:
        return meshes.make_mesh()

    @functools.cached_property
    def contract(self) -> Contract:
        return registry.contract(self.config.model.name)

    @functools.cached_property
    def inputs(self) -> InputSpec:
        """Which pictures of a video the model sees."""
        return self.contract.inputs(self.config)

    @property
    def stored(self) -> tuple[str, Stream]:
        """Name and stream of the frames that a prepared set holds."""
        return stored_stream(self.inputs)

    @functools.cached_property
    def model_args(self) -> dict[str, Any]:
        return plain(self.contract.model_args(self.config))

    @functools.cached_property
    def model(self) -> Any:
        return self.contract.build(self.model_args)

    @functools.cached_property
    def streams(self) -> tuple[CachedStream, ...]:
        """The cached streams that a score needs, as the stages of the run make them."""
        settings = self.contract.settings(self.config)
        found = self.contract.streams(self.model, self.inputs, settings)
        stages = {n: s for n, s in self.stages.items() if isinstance(s, CachedStream)}
        return tuple(stages.get(stream.name, stream) for stream in found)

    @functools.cached_property
    def stages(self) -> dict[str, TrainStage | CachedStream]:
        """The stages of the model, by name, in their order.

        Raises:
            StageError: The configuration contradicts itself.
        """
        try:
            return {stage.name: stage for stage in self.contract.stages(self.config)}
        except DagrError as error:
            raise StageError(str(error)) from error

    @property
    def gaze_stages(self) -> list[TrainStage]:
        """The training stages that learn from gaze."""
        found = [stage for stage in self.stages.values() if isinstance(stage, TrainStage)]
        return [stage for stage in found if stage.records == "gaze"]

    @property
    def map_size(self) -> tuple[int, int] | None:
        """(height, width) of gaze maps; None for a model that never learns from gaze.

        A configuration that needs none, as with alpha 0, shares the prepared set of one that does.
        """
        return self.contract.map_size(self.config)

    def of_checkpoint(
        self, inputs: InputSpec, model: Any, streams: tuple[CachedStream, ...]
    ) -> "Run":
        """This run, with what a checkpoint says instead of what a configuration would."""
        self.__dict__.update({"inputs": inputs, "model": model, "streams": streams})
        return self

    @property
    def last(self) -> TrainStage:
        """The training stage that makes the complete model."""
        found = [s for s in self.stages.values() if isinstance(s, TrainStage) and not s.part]
        return found[-1]

    @functools.cached_property
    def data(self) -> Path:
        """Folder of the prepared set: `config.data_dir`, or `data/` of the working directory."""
        return Path(self.config.data_dir) if self.config.data_dir else self.workdir / "data"

    @functools.cached_property
    def facts(self) -> dict[str, Any]:
        """Facts of the prepared set: `mos_range`, and `videos`, the folder of the files."""
        return json.loads((self.data / "dataset.json").read_text())

    @property
    def mos_range(self) -> tuple[float, float]:
        low, high = self.facts["mos_range"]
        return float(low), float(high)

    @functools.cached_property
    def parts(self) -> list[str]:
        """The part of each record of the prepared set."""
        return split.parts_of(self.data, self.config.split)

    @functools.cached_property
    def rows(self) -> dict[str, np.ndarray]:
        """Part → numbers of its records in the prepared set."""
        return split.rows_of(self.parts)

    def gaze_data(self, stage: TrainStage) -> Path | None:
        """Folder of the prepared gaze set of a stage; None where there is none."""
        given = self.config[stage.name].data_dir
        folder = Path(given) if given else self.data
        return folder if given or has_records(folder, "saliency") else None

    def gaze_parts(self, stage: TrainStage) -> list[str]:
        """The part of each record of the gaze set of a stage.

        Gaze records in the quality set are split with it; a gaze set of its own is split as its
        files say, or else at random.
        """
        data = self.gaze_data(stage)
        if data is None or data == self.data:
            return self.parts
        return split.parts_of(data, split.of_gaze_set(data, self.config.split))

    def predict(
        self, predict: Callable[..., jax.Array], variables: Any, source: Any, batch_size: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(numbers, predictions) of the records of a source, batch by batch, by all processes.

        Args:
            predict: Function of `mesh.jit_predict`.
            variables: Variables on any device; they are put on all devices.
            source: Records by number.
            batch_size: Raised to what divides over the devices.
        """
        devices = self.mesh.size
        return predict_all(
            predict,
            meshes.put_whole(variables, self.mesh),
            loader.eval_batches(
                source,
                batch_size=-(-batch_size // devices) * devices,
                share=distributed.share(),
            ),
            self.mesh,
        )

    def section(self, stage: TrainStage) -> config_dict.ConfigDict:
        """The resolved section of a training stage, `resolve_steps`."""
        if stage.records == "quality":
            records = len(self.rows["train"])
        else:
            parts = [] if self.gaze_data(stage) is None else self.gaze_parts(stage)
            records = sum(part == "train" for part in parts)
        return resolve_steps(self.config[stage.name], records)

    def meta(self, stage: TrainStage) -> dict[str, Any]:
        """Metadata of the checkpoints of a training stage; the digest is of its sections."""
        chosen = {name: plain(self.config[name]) for name in stage.sections}
        return make_meta(
            model=stage.model,
            model_args=plain(stage.args),
            preset=self.config.get("preset", ""),
            dataset=self.config.dataset.name,
            mos_range=None if stage.part else self.mos_range,
            inputs=self.inputs.to_json(),
            settings=self.contract.settings(self.config),
            config_digest=digest(chosen),
            worker_count=self.config.workers,
        )


def stored_stream(inputs: InputSpec) -> tuple[str, Stream]:
    """Name and stream of the frames that a prepared set holds: the first of one fixed size.

    Raises:
        StageError: The model sees no frames of one size.
    """
    for name, stream in inputs.streams.items():
        if stream.fixed and not stream.chunk:
            return name, stream
    raise StageError("the model sees no frames of one fixed size, which records could hold")


def resolve_steps(section: config_dict.ConfigDict, records: int) -> config_dict.ConfigDict:
    """A training section with epochs turned into steps, and `epoch_steps` for schedules.

    Args:
        section: Section with `steps` (0: from `epochs`) and `eval_every` (0: once an epoch).
        records: Size of the training part; the remainder of an epoch is dropped.
    """
    epoch = max(records // section.batch_size, 1)
    resolved = config_dict.ConfigDict(section)
    with resolved.unlocked():
        resolved.steps = section.steps or section.epochs * epoch
        resolved.epoch_steps = epoch
        resolved.eval_every = section.eval_every or epoch
    return resolved
