"""PyTorch state_dicts of the release ↔ Flax models and variables.

Source of the names: docs/reference.md, sections 2 and 3. Five networks are recognised by their
keys: the saliency network with and without registers, and the full, spatial-only and temporal-only
quality networks. Sizes are read from the arrays.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dagr_jax import registry
from dagr_jax.convert import layers
from dagr_jax.convert.layers import StateDictError
from dagr_jax.layers.torch_names import Arrays
from dagr_jax.models.weights import TorchNetwork

# Keys under which training scripts store the state_dict in a checkpoint.
CONTAINERS = ("model_state_dict", "state_dict")


@dataclass(frozen=True)
class Network:
    """A converted network.

    Attributes:
      name: of the network (`TorchNetwork.name`).
      model: the Flax module.
      variables: {'params', 'batch_stats'}, float32; without 'batch_stats' where there are none.
      counters: PyTorch's 'num_batches_tracked', so that the way back is exact.
    """

    name: str
    model: nn.Module
    variables: dict[str, Any]
    counters: dict[str, int]


def from_state_dict(arrays: Mapping[str, Any]) -> tuple[nn.Module, dict[str, Any]]:
    """Converts a state_dict of the PyTorch release.

    Keys may have the prefix 'module.' or '_orig_mod.', and the state_dict may be the entry
    'model_state_dict' or 'state_dict' of a checkpoint. 'num_batches_tracked' is optional. The
    number of attention heads cannot be read from the arrays; it is that of the release, 4 in the
    full network and 1 in the temporal-only network.

    Args:
        arrays: {name: float32 array}.

    Returns:
        model: Flax module of the network with the arithmetic of the release and the sizes of the
            arrays.
        variables: {'params', 'batch_stats'}, float32. 'batch_stats' is missing if there are none.

    Raises:
        StateDictError: The network is none of the five, or keys are missing, unexpected, or have
            the wrong shape or type. The message lists all of them.
    """
    network = read_network(arrays)
    return network.model, network.variables


def read_network(arrays: Mapping[str, Any]) -> Network:
    """Converts a state_dict of the PyTorch release, like `from_state_dict`.

    Args:
        arrays: {name: float32 array}.

    Returns:
        The network with its name and the BatchNorm counters.

    Raises:
        StateDictError: The network is unknown, or keys do not match.
    """
    stripped = strip(arrays)
    network = _recognise(stripped)
    model = network.model(stripped)
    video = jax.ShapeDtypeStruct((1, 2, 32, 32, 3), jnp.float32)
    try:
        template = jax.eval_shape(model.init, jax.random.key(0), video)
    except (ValueError, TypeError, ZeroDivisionError) as error:
        raise StateDictError(f"the sizes in the state_dict fit no network: {error}") from error
    variables, counters = layers.to_flax(
        network.torch_layers(model), template, stripped, network.describe(model)
    )
    return Network(network.name, model, variables, counters)


def to_state_dict(
    name: str,
    model: nn.Module,
    variables: Mapping[str, Any],
    counters: Mapping[str, int] | None = None,
) -> dict[str, np.ndarray]:
    """Converts a network to a state_dict of the release: the exact inverse of `from_state_dict`.

    Args:
      name: of the network (`TorchNetwork.name`).
      model: Flax module of the network.
      variables: {'params', 'batch_stats'}.
      counters: 'num_batches_tracked' by key; None writes 0 for every BatchNorm.
    """
    return layers.to_torch(torch_network(name).torch_layers(model), variables, counters)


_WRAPPERS = ("module.", "_orig_mod.")


def strip(arrays: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Extracts the state_dict of a checkpoint, and removes the prefixes of wrappers from its names.

    PyTorch's parallel wrappers add 'module.', and torch.compile adds '_orig_mod.'.

    Args:
        arrays: Contents of the checkpoint.

    Returns:
        {name: numpy array}.

    Raises:
        StateDictError: An entry is not an array, or not finite; or two have the same name.
    """
    for container in CONTAINERS:
        if isinstance(arrays.get(container), Mapping):
            arrays = arrays[container]
            break
    stripped: dict[str, np.ndarray] = {}
    for key, value in arrays.items():
        name = key
        while name.startswith(_WRAPPERS):
            name = name.partition(".")[2]
        if name in stripped:
            raise StateDictError(f"the state_dict holds {name} twice, with and without 'module.'")
        if not hasattr(value, "shape"):
            raise StateDictError(f"{key} is of type {type(value).__name__}, not an array")
        stripped[name] = np.asarray(value)
        if stripped[name].dtype.kind == "f" and not np.isfinite(stripped[name]).all():
            raise StateDictError(
                f"{key} holds values that are not finite; convert a checkpoint from before the "
                "training diverged"
            )
    return stripped


def torch_networks() -> dict[str, TorchNetwork]:
    """Name → network, of all models, whose PyTorch weights are known."""
    return {one.name: one for name in registry.models() for one in registry.contract(name).torch}


def torch_network(name: str) -> TorchNetwork:
    """A network by its name."""
    return torch_networks()[name]


def _recognise(arrays: Arrays) -> TorchNetwork:
    """The network that the keys belong to."""
    known = torch_networks().values()
    for network in known:
        if any(key.startswith(network.keys) for key in arrays):
            return network
    wanted = ", ".join(f"{key}*" for network in known for key in network.keys)
    some = ", ".join(list(arrays)[:3]) or "no key at all"
    raise StateDictError(
        f"the state_dict is none of the known networks: it has none of {wanted} but {some}"
    )
