"""Layout of parameters by layer type, never by rank, and the check for missing parameters."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from dagr_jax.layers.torch_names import Arrays, Layer
from dagr_jax.runtime.errors import DagrError

Permute = Callable[[np.ndarray], np.ndarray]

# Counter of PyTorch's BatchNorm that does not affect any output.
COUNTER = "num_batches_tracked"


class StateDictError(DagrError):
    """A state_dict does not match the network. The message is one line with all differences."""


@dataclass(frozen=True)
class Rule:
    """Conversion rule of one parameter of a layer type.

    Attributes:
        suffix: Suffix of PyTorch's key after the name of the layer.
        collection: Flax collection, "params" or "batch_stats".
        name: Name of the parameter in Flax.
        to_flax: Function that converts the array to Flax's layout.
        to_torch: Function that converts the array to PyTorch's layout.
    """

    suffix: str
    collection: str
    name: str
    to_flax: Permute
    to_torch: Permute


def _same(a: np.ndarray) -> np.ndarray:
    return a


def _axes(*order: int) -> tuple[Permute, Permute]:
    """Returns the transposition to Flax's axes, and its inverse."""
    back = tuple(int(i) for i in np.argsort(order))
    return lambda a: a.transpose(order), lambda a: a.transpose(back)


_BIAS = Rule(".bias", "params", "bias", _same, _same)

LAYERS: dict[str, tuple[Rule, ...]] = {
    "conv2d": (Rule(".weight", "params", "kernel", *_axes(2, 3, 1, 0)),),
    "conv3d": (Rule(".weight", "params", "kernel", *_axes(2, 3, 4, 1, 0)), _BIAS),
    # In Flax, a 1×1×1 convolution is a linear map of the channels.
    "conv1x1x1": (
        Rule(
            ".weight",
            "params",
            "kernel",
            lambda a: a[:, :, 0, 0, 0].T,
            lambda a: a.T[:, :, None, None, None],
        ),
        _BIAS,
    ),
    "linear": (Rule(".weight", "params", "kernel", *_axes(1, 0)), _BIAS),
    # Joint projection of the attention: PyTorch's keys have an underscore instead of a dot.
    "in_proj": (
        Rule("_weight", "params", "kernel", *_axes(1, 0)),
        Rule("_bias", "params", "bias", _same, _same),
    ),
    "layernorm": (Rule(".weight", "params", "scale", _same, _same), _BIAS),
    "batchnorm": (
        Rule(".weight", "params", "scale", _same, _same),
        _BIAS,
        Rule(".running_mean", "batch_stats", "mean", _same, _same),
        Rule(".running_var", "batch_stats", "var", _same, _same),
    ),
    "tokens": (
        Rule(
            "", "params", "tokens", lambda a: a[0, :, :, 0, 0], lambda a: a[None, :, :, None, None]
        ),
    ),
}


def to_flax(
    layers: Iterable[Layer], template: Mapping[str, Any], arrays: Arrays, what: str
) -> tuple[dict[str, Any], dict[str, int]]:
    """Converts arrays, after a two-sided check of names, shapes and types.

    Args:
        layers: Layers of the network.
        template: Flax variables of the network, or their shapes.
        arrays: Arrays of the state_dict.
        what: Description of the network, for messages.

    Returns:
        variables: Tree like the template, with float32 device arrays.
        counters: {key: value} of the 'num_batches_tracked' in the state_dict.

    Raises:
        StateDictError: A key is missing, unexpected, or has the wrong shape or type. The message
            lists all of them.
    """
    flat: dict[str, np.ndarray] = {}
    counters: dict[str, int] = {}
    known: set[str] = set()
    missing, misshapen, mistyped = [], [], []
    for torch_name, path, kind in layers:
        if kind == "batchnorm" and (key := f"{torch_name}.{COUNTER}") in arrays:
            known.add(key)
            count = arrays[key]
            if count.shape != ():
                misshapen.append(f"{key} {count.shape} instead of ()")
            elif count.dtype.kind not in "iuf" or count != np.floor(count):
                mistyped.append(f"{key} {count.dtype} instead of int64")
            else:
                counters[key] = int(count)
        for rule in LAYERS[kind]:
            key, place = torch_name + rule.suffix, f"{rule.collection}/{path}/{rule.name}"
            known.add(key)
            shape = _torch_shape(rule, _leaf(template, place).shape)
            if key not in arrays:
                missing.append(key)
            elif arrays[key].shape != shape:
                misshapen.append(f"{key} {arrays[key].shape} instead of {shape}")
            elif arrays[key].dtype != np.float32:
                mistyped.append(f"{key} {arrays[key].dtype} instead of float32")
            else:
                flat[place] = rule.to_flax(arrays[key])
    problems = {
        "missing": missing,
        "unexpected": [key for key in arrays if key not in known],
        "wrong shape": misshapen,
        "wrong type": mistyped,
    }
    if any(problems.values()):
        listed = "; ".join(f"{kind}: {', '.join(keys)}" for kind, keys in problems.items() if keys)
        raise StateDictError(f"the state_dict does not fit {what}: {listed}")
    return _nest(flat), counters


def to_torch(
    layers: Iterable[Layer], variables: Mapping[str, Any], counters: Mapping[str, int] | None
) -> dict[str, np.ndarray]:
    """Converts Flax variables to a PyTorch state_dict: the exact inverse of `to_flax`.

    Args:
        layers: Layers of the network.
        variables: Flax variables of the network.
        counters: {key: value} of the 'num_batches_tracked' to write. None: 0 for every BatchNorm.

    Returns:
        {PyTorch's key: array}.
    """
    arrays: dict[str, np.ndarray] = {}
    for torch_name, path, kind in layers:
        for rule in LAYERS[kind]:
            value = np.asarray(_leaf(variables, f"{rule.collection}/{path}/{rule.name}"))
            arrays[torch_name + rule.suffix] = np.ascontiguousarray(rule.to_torch(value))
        if kind == "batchnorm":
            key = f"{torch_name}.{COUNTER}"
            if counters is None or key in counters:
                arrays[key] = np.array(0 if counters is None else counters[key], np.int64)
    return arrays


def _torch_shape(rule: Rule, shape: tuple[int, ...]) -> tuple[int, ...]:
    return rule.to_torch(np.broadcast_to(np.float32(0), shape)).shape


def _leaf(tree: Mapping[str, Any], path: str) -> Any:
    for part in path.split("/"):
        tree = tree[part]
    return tree


def _nest(flat: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Converts {'a/b/c': array} to nested dicts of device arrays."""
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        *parents, name = path.split("/")
        node = tree
        for part in parents:
            node = node.setdefault(part, {})
        node[name] = jnp.asarray(value)
    return tree
