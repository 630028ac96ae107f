"""One mesh axis, `data`: the batch is split over it, everything else is replicated.

The same code serves one device, many devices and many hosts. A loss or a BatchNorm written over
the whole batch axis is over the *global* batch: the compiler inserts the reductions.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXIS = "data"


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A one-dimensional mesh over `devices` (default: all devices of all hosts)."""
    return Mesh(np.asarray(jax.devices() if devices is None else list(devices)), (AXIS,))


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Axis 0 is split over the devices, the other axes are whole."""
    return NamedSharding(mesh, PartitionSpec(AXIS))


def check_divides(batch_size: int, mesh: Mesh) -> None:
    """Raises ValueError unless the global batch splits evenly over the devices."""
    if batch_size < 1 or batch_size % mesh.size:
        raise ValueError(
            f"batch_size={batch_size} does not divide over {mesh.size} devices; "
            f"use a multiple of {mesh.size}"
        )


def put_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """This host's slice of the batch → global arrays split over the mesh.

    Args:
      batch: host arrays whose axis 0 is this host's share of the global batch.
      mesh: where they go.
    """
    sharding = batch_sharding(mesh)
    return {
        name: jax.make_array_from_process_local_data(sharding, np.asarray(value))
        for name, value in batch.items()
    }


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Copies a tree of arrays to every device; shares no buffer with its input."""
    return fresh_copy(jax.device_put(tree, replicated(mesh)))


@jax.jit
def fresh_copy(tree: Any) -> Any:
    """The same arrays in buffers of their own.

    `device_put` keeps the buffer where the array already is, even with may_alias=False; the
    first donating train step would then delete it under the array's other owner.
    """
    return jax.tree.map(jnp.copy, tree)


def jit_train_step(step: Callable[..., Any], mesh: Mesh) -> Callable[..., Any]:
    """Compiles `step(state, batch, key) -> (state, metrics)`; the state is donated."""
    whole, split = replicated(mesh), batch_sharding(mesh)
    return jax.jit(
        step,
        in_shardings=(whole, split, whole),
        out_shardings=(whole, whole),
        donate_argnums=0,
    )


def jit_predict(predict: Callable[..., Any], mesh: Mesh) -> Callable[..., Any]:
    """Compiles `predict(variables, batch) -> array (B, …)`; the result is whole on each device."""
    whole, split = replicated(mesh), batch_sharding(mesh)
    return jax.jit(predict, in_shardings=(whole, split), out_shardings=whole)
