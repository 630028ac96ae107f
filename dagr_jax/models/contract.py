"""The interface of a model. The rest of the program uses nothing else of a model.

A model is one folder under `models/` and one line in `registry.MODELS`; other packages use the
entry-point group `dagr_jax.models`. Its `CONTRACT` is a `Contract`. Training, scoring, evaluation,
pages and conversion refer to no model by name. docs/adding_a_model.md is the checklist.
"""

import abc
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import flax.linen as nn
import jax
import numpy as np
from flax import struct

from dagr_jax.models.weights import ConvertOption, Pretrained, TorchNetwork
from dagr_jax.runtime.errors import DagrError
from dagr_jax.video.inputs import InputSpec
from dagr_jax.video.sampling import map_indices

Tree = Any  # a nested dict of arrays
Batch = Mapping[str, jax.Array]
Metrics = dict[str, jax.Array]
Config = Any  # ml_collections.ConfigDict, read by attribute


class Outputs(struct.PyTreeNode):
    """Outputs of a model for a batch of videos.

    Attributes:
        score: (B,) float32 scores, on the [0, 1] scale of the training targets, not clipped.
        maps: Name → (B, T, h, w) maps in [0, 1] that the score used; {} if it used none.
        frame_scores: (B, T) score of each frame; None if the model has no frame scores.
    """

    # The fields have no array types: under `jax.tree.map`, the leaves may be anything.
    score: Any
    maps: dict[str, Any] = struct.field(default_factory=dict)
    frame_scores: Any = None


@runtime_checkable
class Task(Protocol):
    """Loss and prediction of a training stage. They are pure functions; `train.mesh` jits them."""

    @property
    def trained(self) -> tuple[str, ...] | None:
        """Top-level modules that are trained; None: all of them."""
        ...

    def loss(
        self, variables: dict[str, Tree], batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, tuple[Tree, Metrics]]:
        """Returns (loss, (new batch_stats, metrics)) of a batch in training mode.

        Args:
            variables: {'params', 'batch_stats'} of the module.
            batch: Name → array; axis 0 is the global batch.
            key: Random key of the step.
        """
        ...

    def predict(self, variables: Mapping[str, Tree], batch: Batch) -> jax.Array:
        """Returns scores (B,) in [0, 1] of quality records, or maps (B, T, h, w) of gaze records.

        Args:
            variables: {'params', 'batch_stats'} of the module.
            batch: Name → array; axis 0 is the global batch.
        """
        ...


@dataclasses.dataclass(frozen=True)
class CachedStream:
    """Output of a frozen network for the frames of a video, computed once and stored.

    It has one entry for each frame that the model sees. In a batch, its key is its name.

    Attributes:
        name: Name of the stream, of its folder in the workdir and of the stage that computes it.
        of: Stream of the InputSpec from which it is computed. For a stream with the rule "windows",
            the entries of the chosen frames are taken.
        compute: Function (variables, {stream: (B, t, …) frames}) → (B, t, …), one entry for each
            frame.
        parts: Top-level modules whose variables `compute` needs. One that no stage trains by
            itself has the weights that the last training stage starts from.
        quantized: Whether the values are in [0, 1] and are stored as uint8, 255 · value; otherwise
            they are stored as float32.
        choice: Rule that matches entries with frames (`video.sampling.map_indices`).
        inline: Whether the model computes the stream itself if a batch lacks it. The result equals
            the stored values before rounding.
        outside: Whether another model made the entries. They are pictures in one folder per video
            (`data.map_folder`), and `compute` is not called.
        folder: Parent folder of these folders, for training. For scoring, the folders are passed
            separately.
        size: (height, width) in pixels to which such pictures are resized.
        release: Whether such pictures are rounded like in the PyTorch release.
        batch_size: Number of videos that are computed at once, for training.
    """

    name: str
    of: str
    compute: Callable[[Mapping[str, Tree], Batch], jax.Array]
    parts: tuple[str, ...]
    quantized: bool = False
    choice: str = "matched"
    inline: bool = False
    outside: bool = False
    folder: str = ""
    size: tuple[int, int] = (0, 0)
    release: bool = False
    batch_size: int = 4

    def chosen(self, entries: np.ndarray) -> np.ndarray:
        """Selects the entries of the sampled frames by `choice`.

        Args:
            entries: (n, …), one entry for each sampled frame.

        Returns:
            (n, …) entries.
        """
        return entries[map_indices(np.arange(len(entries)), len(entries), self.choice)]


