"""What the program asks of a model, and all that it may ask.

A model is one folder under `models/` and one line in `registry.MODELS`. Other packages add models
by the entry-point group `dagr_jax.models`. The `CONTRACT` of the folder is a `Contract`. Training,
scoring, evaluation, pages and conversion ask it and know no model by name.
docs/adding_a_model.md is the checklist.
"""

import abc
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import flax.linen as nn
import jax
from flax import struct

from dagr_jax.layers.torch_names import Arrays, Layer
from dagr_jax.runtime.errors import DagrError
from dagr_jax.video.inputs import InputSpec

Tree = Any  # a nested dict of arrays
Batch = Mapping[str, jax.Array]
Metrics = dict[str, jax.Array]
Config = Any  # ml_collections.ConfigDict, read by attribute


class Outputs(struct.PyTreeNode):
    """What a model gives for a batch of videos.

    Attributes:
        score: (B,) float32, on the [0, 1] scale of the training targets, not clipped.
        maps: Name → (B, T, h, w) in [0, 1]: the maps that the score used. {} where it used none.
        frame_scores: (B, T) score of each frame; None where the model has none.
    """

    # Without types: under `jax.tree.map` the leaves may be anything.
    score: Any
    maps: dict[str, Any] = struct.field(default_factory=dict)
    frame_scores: Any = None


@runtime_checkable
class Task(Protocol):
    """What a training stage computes; pure functions, jitted by `train.mesh`."""

    @property
    def trained(self) -> tuple[str, ...] | None:
        """Top-level modules that are trained; None: all of them."""
        ...

    def loss(
        self, variables: dict[str, Tree], batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, tuple[Tree, Metrics]]:
        """Loss of a batch in training mode → (loss, (new batch_stats, metrics))."""
        ...

    def predict(self, variables: Mapping[str, Tree], batch: Batch) -> jax.Array:
        """Of quality records scores (B,) in [0, 1]; of gaze records maps (B, T, h, w)."""
        ...


@dataclasses.dataclass(frozen=True)
class CachedStream:
    """Output of a frozen network for the frames of a video, computed once and stored.

    It has one entry for each frame that the model sees. In a batch it stands under its name.

    Attributes:
        name: Of the stream, of its folder in the workdir and of the stage that computes it.
        of: Stream of the InputSpec that it is computed from. Of a stream with the rule "windows"
            the entries of the chosen frames are taken.
        compute: (variables, {stream: (B, t, …) frames}) → (B, t, …), one entry for each frame.
        parts: Top-level modules whose variables `compute` needs.
        quantized: Values are in [0, 1] and are stored as uint8, 255 · value; else as float32.
        choice: Which entries go with the frames (`video.sampling.map_indices`).
        inline: Whether the model computes the stream itself where a batch lacks it, with the same
            result as stored values before they are rounded.
        outside: Another model made the entries: pictures in a folder for each video
            (`data.map_folder`); `compute` is not called.
        folder: Where these folders are, for training; a score is given them.
        size: (height, width) that such pictures are resized to.
        release: Whether such pictures are rounded as the PyTorch release rounds them.
        batch_size: Videos that are computed at once, for training.
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


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """Weights of a known architecture that a part of the model starts from.

    Attributes:
        source: File or Hugging Face id; "" for none.
        path: Place of the part in the variables of the stage's module.
        reader: "resnet": torchvision's and timm's names (`convert.load_resnet`).
    """

    source: str
    path: tuple[str, ...]
    reader: str = "resnet"


@dataclasses.dataclass(frozen=True)
class TrainStage:
    """One training stage. `stages.training` runs the stages of all models.

    Attributes:
        name: Of the stage, of its folder in the workdir and of its section in the config.
        records: "quality": videos with a MOS; "gaze": frames with gaze maps.
        task: Loss and prediction.
        module: What is trained and kept: the complete model, or one network of it.
        model: Name that a checkpoint of `module` has as its model (`Contract.networks`).
        args: Fields that build `module` again.
        example: Shapes of the inputs of `module`, by their name, for `init`.
        part: Place of `module` in the complete model; "" where it is the complete model.
        begins_with: Part of the complete model → earlier stage whose result it starts with.
        streams: Names of the cached streams that a batch holds.
        frames: How many of the stored frames a training item has; 0: all.
        best: Validation metric that chooses the checkpoint; higher is better.
        sections: Sections of the config that the weights depend on.
        pretrained: Parts that start from published weights.
        otherwise: What else the user can set where there is nothing to train on, for the error.
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
    frames: int = 0
    best: str = "srcc"
    sections: tuple[str, ...] = ()
    pretrained: tuple[Pretrained, ...] = ()
    otherwise: str = ""


@dataclasses.dataclass(frozen=True)
class MapFacts:
    """A map that a model shows.

    Attributes:
        meaning: One line for the reader of a page.
        colours: Name of a matplotlib colour map.
    """

    meaning: str
    colours: str = "inferno"


