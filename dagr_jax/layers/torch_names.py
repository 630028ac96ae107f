"""PyTorch's names and shapes of parameters, with which a model file recognises its state_dicts.

A model file that supports conversion defines, in addition to `Model`:

* `TORCH_KEYS`: key prefixes that identify a state_dict of this network;
* `of_torch(arrays)`: makes the `Model`, preset 'release', with the sizes of a state_dict's arrays;
* `torch_layers(model)`: PyTorch's name of every layer, its path in Flax and its type;
* `describe(model)`: describes the network in words, for messages.

`dagr_jax.convert` does the conversion.
"""

import re
from collections.abc import Mapping

import numpy as np

Arrays = Mapping[str, np.ndarray]

# (PyTorch's name of a layer, its path in Flax, its type: a key of `convert.layers.LAYERS`)
Layer = tuple[str, str, str]


def size(arrays: Arrays, key: str, axis: int, default: int) -> int:
    """Returns the length of an axis of an array.

    Args:
        arrays: Arrays of the state_dict.
        key: Key of the array.
        axis: Axis of the array.
        default: Value if the array is missing; the conversion reports the missing array later.
    """
    if key in arrays and arrays[key].ndim > axis:
        return arrays[key].shape[axis]
    return default


def numbers(arrays: Arrays, pattern: str) -> list[int]:
    """Returns the number in the first group of `pattern`, for every key that starts with a match.

    Args:
        arrays: Arrays of the state_dict.
        pattern: Regular expression with one group of digits.
    """
    return [int(m[1]) for m in (re.match(pattern, key) for key in arrays) if m]
