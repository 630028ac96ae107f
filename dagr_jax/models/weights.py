"""Weights that were made elsewhere: published ones to start from, and those of PyTorch networks."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn

from dagr_jax.layers.torch_names import Arrays, Layer


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """Published weights from which a part of the model starts.

    Attributes:
        source: File or Hugging Face id of the weights; "": none.
        path: Path of the part in the variables of the stage's module.
        reader: Format of the weights, a key of `convert.READERS`: "resnet" or "efficientnet".
    """

    source: str
    path: tuple[str, ...]
    reader: str = "resnet"


@dataclasses.dataclass(frozen=True)
class TorchNetwork:
    """A network whose PyTorch weights can be converted in both directions.

    Attributes:
        name: Name of the network in checkpoints of the network alone.
        keys: Prefixes of keys in its state_dict.
        model: Function (arrays of a state_dict) → Flax module of the same sizes.
        layers: Function (module) → for every layer, its name in PyTorch, its path in Flax and its
            type.
        describe: Function (module) → description of the network in words.
        part: Name of the network in the complete model; "" if it is the complete model.
    """

    name: str
    keys: tuple[str, ...]
    model: Callable[[Arrays], nn.Module]
    layers: Callable[[Any], Any]
    describe: Callable[[Any], str]
    part: str = ""

    def torch_layers(self, module: nn.Module) -> list[Layer]:
        """Returns the PyTorch layers of a module."""
        return list(self.layers(module))


@dataclasses.dataclass(frozen=True)
class ConvertOption:
    """An option of `dagr convert`: a fact about a model that its weights files do not contain.

    Attributes:
        name: Name on the command line, without "--", and in the options of `Contract.assemble` and
            `Contract.converted`.
        meaning: Help text.
        default: Default value; its type is that of the option.
        choices: Allowed values; (): all values.
    """

    name: str
    meaning: str
    default: Any
    choices: tuple[Any, ...] = ()
