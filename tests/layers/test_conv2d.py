"""2-D convolution: value and gradients compared with XLA's, which the CPU form replaces."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dagr_jax.layers import conv2d as conv2d_form
from dagr_jax.layers.conv2d import Conv2D, conv2d


def plain(x, kernel):
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def value_and_gradients(conv, x, kernel):
    def loss(x, kernel):
        y = conv(x, kernel)
        direction = jnp.cos(jnp.arange(y.size, dtype=jnp.result_type(float))).reshape(y.shape)
        return (y * direction.astype(y.dtype)).astype(float).sum(), y

    (_, y), grads = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(x, kernel)
    assert [g.dtype for g in grads] == [x.dtype, kernel.dtype]
    return [np.asarray(a, np.float64) for a in (y, *grads)]


def off(ours, exact):
    """Largest difference, relative to the largest value."""
    return max(np.abs(a - b).max() / np.abs(b).max() for a, b in zip(ours, exact, strict=True))


@pytest.mark.parametrize("chunk", [1024, 7])  # one piece, and many pieces with a remainder
@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize(
    "shape", [(1, 1, 1, 2), (2, 1, 5, 3), (1, 4, 1, 1), (3, 5, 7, 4), (2, 9, 13, 1)]
)
def test_value_and_gradients_are_xlas(shape, size, chunk, monkeypatch):
    monkeypatch.setattr(conv2d_form, "_CHUNK", chunk)
    rng = np.random.default_rng(sum(shape))
    x, kernel = rng.standard_normal(shape), rng.standard_normal((size, size, shape[-1], 5))
    with jax.enable_x64(True):
        exact = value_and_gradients(plain, x, kernel)
        assert off(value_and_gradients(conv2d, x, kernel), exact) < 1e-12
    single = x.astype(np.float32), kernel.astype(np.float32)
    assert off(value_and_gradients(conv2d, *single), exact) < 1e-5
    half = [jnp.asarray(a, jnp.bfloat16) for a in (x, kernel)]
    # bfloat16 keeps 8 bits: input, kernel and result are rounded.
    assert off(value_and_gradients(conv2d, *half), exact) < 2e-2


def test_bfloat16_gradients_of_many_pixels_keep_their_digits():
    """The sum of 10,000 ones needs float32: bfloat16 counts only to 256."""
    x = jnp.ones((1, 100, 100, 1), jnp.bfloat16)
    kernel = jnp.ones((1, 1, 1, 1), jnp.bfloat16)
    gradient = jax.grad(lambda kernel: conv2d(x, kernel).astype(jnp.float32).sum())(kernel)
    assert abs(float(gradient[0, 0, 0, 0]) - 10_000) <= 16  # half a bfloat16 step at 10,000 is 32


@pytest.mark.parametrize(("size", "stride"), [(1, 1), (1, 2), (3, 1), (3, 2), (7, 2)])
def test_the_layer_is_flaxs(size, stride):
    x = np.random.default_rng(size).standard_normal((2, 9, 12, 3)).astype(np.float32)
    ours = Conv2D(4, size, stride)
    theirs = nn.Conv(4, (size, size), stride, padding=[(size // 2, size // 2)] * 2, use_bias=False)
    variables = ours.init(jax.random.key(0), x)
    jax.tree.map(np.testing.assert_array_equal, variables, theirs.init(jax.random.key(0), x))

    def run(layer):
        return jax.value_and_grad(lambda v: jnp.sin(layer.apply(v, x)).sum())(variables)

    # Sums of 3 to 147 products and of 140 pixels in float32.
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
        *map(run, (ours, theirs)),
    )
