"""Pooling: compared with XLA's window maximum, and with golden adaptive pooling of PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dagr_jax.layers.pool import adaptive_avg_pool, max_pool


@pytest.mark.parametrize(("window", "axes"), [(2, (1, 2, 3)), (3, (2, 3))])
@pytest.mark.parametrize("shape", [(2, 8, 5, 7, 3), (1, 1, 2, 3, 2)])
def test_max_pool_is_xlas_window_maximum(window, axes, shape):
    # All values are negative, so that zero padding would be the maximum.
    x = -np.random.default_rng(1).uniform(1, 2, shape).astype(np.float32)

    def reference(x):
        dims, strides, padding = (
            [v if i in axes else u for i in range(5)]
            for v, u in ((window, 1), (2, 1), ((1, 1), (0, 0)))
        )
        return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, dims, strides, padding)

    def pool(x):
        return max_pool(x, window=window, padding=1, axes=axes)

    np.testing.assert_array_equal(pool(x), reference(x))
    mine, theirs = (jax.grad(lambda x, f=f: jnp.square(f(x)).sum())(x) for f in (pool, reference))
    np.testing.assert_allclose(mine, theirs, rtol=1e-6)
    assert [n for i, n in enumerate(pool(x).shape) if i in axes] == [
        (shape[i] + 2 - window) // 2 + 1 for i in axes
    ]


def test_adaptive_pool_is_pytorchs(golden):
    cases = golden("adaptive_pool")
    names = [name.removeprefix("in") for name in cases if name.startswith("in")]
    assert len(names) >= 5
    for name in names:
        x, want = (np.moveaxis(cases[f"{k}{name}"], 1, -1) for k in ("in", "out"))
        got = adaptive_avg_pool(x, want.shape[1:4])
        np.testing.assert_allclose(got, want, atol=1e-6)  # values in [0, 1], float32


def test_adaptive_pool_keeps_the_mean_when_it_divides():
    x = np.random.default_rng(2).uniform(size=(1, 4, 6, 8, 2)).astype(np.float32)
    np.testing.assert_allclose(
        adaptive_avg_pool(x, (1, 1, 1))[0, 0, 0, 0], x.mean((0, 1, 2, 3)), rtol=1e-5
    )
    want = x.reshape(1, 2, 2, 3, 2, 4, 2, 2).mean((2, 4, 6))
    np.testing.assert_allclose(adaptive_avg_pool(x, (2, 3, 4)), want, rtol=1e-5)
