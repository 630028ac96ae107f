"""How PyTorch names and sizes parameters: what a model file needs to say which state_dicts are its.

A model file that can be converted holds, beside `Model`:

* `TORCH_KEYS`: beginnings of keys by which a state_dict is told to be of this network;
* `of_torch(arrays)`: the `Model`, preset 'release', of the sizes of a state_dict's arrays;
* `torch_layers(model)`: PyTorch's name of every layer, its path in Flax and its type;
* `describe(model)`: the network in words, for messages.

`dagr_jax.convert` does the rest.
"""

import re
from collections.abc import Mapping

import numpy as np

Arrays = Mapping[str, np.ndarray]

# (PyTorch's name of a layer, its path in Flax, its type: a key of `convert.layers.LAYERS`)
Layer = tuple[str, str, str]


def size(arrays: Arrays, key: str, axis: int, default: int) -> int:
    """Length of an axis; the default where the array is missing (which the conversion reports)."""
    if key in arrays and arrays[key].ndim > axis:
        return arrays[key].shape[axis]
    return default


def numbers(arrays: Arrays, pattern: str) -> list[int]:
    """The numbers that the pattern's group finds at the start of the keys."""
    return [int(m[1]) for m in (re.match(pattern, key) for key in arrays) if m]
