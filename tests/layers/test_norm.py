"""BatchNorm: PyTorch's conventions, float32 statistics, same result on one and eight devices."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dagr_jax.layers.norm import BatchNorm


def variables_of(channels: int) -> dict:
    rng = np.random.default_rng(0)
    scale, bias, mean, var = rng.uniform(0.5, 1.5, (4, channels)).astype(np.float32)
    return {
        "params": {"scale": scale, "bias": bias},
        "batch_stats": {"mean": mean, "var": var},
    }


def train(x, variables):
    return BatchNorm().apply(variables, x, train=True, mutable=["batch_stats"])


def test_training_normalises_and_keeps_the_unbiased_variance():
    x = np.random.default_rng(1).normal(3, 2, (4, 5, 3)).astype(np.float32)
    variables = variables_of(3)
    params, old = variables["params"], variables["batch_stats"]
    y, updates = train(x, variables)
    flat = x.reshape(20, 3).astype(np.float64)
    want = (x - flat.mean(0)) / np.sqrt(flat.var(0) + 1e-5) * params["scale"] + params["bias"]
    np.testing.assert_allclose(y, want, atol=1e-5)
    new = updates["batch_stats"]
    np.testing.assert_allclose(new["mean"], 0.9 * old["mean"] + 0.1 * flat.mean(0), rtol=1e-5)
    np.testing.assert_allclose(new["var"], 0.9 * old["var"] + 0.1 * flat.var(0, ddof=1), rtol=1e-5)


def test_evaluation_uses_the_running_statistics():
    x = np.random.default_rng(2).normal(size=(7, 3)).astype(np.float32)
    variables = variables_of(3)
    params, stats = variables["params"], variables["batch_stats"]
    want = (x - stats["mean"]) / np.sqrt(stats["var"] + 1e-5) * params["scale"] + params["bias"]
    np.testing.assert_allclose(BatchNorm().apply(variables, x), want, atol=1e-6)


def test_statistics_of_bfloat16_are_float32():
    """A mean of 1000 with deviations of 8, which bfloat16 sums would lose."""
    x = jnp.asarray(np.random.default_rng(3).normal(1000, 8, (512, 2)), jnp.bfloat16)
    y, updates = train(x, variables_of(2))
    assert y.dtype == jnp.bfloat16
    assert updates["batch_stats"]["var"].dtype == jnp.float32
    exact = np.asarray(x, np.float64)
    new_var = 0.9 * variables_of(2)["batch_stats"]["var"] + 0.1 * exact.var(0, ddof=1)
    np.testing.assert_allclose(updates["batch_stats"]["var"], new_var, rtol=1e-4)


def test_a_sharded_batch_has_the_statistics_of_the_whole():
    devices = jax.devices()
    x = np.random.default_rng(4).normal(size=(4 * len(devices), 3, 2)).astype(np.float32)
    x += np.arange(len(x), dtype=np.float32)[:, None, None]  # every device has a different mean
    sharding = NamedSharding(Mesh(np.array(devices), ("data",)), PartitionSpec("data"))
    want, want_updates = jax.jit(train)(x, variables_of(2))
    got, updates = jax.jit(train)(jax.device_put(x, sharding), variables_of(2))
    np.testing.assert_allclose(got, want, atol=1e-5)
    np.testing.assert_allclose(
        updates["batch_stats"]["var"], want_updates["batch_stats"]["var"], rtol=1e-5
    )


def test_a_single_value_a_channel_stays_finite():
    y, updates = train(np.ones((1, 2), np.float32), variables_of(2))
    np.testing.assert_allclose(y[0], variables_of(2)["params"]["bias"], atol=1e-6)
    assert np.isfinite(updates["batch_stats"]["var"]).all()