@dataclasses.dataclass(frozen=True)
class Facts:
    """What `dagr models` says of a model.

    Attributes:
        title: Name as its paper writes it.
        paper: Authors, title and venue.
        year: Of the paper.
        parameters: Of the complete model at the paper's size.
        score: What the score means.
        weights: Where published weights are, and how to get them; "" where there are none.
        licence: Of the published weights; "" where there are none.
        maps: Name → what the map shows, of all maps that the model can give.
    """

    title: str
    paper: str
    year: int
    parameters: int
    score: str
    weights: str = ""
    licence: str = ""
    maps: Mapping[str, MapFacts] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class TorchNetwork:
    """A network whose PyTorch weights can be converted, both ways.

    Attributes:
        name: Of the network, in checkpoints of it alone.
        keys: Beginnings of keys that a state_dict of it has.
        model: (arrays) → the Flax module of the sizes of a state_dict.
        layers: (module) → PyTorch's name of every layer, its path in Flax and its type.
        describe: (module) → the network in words.
        part: Place of the network in the complete model; "" where it is the complete model.
    """

    name: str
    keys: tuple[str, ...]
    model: Callable[[Arrays], nn.Module]
    layers: Callable[[Any], Any]
    describe: Callable[[Any], str]
    part: str = ""

    def torch_layers(self, module: nn.Module) -> list[Layer]:
        """PyTorch's layers of a module."""
        return list(self.layers(module))


class Contract(abc.ABC):
    """A complete model, as the rest of the program sees it."""

    name: str
    facts: Facts
    # Networks that checkpoints can hold alone: name → (module class of plain-data fields, place in
    # the complete model).
    networks: Mapping[str, tuple[type[nn.Module], str]] = {}
    torch: Sequence[TorchNetwork] = ()

    @abc.abstractmethod
    def build(self, args: Mapping[str, Any]) -> nn.Module:
        """The model of plain-data fields, as a checkpoint holds them.

        `model.apply(variables, inputs)` takes name → array of the streams and cached streams, or
        the array of the only stream, and gives `Outputs`.

        Raises:
            DagrError: A field has a value that it cannot have.
        """

    @abc.abstractmethod
    def default_config(self, dataset: str, recipe: str = "") -> Config:
        """The configuration of a run on a data set; recipe "" is the data set's default."""

    @abc.abstractmethod
    def tiny_config(self) -> Config:
        """A configuration that trains in seconds, for the tests that run over all models."""

    @abc.abstractmethod
    def inputs(self, config: Config) -> InputSpec:
        """Which pictures of a video the model of a configuration sees."""

    @abc.abstractmethod
    def model_args(self, config: Config) -> dict[str, Any]:
        """Fields of the complete model of a configuration, as JSON holds them."""

    @abc.abstractmethod
    def settings(self, config: Config) -> dict[str, Any]:
        """Plain data, besides fields and inputs, that a score depends on; `streams` reads it."""

    @abc.abstractmethod
    def stages(self, config: Config) -> Sequence[TrainStage | CachedStream]:
        """Training stages and the cached streams between them, in the order in which they run.

        Raises:
            DagrError: The configuration contradicts itself; one line.
        """

    def streams(
        self, model: nn.Module, inputs: InputSpec, settings: Mapping[str, Any]
    ) -> Sequence[CachedStream]:
        """The cached streams that a score of a checkpoint needs.

        Args:
            model: Of `build`.
            inputs, settings: As the checkpoint holds them.
        """
        return ()

    def shared_run(self, base: Config, made: Config) -> Config | None:
        """The run that makes what several runs of a sweep have in common.

        Args:
            base: The configuration of a run of the sweep before its changes.
            made: The configuration of one run.

        Returns:
            The configuration of a run of its own, whose stages `adopt` takes over; members that
            differ in nothing that it depends on give the same one. None: nothing is shared.
        """
        return None

    def adopt(self, made: Config, home: str) -> None:
        """Has a configuration take over what a `shared_run` in the folder `home` has made."""
        raise NotImplementedError(f"{self.name} shares no run")

    def map_size(self, config: Config) -> tuple[int, int] | None:
        """(height, width) of gaze maps and of their frames; None for a model without gaze."""
        return None

    def assemble(
        self, parts: Mapping[str, Mapping[str, Any]], options: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Fields of the complete model of converted networks.

        Args:
            parts: Part of the model → fields of its network.
            options: What no file of weights says.

        Raises:
            DagrError: A part that the options need is missing, or the model has no parts.
        """
        raise DagrError(f"{self.name} is not converted from several networks")

    def converted(self, options: Mapping[str, Any]) -> tuple[InputSpec, dict[str, Any]]:
        """Inputs and settings of a checkpoint of converted weights.

        Args:
            options: Fields of the complete model and other options; {} for one network alone.

        Raises:
            DagrError: No weights of the model can be converted.
        """
        raise DagrError(f"{self.name} has no converted weights")

    def upgrade(self, meta: Mapping[str, Any]) -> dict[str, Any]:
        """The metadata of a checkpoint of an earlier version, as this version writes it."""
        return dict(meta)
