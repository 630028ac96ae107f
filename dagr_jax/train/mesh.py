"""One mesh axis, `data`: the batch is split over it, everything else is replicated.

The same code serves one device, many devices and many hosts. A loss or a BatchNorm written over
the whole batch axis is over the *global* batch: the compiler inserts the reductions.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dagr_jax.runtime.errors import DagrError

AXIS = "data"


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A one-dimensional mesh over `devices` (default: all devices of all hosts).

    Those of a host stand in a row, so that its share of a batch is one slice of it.
    """
    if devices is None:
        devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    return Mesh(np.asarray(list(devices)), (AXIS,))


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Axis 0 is split over the devices, the other axes are whole."""
    return NamedSharding(mesh, PartitionSpec(AXIS))


def check_divides(batch_size: int, mesh: Mesh) -> None:
    """Raises DagrError unless the global batch splits evenly over the devices."""
    if batch_size < 1 or batch_size % mesh.size:
        raise DagrError(
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


def put_whole(tree: Any, mesh: Mesh) -> Any:
    """A tree of arrays → the same on every device; with several hosts those of process 0.

    Hosts compute the same values up to rounding, and replicas must not differ by that.
    """
    sharding = replicated(mesh)
    # What spans hosts already is moved as it is; a host's own arrays cannot be put elsewhere.
    if sharding.is_fully_addressable or any(
        isinstance(x, jax.Array) and not x.is_fully_addressable for x in jax.tree.leaves(tree)
    ):
        return jax.device_put(tree, sharding)
    return jax.tree.map(
        lambda x: jax.make_array_from_process_local_data(sharding, x),
        multihost_utils.broadcast_one_to_all(tree),
    )


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Copies a tree of arrays to every device; shares no buffer with its input."""
    return fresh_copy(put_whole(tree, mesh))


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
