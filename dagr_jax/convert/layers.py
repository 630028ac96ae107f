"""How a parameter is laid out, by the type of its layer, never by its rank; and who is missing."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from dagr_jax.layers.torch_names import Arrays, Layer
from dagr_jax.runtime.errors import DagrError

Permute = Callable[[np.ndarray], np.ndarray]

# What PyTorch's BatchNorm counts and nothing computes with.
COUNTER = "num_batches_tracked"


class StateDictError(DagrError):
    """A state_dict that does not fit; one line that lists every difference."""


@dataclass(frozen=True)
class Rule:
    """One parameter of a layer type: its key's ending, its place in Flax, its layout."""

    suffix: str
    collection: str
    name: str
    to_flax: Permute
    to_torch: Permute


def _same(a: np.ndarray) -> np.ndarray:
    return a


def _axes(*order: int) -> tuple[Permute, Permute]:
    """A transposition to Flax's axes, and back."""
    back = tuple(int(i) for i in np.argsort(order))
    return lambda a: a.transpose(order), lambda a: a.transpose(back)


_BIAS = Rule(".bias", "params", "bias", _same, _same)

LAYERS: dict[str, tuple[Rule, ...]] = {
    "conv2d": (Rule(".weight", "params", "kernel", *_axes(2, 3, 1, 0)),),
    "conv3d": (Rule(".weight", "params", "kernel", *_axes(2, 3, 4, 1, 0)), _BIAS),
    # A 1×1×1 convolution is a linear map of the channels here.
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
    # The attention's joint projection: PyTorch joins its names with an underscore.
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
    """Converts arrays, after a check of names, shapes and types from both sides.

    Args:
      layers: of the network.
      template: its Flax variables, or their shapes.
      arrays: the state_dict.
      what: the network, for the message.

    Returns:
      variables: as the template, float32 device arrays.
      counters: the values of those 'num_batches_tracked' that are in the state_dict.

    Raises:
      StateDictError: a key is missing, unexpected, or of the wrong shape or type; all are listed.
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
    """PyTorch's state_dict of Flax variables: the inverse of `to_flax`, to the bit.

    Args:
      layers: of the network.
      variables: its variables.
      counters: the 'num_batches_tracked' to write; None writes 0 for every BatchNorm.
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
    """Nested dicts of device arrays of 'a/b/c' → array."""
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        *parents, name = path.split("/")
        node = tree
        for part in parents:
            node = node.setdefault(part, {})
        node[name] = jnp.asarray(value)
    return tree