@dataclasses.dataclass(frozen=True)
class TrainStage:
    """One training stage. `stages.training` runs the stages of all models.

    Attributes:
        name: Name of the stage, of its folder in the workdir and of its section in the config.
        records: Records of the training data. "quality": videos with a MOS; "gaze": frames with
            gaze maps.
        task: Loss and prediction of the stage.
        module: Module that is trained and kept: the complete model, or one network of it.
        model: Model name in a checkpoint of `module` (`Contract.networks`).
        args: Fields from which `module` is built again.
        example: Name → shape of the inputs of `module`, for `init`.
        part: Name of `module` in the complete model; "" if it is the complete model.
        begins_with: Part of the complete model → earlier stage whose result the part starts from.
        streams: Names of the cached streams that a batch contains.
        stored: Whether a batch also contains the stored frames; False for a stage that learns from
            cached streams alone.
        contents: Whether a batch contains `content` and `relative` (`data.loader.QualitySource`).
        frames: Number of stored frames in a training item; 0: all. A video gives a random subset. A
            gaze record gives windows of this many successive frames, each an item.
        best: Validation metric that selects the checkpoint; higher is better.
        sections: Sections of the config that the weights depend on.
        pretrained: Parts that start from published weights.
        otherwise: Other settings to change if there are no records to train on, for the message.
    """

    name: str
    records: str
    task: Task
    module: nn.Module
    model: str
    args: Mapping[str, Any]
    example: Mapping[str, tuple[int, ...]]
    part: str = ""
    begins_with: Mapping[str, str] = dataclasses.field(default_factory=dict)
    streams: tuple[str, ...] = ()
    stored: bool = True
    contents: bool = False
    frames: int = 0
    best: str = "srcc"
    sections: tuple[str, ...] = ()
    pretrained: tuple[Pretrained, ...] = ()
    otherwise: str = ""


@dataclasses.dataclass(frozen=True)
class MapFacts:
    """Description of a map that a model can output.

    Attributes:
        meaning: One line for the reader of a page.
        colours: Name of the matplotlib colour map.
    """

    meaning: str
    colours: str = "inferno"


@dataclasses.dataclass(frozen=True)
class Facts:
    """Description of a model, which `dagr models` prints.

    Attributes:
        title: Name of the model in its paper.
        paper: Authors, title and venue of the paper.
        year: Year of the paper.
        parameters: Number of parameters of the complete model at the size of the paper.
        score: Meaning of the score.
        weights: Location of the published weights, and how to get them; "" if there are none.
        licence: Licence of the published weights; "" if there are none.
        maps: Name → description of each map that the model can output.
    """

    title: str
    paper: str
    year: int
    parameters: int
    score: str
    weights: str = ""
    licence: str = ""
    maps: Mapping[str, MapFacts] = dataclasses.field(default_factory=dict)


