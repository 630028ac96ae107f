import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dagr_jax.runtime.errors import DagrError
from dagr_jax.train import mesh as meshes
from dagr_jax.train.state import make_optimizer
from dagr_jax.train.steps import make_train_step

from .tiny import optim, same_bits, stage, tiny_state


def test_a_batch_that_does_not_divide_is_refused_with_both_numbers(eight_devices):
    mesh = meshes.make_mesh(eight_devices)
    with pytest.raises(DagrError, match="batch_size=12 cannot be split evenly over 8 devices"):
        meshes.check_divides(12, mesh)
    meshes.check_divides(16, mesh)


def test_batch_is_split_and_state_is_whole(eight_devices):
    mesh = meshes.make_mesh(eight_devices)
    x = meshes.put_batch({"x": np.arange(16.0).reshape(16, 1)}, mesh)["x"]
    assert [s.data.ravel().tolist() for s in x.addressable_shards[:2]] == [[0, 1], [2, 3]]
    whole = meshes.replicate(jnp.arange(3), mesh)
    assert all(s.data.tolist() == [0, 1, 2] for s in whole.addressable_shards)


def test_donation_leaves_the_callers_arrays_alone():
    mesh = meshes.make_mesh(jax.devices()[:1])
    config = stage()
    task, state = tiny_state(config)
    before = jax.tree.map(np.array, state)
    step = meshes.jit_train_step(
        make_train_step(task.loss, make_optimizer(config.optim, config.steps)), mesh
    )
    batch = meshes.put_batch(
        {"x": np.ones((8, 4), np.float32), "target": np.ones(8, np.float32)}, mesh
    )
    own = meshes.replicate(state, mesh)
    new, _ = step(own, batch, jax.random.key(0))
    assert own.params["Dense_0"]["kernel"].is_deleted()
    assert int(new.step) == 1
    assert same_bits(before, state)


def test_eight_devices_give_the_numbers_of_one(eight_devices):
    config = stage(optim=optim(warmup_steps=0))
    task, state = tiny_state(config, dropout=0.5)
    rng = np.random.default_rng(0)
    batch = {
        "x": rng.normal(size=(16, 4)).astype(np.float32),
        "target": rng.normal(size=16).astype(np.float32),
    }
    results = []
    for devices in (eight_devices[:1], eight_devices):
        mesh = meshes.make_mesh(devices)
        tx = make_optimizer(config.optim, config.steps)
        step = meshes.jit_train_step(make_train_step(task.loss, tx), mesh)
        new, metrics = step(
            meshes.replicate(state, mesh), meshes.put_batch(batch, mesh), jax.random.key(1)
        )
        results.append(jax.device_get((new.params, metrics)))
    # Only the order of float32 sums differs; the dropout mask is the same.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-6), *results)
