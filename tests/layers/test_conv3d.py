"""3-D convolution: every form compared with XLA's own."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dagr_jax.layers import conv3d as conv3d_form
from dagr_jax.layers.conv3d import conv3d, field_conv3d, upsampled_conv3d
from dagr_jax.runtime.errors import DagrError


def conv_and_gradients(form, *arguments, conv=conv3d):
    """Returns the output, and gradients of its product with a random direction."""

    def loss(*arguments):
        y = conv(*arguments, form)
        # Not in the type of y, because bfloat16 counts only to 256.
        direction = jnp.cos(jnp.arange(y.size, dtype=jnp.result_type(float))).reshape(y.shape)
        return (y * direction.astype(y.dtype)).astype(float).sum(), y

    everything = tuple(range(len(arguments)))
    (_, y), grads = jax.jit(jax.value_and_grad(loss, everything, has_aux=True))(*arguments)
    return [np.asarray(a, np.float64) for a in (y, *grads)]


def off(ours, plain):
    """Largest difference, relative to the largest value."""
    return max(np.abs(a - b).max() / np.abs(b).max() for a, b in zip(ours, plain, strict=True))


@functools.cache
def plain_convolution(shape):
    """Makes input and kernel of a shape, and XLA's results in float32 and float64."""
    rng = np.random.default_rng(sum(shape))
    both = rng.standard_normal(shape), rng.standard_normal((3, 3, 3, shape[-1], 4))
    single = conv_and_gradients("native", *(a.astype(np.float32) for a in both))
    with jax.enable_x64(True):
        return both, single, conv_and_gradients("native", *both)


@pytest.mark.parametrize("form", ["taps", "winograd", "mixed"])
@pytest.mark.parametrize(
    "shape",
    [
        (1, 1, 5, 3, 2),
        pytest.param((2, 2, 3, 7, 5), marks=pytest.mark.slow),
        (2, 3, 4, 5, 1),
        pytest.param((1, 5, 7, 3, 6), marks=pytest.mark.slow),
        (1, 6, 1, 5, 3),
        pytest.param((2, 7, 3, 3, 4), marks=pytest.mark.slow),
        (1, 8, 5, 7, 3),
        pytest.param((1, 13, 3, 2, 2), marks=pytest.mark.slow),
    ],
)
def test_every_form_is_the_plain_convolution_in_value_and_gradient(form, shape):
    both, plain, exact = plain_convolution(shape)
    assert off(conv_and_gradients(form, *(a.astype(np.float32) for a in both)), plain) < 1e-5
    if form == "taps":  # bfloat16's
        half = [jnp.asarray(a, jnp.bfloat16) for a in both]
        # bfloat16 has 8 bits; sums of some dozen products and the transforms lose two more.
        assert off(conv_and_gradients(form, *half), plain) < 2e-2
    with jax.enable_x64(True):
        assert off(conv_and_gradients(form, *both), exact) < 1e-12


def both_forms_agree(conv, *arguments):
    single = [a.astype(np.float32) for a in arguments]
    plain = conv_and_gradients("native", *single, conv=conv)
    assert off(conv_and_gradients("winograd", *single, conv=conv), plain) < 1e-5
    with jax.enable_x64(True):
        exact = conv_and_gradients("native", *arguments, conv=conv)
        assert off(conv_and_gradients("winograd", *arguments, conv=conv), exact) < 1e-12


@pytest.mark.parametrize(
    ("small", "large"),
    [
        # As after a pooling layer of the network, n → ⌊n/2⌋ + 1.
        pytest.param((1, 5, 4, 6), (1, 8, 7, 11), marks=pytest.mark.slow),
        ((2, 2, 3, 3), (2, 2, 5, 4)),
        pytest.param((1, 2, 2, 5), (1, 3, 3, 8), marks=pytest.mark.slow),
        pytest.param((1, 1, 3, 2), (1, 1, 5, 3), marks=pytest.mark.slow),
        # One axis keeps its size, one shrinks.
        pytest.param((1, 3, 5, 7), (1, 4, 5, 3), marks=pytest.mark.slow),
    ],
)
def test_the_enlarged_half_is_convolved_where_it_is_small(small, large, monkeypatch):
    monkeypatch.setattr(conv3d_form, "_WORTH_MIXING", 1)
    rng = np.random.default_rng(sum(small))
    low, x = rng.standard_normal((*small, 3)), rng.standard_normal((*large, 2))
    both_forms_agree(upsampled_conv3d, low, x, rng.standard_normal((3, 3, 3, 5, 4)))


@pytest.mark.parametrize(
    "size",
    [
        (4, 3, 3),
        pytest.param((2, 5, 4), marks=pytest.mark.slow),
        pytest.param((8, 2, 6), marks=pytest.mark.slow),
        (1, 7, 3),
    ],
)
def test_constant_channels_are_not_convolved(size):
    rng = np.random.default_rng(sum(size))
    field, x = rng.standard_normal((size[0], 2)), rng.standard_normal((2, *size, 3))
    both_forms_agree(field_conv3d, field, x, rng.standard_normal((3, 3, 3, 5, 4)))


def test_large_sums_keep_their_digits():
    """As in the network: 27 · 64 products per sum, eight frames."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, 8, 12, 12, 64)).astype(np.float32)
    kernel = (rng.standard_normal((3, 3, 3, 64, 32)) / 40).astype(np.float32)
    with jax.enable_x64(True):
        exact = conv_and_gradients("native", x.astype(np.float64), kernel.astype(np.float64))
    assert off(conv_and_gradients("native", x, kernel), exact) < 2e-6
    assert off(conv_and_gradients("winograd", x, kernel), exact) < 5e-6


def test_auto_is_one_of_the_others():
    assert conv3d_form.fastest_form(np.float32, train=False) == "winograd"
    assert conv3d_form.fastest_form(np.float32, train=True) == "mixed"
    assert conv3d_form.fastest_form(jnp.bfloat16, train=True) == "taps"
    assert conv3d_form.fastest_form(jnp.bfloat16, train=False) == "taps"
    x, kernel = np.ones((1, 4, 3, 3, 2), np.float32), np.ones((3, 3, 3, 2, 2), np.float32)
    np.testing.assert_array_equal(conv3d(x, kernel), conv3d(x, kernel, "winograd"))


def test_each_tap_looks_at_its_own_neighbour():
    """A kernel with one entry shifts the video: tap 0 by one frame, row 2 by one row."""
    x = np.random.default_rng(0).standard_normal((1, 3, 4, 4, 1)).astype(np.float32)
    kernel = np.zeros((3, 3, 3, 1, 1), np.float32)
    kernel[0, 2, 1] = 1
    want = np.zeros_like(x)
    want[:, 1:, :-1] = x[:, :-1, 1:]
    np.testing.assert_array_equal(conv3d(x, kernel, "taps"), want)


def test_unknown_form_is_refused():
    with pytest.raises(
        DagrError, match="form 'fft' is unknown; use one of auto, native, taps, winograd, mixed"
    ):
        conv3d(np.zeros((1, 1, 3, 3, 1)), np.zeros((3, 3, 3, 1, 1)), "fft")
