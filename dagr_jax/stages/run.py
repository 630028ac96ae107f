"""A run: its configuration and working directory, and all values that stages derive from them.

Nothing in this module writes files.
"""

import dataclasses
import functools
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import config_dict

from dagr_jax import registry
from dagr_jax.data import loader
from dagr_jax.data.prepare import has_records, open_records
from dagr_jax.models.config import add_training, base_config
from dagr_jax.models.contract import CachedStream, Contract, TrainStage
from dagr_jax.runtime import distributed, machine
from dagr_jax.runtime.errors import DagrError
from dagr_jax.stages import split
from dagr_jax.stages.artifacts import StageError, digest, plain
from dagr_jax.stages.prepare import gaze_frames_of
from dagr_jax.train import mesh as meshes
from dagr_jax.train.loop import predict_all
from dagr_jax.train.meta import make_meta
from dagr_jax.video.inputs import InputSpec, Stream

_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Run:
    """A configuration and the working directory of its artifacts.

    Attributes:
        config: Configuration of the run.
        workdir: Folder of all artifacts of the run.
    """

    config: config_dict.ConfigDict
    workdir: Path

    @functools.cached_property
    def mesh(self) -> jax.sharding.Mesh:
        """The mesh of all devices."""
        return meshes.make_mesh()

    @functools.cached_property
    def contract(self) -> Contract:
        """The contract of the model."""
        return registry.contract(self.config.model.name)

    @functools.cached_property
    def inputs(self) -> InputSpec:
        """Specification of the frames that the model reads from a video."""
        return self.contract.inputs(self.config)

    @property
    def stored(self) -> tuple[str, Stream]:
        """(name, stream) of the frames that a prepared set holds."""
        return stored_stream(self.inputs)

    @functools.cached_property
    def model_args(self) -> dict[str, Any]:
        """The fields of the complete model, as plain data."""
        return plain(self.contract.model_args(self.config))

    @functools.cached_property
    def model(self) -> Any:
        """The Flax module of the complete model."""
        return self.contract.build(self.model_args)

    @functools.cached_property
    def streams(self) -> tuple[CachedStream, ...]:
        """The cached streams that a score needs, as the stages of the run compute them."""
        settings = self.contract.settings(self.config)
        found = self.contract.streams(self.model, self.inputs, settings)
        stages = {n: s for n, s in self.stages.items() if isinstance(s, CachedStream)}
        return tuple(stages.get(stream.name, stream) for stream in found)

    @functools.cached_property
    def stages(self) -> dict[str, TrainStage | CachedStream]:
        """The stages of the model, name → stage, in the order in which they run.

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
        """(height, width) of gaze maps in pixels; None for a model that never learns from gaze.

        It does not depend on whether the configuration needs maps: a run without them shares the
        prepared set of a run with maps.
        """
        return self.contract.map_size(self.config)

    @property
    def gaze_frames(self) -> int:
        """Number of frames of a gaze record; 0: as many as the stored frames of a video."""
        return self.contract.gaze_frames(self.config)

    def of_checkpoint(
        self, inputs: InputSpec, model: Any, streams: tuple[CachedStream, ...]
    ) -> "Run":
        """Sets inputs, model and streams from a checkpoint instead of from the configuration.

        Args:
            inputs: Specification of the frames that the model reads from a video.
            model: Flax module of the complete model.
            streams: Cached streams that a score needs.

        Returns:
            This run.
        """
        self.__dict__.update({"inputs": inputs, "model": model, "streams": streams})
        return self

    @property
    def last(self) -> TrainStage:
        """The training stage that makes the complete model."""
        found = [s for s in self.stages.values() if isinstance(s, TrainStage) and not s.part]
        return found[-1]

    @functools.cached_property
    def data(self) -> Path:
        """Folder of the prepared set: `config.data_dir`, or `data/` in the working directory."""
        return Path(self.config.data_dir) if self.config.data_dir else self.workdir / "data"

    @functools.cached_property
    def facts(self) -> dict[str, Any]:
        """Metadata of the prepared set: `mos_range`, and `videos`, the folder of source videos."""
        return json.loads((self.data / "dataset.json").read_text())

    @property
    def mos_range(self) -> tuple[float, float]:
        """(lowest, highest) MOS of the prepared set."""
        low, high = self.facts["mos_range"]
        return float(low), float(high)

    @functools.cached_property
    def parts(self) -> list[str]:
        """The part of each record of the prepared set: "train", "val" or "test"."""
        return split.parts_of(self.data, self.config.split)

    @functools.cached_property
    def rows(self) -> dict[str, np.ndarray]:
        """Part → (N,) numbers of its records in the prepared set.

        Videos whose MOS is comparable only within their content are in the training part of a model
        that learns from contents, and nowhere else.
        """
        found = split.rows_of(self.parts)
        own = "train" if self.last.contents else ""
        return {p: rows if p == own else self.comparable(rows) for p, rows in found.items()}

    def comparable(self, rows: np.ndarray) -> np.ndarray:
        """Returns the records, by number, whose MOS is comparable with all others."""
        if not self.facts.get("relative"):
            return rows
        records = open_records(self.data, "quality")
        kept = [row for row in rows.tolist() if not records[row].get("relative", False)]
        return np.array(kept, int)

    def gaze_data(self, stage: TrainStage) -> Path | None:
        """Returns the folder of the prepared gaze set of a stage; None if there is none."""
        given = self.config[stage.name].data_dir
        folder = Path(given) if given else self.data
        return folder if given or has_records(folder, "saliency") else None

    def gaze_parts(self, stage: TrainStage) -> list[str]:
        """Returns the part of each record of the gaze set of a stage.

        Gaze records in the quality set are split like its videos. A separate gaze set is split as
        its files define, or at random if they define no split.
        """
        data = self.gaze_data(stage)
        if data is None or data == self.data:
            return self.parts
        return split.parts_of(data, split.of_gaze_set(data, self.config.split))

    def predict(
        self, predict: Callable[..., jax.Array], variables: Any, source: Any, batch_size: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Predicts all records of a source, batch by batch; all processes call this together.

        Args:
            predict: Function of `mesh.jit_predict`.
            variables: Variables of the model, on any device; they are copied to all devices.
            source: Source of records, by number.
            batch_size: Global batch size; rounded up to a multiple of the number of devices.

        Yields:
            (record numbers (B,), predictions (B, …)) of each batch.
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

    @functools.cached_property
    def workers(self) -> int:
        """Processes that read records: `config.workers`, or 0 if their batches would not fit.

        They hand batches over in shared memory, of which containers have 64 MB by default; a
        process that finds it full dies without a word. With 0, threads of this process read.
        """
        wanted = self.config.workers
        batch = max(map(self._batch_bytes, self.stages.values()), default=0)
        needed = wanted * loader.BUFFERED * batch // distributed.share()[1]
        there = machine.shared_memory()
        if there is None or needed <= there:
            return wanted
        _LOG.warning(
            "/dev/shm: has %d MB, and the batches of %d reading processes need %d MB; threads read "
            "instead. Give the container more (docker run --shm-size), or set --config.workers=0",
            there >> 20,
            wanted,
            needed >> 20,
        )
        return 0

    def _batch_bytes(self, stage: TrainStage | CachedStream) -> int:
        """Returns about how many bytes a training batch of a stage has; 0 if it trains nothing."""
        if not isinstance(stage, TrainStage) or not (stage.stored or stage.records == "gaze"):
            return 0
        stored = self.stored[1]
        size, frames, pixel = stored.resize.size, stage.frames or stored.frames, 4  # RGB and a map
        if stage.records == "gaze":  # with fixations
            size, pixel = self.map_size, 5
            frames = stage.frames or self.gaze_frames or stored.frames
        height, width = size or (0, 0)
        items: int = self.config[stage.name].batch_size
        return items * (frames or 1) * height * width * pixel

    def section(self, stage: TrainStage) -> config_dict.ConfigDict:
        """Returns the config section of a training stage with its steps resolved."""
        if stage.records == "quality":
            records = len(self.rows["train"])
        else:
            data = self.gaze_data(stage)
            parts = [] if data is None else self.gaze_parts(stage)
            records = sum(part == "train" for part in parts)
            if data is not None and stage.frames:  # the items are windows
                records *= gaze_frames_of(data) // stage.frames
        return resolve_steps(self.config[stage.name], records)

    def meta(self, stage: TrainStage) -> dict[str, Any]:
        """Returns the checkpoint metadata of a training stage.

        Its `config_digest` covers only the config sections that the weights depend on.
        """
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
            worker_count=self.workers,
        )


def check_sections(run: Run) -> None:
    """Checks that the configuration has the sections and fields that the stages read.

    Args:
        run: The run.

    Raises:
        StageError: A section or a field is missing; the error names all of them.
    """
    wanted = base_config(run.contract.name, {}, run.config.dataset.name, ())
    trained = [stage for stage in run.stages.values() if isinstance(stage, TrainStage)]
    for stage in trained:
        add_training(wanted, stage.name, batch_size=1, learning_rate=1.0)
        if stage.records == "gaze":
            wanted[stage.name].data_dir = ""
    del wanted.dataset.args  # they depend on the data set
    missing = sorted(_missing(wanted, run.config))
    missing += [
        f"{name} (in the sections of stage {stage.name})"
        for stage in trained
        for name in stage.sections
        if name not in [*run.config, *missing]
    ]
    if missing:
        raise StageError(f"config: has no {', '.join(missing)}; docs/adding_a_model.md lists all")


def _missing(wanted: Mapping[str, Any], given: Any, path: str = "") -> Iterator[str]:
    """Yields the names of the fields of `wanted` that `given` lacks."""
    for name, value in wanted.items():
        if name not in given:
            yield path + name
        elif isinstance(value, config_dict.ConfigDict):
            yield from _missing(value, given[name], f"{path}{name}.")


def stored_stream(inputs: InputSpec) -> tuple[str, Stream]:
    """Returns the frames that a prepared set holds: the first stream with a fixed frame size.

    Args:
        inputs: Specification of the frames that the model reads from a video.

    Returns:
        (name, stream).

    Raises:
        StageError: No stream has a fixed frame size.
    """
    for name, stream in inputs.streams.items():
        if stream.fixed and not stream.chunk:
            return name, stream
    raise StageError(
        "no stream of the model has frames of a fixed size, which records need; "
        "give one stream of its inputs a fixed size"
    )


def resolve_steps(section: config_dict.ConfigDict, records: int) -> config_dict.ConfigDict:
    """Converts the epochs of a training section to steps, and adds `epoch_steps` for schedules.

    Args:
        section: Section with `steps` (0: computed from `epochs`) and `eval_every` in steps (0: once
            per epoch).
        records: Number of records of the training part. Records that do not fill the last batch of
            an epoch are dropped.

    Returns:
        A copy of the section with the three fields set.
    """
    epoch = max(records // section.batch_size, 1)
    resolved = config_dict.ConfigDict(section)
    with resolved.unlocked():
        resolved.steps = section.steps or section.epochs * epoch
        resolved.epoch_steps = epoch
        resolved.eval_every = section.eval_every or epoch
    return resolved
