"""3-D primitives that are fast on XLA: convolution, max-pooling, adaptive average pooling.

All take channels last, (B, T, H, W, C).
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dagr_jax.models.linear import fan_in_uniform

_FORMS = ("taps", "native")


class Conv3D(nn.Module):
    """3×3×3 convolution, stride 1, zero padding 1, with bias.

    Parameters `kernel` (3, 3, 3, C_in, C_out), `bias` (C_out,), float32.

    Attributes:
      features: C_out.
      form: 'taps' computes three 2-D convolutions, one per time tap, with the frames folded into
        the batch (on CPUs 2 to 10 times faster than XLA's 3-D convolution); 'native' is XLA's own.
      dtype: compute type.
    """

    features: int
    form: str = "taps"
    dtype: Any = "float32"

    @nn.compact
    def __call__(self, x: Float[Array | np.ndarray, "b t h w c"]) -> Float[Array, "b t h w d"]:
        fan_in = 27 * x.shape[-1]
        init = fan_in_uniform(fan_in)
        kernel = self.param("kernel", init, (3, 3, 3, x.shape[-1], self.features), jnp.float32)
        bias = self.param("bias", init, (self.features,), jnp.float32)
        dtype = jnp.dtype(self.dtype)
        y = conv3d(x.astype(dtype), jnp.asarray(kernel, dtype), self.form)
        return y + jnp.asarray(bias, dtype)


def conv3d(
    x: Float[Array | np.ndarray, "b t h w c"],
    kernel: Float[Array | np.ndarray, "3 3 3 c d"],
    form: str = "taps",
) -> Float[Array, "b t h w d"]:
    """3×3×3 convolution with zero padding 1.

    Args:
      x: (B, T, H, W, C).
      kernel: (3, 3, 3, C, D), axes time, height, width, in, out.
      form: 'taps' or 'native', see `Conv3D`.

    Returns:
      (B, T, H, W, D).

    Raises:
      ValueError: unknown form.
    """
    x, kernel = jnp.asarray(x), jnp.asarray(kernel)
    if form == "native":
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1, 1), "SAME", dimension_numbers=("NDHWC", "DHWIO", "NDHWC")
        )
    if form != "taps":
        raise ValueError(f"Conv3D form {form!r} is unknown; use one of {', '.join(_FORMS)}")
    y = _conv2d(x, kernel[1])
    if x.shape[1] == 1:
        return y
    # The first tap sees frame t-1, the last frame t+1; the zero frames at the ends cost nothing.
    before = _conv2d(x[:, :-1], kernel[0])
    after = _conv2d(x[:, 1:], kernel[2])
    ends = ((0, 0), (0, 0), (0, 0), (0, 0))
    return (
        y
        + jnp.pad(before, (ends[0], (1, 0), *ends[1:]))
        + jnp.pad(after, (ends[0], (0, 1), *ends[1:]))
    )


def _conv2d(x: Array, kernel: Array) -> Array:
    """3×3 convolution of every frame: (B, T, H, W, C) → (B, T, H, W, D)."""
    b, t = x.shape[:2]
    y = jax.lax.conv_general_dilated(
        x.reshape(b * t, *x.shape[2:]),
        kernel,
        (1, 1),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return y.reshape(b, t, *y.shape[1:])


def max_pool(
    x: Float[Array | np.ndarray, "..."],
    *,
    window: int,
    padding: int,
    axes: Sequence[int],
    stride: int = 2,
) -> Float[Array, "..."]:
    """Max-pooling over some axes; the padding never wins the maximum.

    Computed axis by axis as the maximum of strided slices: the gradient of XLA's window reduction
    is 4 to 20 times slower on CPUs. Where several inputs tie, they share the gradient.

    Args:
      x: any array.
      window, padding, stride: the same for all pooled axes.
      axes: the axes to pool.

    Returns:
      x with each pooled axis of length n reduced to ⌊(n + 2·padding − window) / stride⌋ + 1.
    """
    x = jnp.asarray(x)
    for axis in axes:
        length = (x.shape[axis] + 2 * padding - window) // stride + 1
        widths = [(0, 0)] * x.ndim
        widths[axis] = (padding, padding)
        padded = jnp.pad(x, widths, constant_values=-jnp.inf)
        x = jax.lax.slice_in_dim(padded, 0, (length - 1) * stride + 1, stride, axis)
        for tap in range(1, window):
            last = tap + (length - 1) * stride + 1
            x = jnp.maximum(x, jax.lax.slice_in_dim(padded, tap, last, stride, axis))
    return x


def adaptive_avg_pool(
    x: Float[Array | np.ndarray, "b t h w c"], size: Sequence[int]
) -> Float[Array, "b {size[0]} {size[1]} {size[2]} c"]:
    """Adaptive average pooling to a size, which may also be larger (REFERENCE section 2).

    Output i of m averages the inputs ⌊i·n/m⌋ … ⌈(i+1)·n/m⌉−1 of n. The window is a box, so the
    axes are averaged one after the other: exact.

    Args:
      x: (B, T, H, W, C).
      size: (T', H', W').

    Returns:
      (B, T', H', W', C).
    """
    x = jnp.asarray(x)
    for axis, m in enumerate(size, start=1):
        n = x.shape[axis]
        if n == m:
            continue
        first, stop = _pool_windows(n, m)
        length = stop - first
        weight_shape = [1] * x.ndim
        weight_shape[axis] = m
        # A few gathers (two when enlarging) rather than an n×m matrix: 4 times faster on CPUs.
        total = jnp.zeros((), x.dtype)
        for k in range(int(length.max())):
            weight = np.where(k < length, 1.0 / length, 0.0).reshape(weight_shape)
            inputs = jnp.take(x, np.minimum(first + k, stop - 1), axis=axis)
            total = total + inputs * weight.astype(x.dtype)
        x = total
    return x


def _pool_windows(n: int, m: int) -> tuple[np.ndarray, np.ndarray]:
    """First and one-past-last input of each of m adaptive windows over n inputs."""
    i = np.arange(m)
    return i * n // m, -(-(i + 1) * n // m)
