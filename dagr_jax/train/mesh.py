"""One mesh axis, `data`: the batch is split over it, everything else is replicated.

The same code runs on one device, many devices and many hosts. A loss or a BatchNorm over the whole
batch axis is computed over the *global* batch: the compiler inserts the reductions.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dagr_jax.runtime import machine
from dagr_jax.runtime.errors import DagrError

AXIS = "data"


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Makes a one-dimensional mesh.

    By default, the devices of one host are consecutive, so that the host's share of a batch is one
    slice of the batch.

    Args:
        devices: Devices of the mesh; None: all devices of all hosts.
    """
    if devices is None:
        devices = sorted(machine.devices(), key=lambda device: (device.process_index, device.id))
    return Mesh(np.asarray(list(devices)), (AXIS,))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding with the whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding with axis 0 split over the devices; the other axes are not split."""
    return NamedSharding(mesh, PartitionSpec(AXIS))


def check_divides(batch_size: int, mesh: Mesh) -> None:
    """Raises DagrError if the global batch cannot be split evenly over the devices."""
    if batch_size < 1 or batch_size % mesh.size:
        raise DagrError(
            f"batch_size={batch_size} cannot be split evenly over {mesh.size} devices; "
            f"use a multiple of {mesh.size}"
        )


def put_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Makes global arrays, split over the mesh, from this host's slice of the batch.

    Args:
        batch: Name → host array. Axis 0 is this host's share of the global batch.
        mesh: Mesh of devices.

    Returns:
        Name → global array, with axis 0 of the length of the global batch.
    """
    sharding = batch_sharding(mesh)
    return {
        name: jax.make_array_from_process_local_data(sharding, np.asarray(value))
        for name, value in batch.items()
    }


def put_whole(tree: Any, mesh: Mesh) -> Any:
    """Puts a tree of arrays on every device; with several hosts, the arrays of process 0.

    Values that hosts compute can differ by rounding, and replicas must not differ.

    Args:
        tree: Tree of arrays.
        mesh: Mesh of devices.

    Returns:
        The replicated tree. It may share buffers with `tree`.
    """
    sharding = replicated(mesh)
    # Arrays that already span hosts can be moved directly. Arrays of one host cannot be put on the
    # devices of other hosts.
    if sharding.is_fully_addressable or any(
        isinstance(x, jax.Array) and not x.is_fully_addressable for x in jax.tree.leaves(tree)
    ):
        return jax.device_put(tree, sharding)
    return jax.tree.map(
        lambda x: jax.make_array_from_process_local_data(sharding, x),
        multihost_utils.broadcast_one_to_all(tree),
    )


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Copies a tree of arrays to every device. The copy shares no buffer with the input."""
    return fresh_copy(put_whole(tree, mesh))


@jax.jit
def fresh_copy(tree: Any) -> Any:
    """Returns copies of the arrays in new buffers.

    `device_put` reuses the buffer of an array that is already in place, even with may_alias=False.
    The first train step donates its state, and would delete that buffer for the other owner.
    """
    return jax.tree.map(jnp.copy, tree)


def jit_train_step(step: Callable[..., Any], mesh: Mesh) -> Callable[..., Any]:
    """Compiles `step(state, batch, key) -> (state, metrics)`. The state is donated."""
    whole, split = replicated(mesh), batch_sharding(mesh)
    return jax.jit(
        step,
        in_shardings=(whole, split, whole),
        out_shardings=(whole, whole),
        donate_argnums=0,
    )


def jit_predict(predict: Callable[..., Any], mesh: Mesh) -> Callable[..., Any]:
    """Compiles `predict(variables, batch) -> array (B, …)`. Each device holds the whole result."""
    whole, split = replicated(mesh), batch_sharding(mesh)
    return jax.jit(predict, in_shardings=(whole, split), out_shardings=whole)