class Contract(abc.ABC):
    """Interface of a complete model to the rest of the program."""

    name: str
    facts: Facts
    # Networks that a checkpoint can hold alone: name → (module class with plain-data fields, name
    # of the part in the complete model).
    networks: Mapping[str, tuple[type[nn.Module], str]] = {}
    # Part → {field of its network: default}: fields that change what weights mean, but no shapes. A
    # start from another run must have the same values; a missing one is the default.
    meanings: Mapping[str, Mapping[str, Any]] = {}
    torch: Sequence[TorchNetwork] = ()
    convert_options: Sequence[ConvertOption] = ()

    @abc.abstractmethod
    def build(self, args: Mapping[str, Any]) -> nn.Module:
        """Builds the model.

        `model.apply(variables, inputs)` takes {name: array} of the streams and cached streams, or
        the array of the only stream, and returns `Outputs`.

        Args:
            args: Fields of the model as plain data, as in a checkpoint.

        Raises:
            DagrError: The value of a field is not allowed.
        """

    @abc.abstractmethod
    def default_config(self, dataset: str, recipe: str = "") -> Config:
        """Returns the configuration of a run on a data set.

        Args:
            dataset: Name of the data set.
            recipe: Name of the recipe; "": the default of the data set.
        """

    @abc.abstractmethod
    def tiny_config(self) -> Config:
        """Returns a configuration that trains in seconds, for the tests that run on all models."""

    @abc.abstractmethod
    def inputs(self, config: Config) -> InputSpec:
        """Returns which frames of a video the model of a configuration sees."""

    @abc.abstractmethod
    def model_args(self, config: Config) -> dict[str, Any]:
        """Returns the fields of the complete model of a configuration, as JSON data."""

    @abc.abstractmethod
    def settings(self, config: Config) -> dict[str, Any]:
        """Returns the plain data, besides fields and inputs, that a score depends on.

        `streams` reads it.
        """

    @abc.abstractmethod
    def stages(self, config: Config) -> Sequence[TrainStage | CachedStream]:
        """Returns the training stages and the cached streams between them, in order of execution.

        Raises:
            DagrError: Settings of the configuration contradict each other.
        """

    def streams(
        self, model: nn.Module, inputs: InputSpec, settings: Mapping[str, Any]
    ) -> Sequence[CachedStream]:
        """Returns the cached streams that are needed to score with a checkpoint.

        Args:
            model: Model that `build` returned.
            inputs: Inputs of the model, from the checkpoint.
            settings: Settings of the model, from the checkpoint.
        """
        return ()

    def shared_run(self, base: Config, made: Config) -> Config | None:
        """Returns the run that makes the results that several runs of a sweep share.

        Args:
            base: Configuration of the runs of the sweep, before the changes of each run.
            made: Configuration of one run of the sweep.

        Returns:
            The configuration of a separate run, whose results `adopt` uses. It is the same for all
            runs with the same settings that the shared results depend on. None: nothing is shared.
        """
        return None

    def adopt(self, made: Config, home: str) -> None:
        """Changes a configuration to use the results of a `shared_run`.

        Args:
            made: Configuration of one run of the sweep, which is changed in place.
            home: Working directory of the shared run.
        """
        raise NotImplementedError(f"{self.name} has no shared run")

    def map_size(self, config: Config) -> tuple[int, int] | None:
        """Returns (height, width) of gaze maps and their frames; None for a model without gaze."""
        return None

    def gaze_frames(self, config: Config) -> int:
        """Returns the number of frames of a gaze record; 0: as many as a video's stored frames."""
        return 0

    def assemble(
        self, parts: Mapping[str, Mapping[str, Any]], options: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Returns the fields of the complete model of converted networks.

        Args:
            parts: Part of the model → fields of its network.
            options: Values of all `convert_options`.

        Raises:
            DagrError: A part that the options require is missing, or the model has no parts.
        """
        raise DagrError(f"{self.name} cannot be converted from several networks")

    def converted(self, options: Mapping[str, Any]) -> tuple[InputSpec, dict[str, Any]]:
        """Returns the inputs and settings of a checkpoint of converted weights.

        Args:
            options: Fields of the complete model, and values of all `convert_options`. For one
                network alone, only these values.

        Raises:
            DagrError: Weights of the model cannot be converted, or an option is out of range.
        """
        raise DagrError(f"weights of {self.name} cannot be converted")

    def upgrade(self, meta: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the metadata of a checkpoint of an earlier version in the current format."""
        return dict(meta)
