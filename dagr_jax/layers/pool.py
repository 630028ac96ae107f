"""Pooling that is fast on XLA, forward and backward."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def max_pool(
    x: Float[Array | np.ndarray, "..."],
    *,
    window: int,
    padding: int,
    axes: Sequence[int],
    stride: int = 2,
) -> Float[Array, "..."]:
    """Max-pooling over some axes. The padding is −∞, so it never is the maximum.

    It is computed axis by axis as the maximum of strided slices, because the gradient of XLA's
    window reduction is 4 to 20 times slower on CPUs. Inputs that tie share the gradient.

    Args:
        x: Array of any shape.
        window: Window length, the same for all pooled axes.
        padding: Padding on both sides, the same for all pooled axes.
        axes: Axes to pool.
        stride: Stride, the same for all pooled axes.

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
    """Adaptive average pooling to a size, which may also be larger (docs/reference.md, section 2).

    Output i of m is the mean of the inputs ⌊i·n/m⌋ … ⌈(i+1)·n/m⌉ − 1 of n. The window is a box, so
    averaging one axis after the other is exact.

    Args:
        x: (B, T, H, W, C).
        size: Output size (T', H', W').

    Returns:
        (B, T', H', W', C).
    """
    x = jnp.asarray(x)
    for axis, m in enumerate(size, start=1):
        n = x.shape[axis]
        if n == m:
            continue
        first, stop = pool_windows(n, m)
        length = stop - first
        weight_shape = [1] * x.ndim
        weight_shape[axis] = m
        # A few gathers (two when upsampling) are 4 times faster on CPUs than an n×m matrix.
        total = jnp.zeros((), x.dtype)
        for k in range(int(length.max())):
            weight = np.where(k < length, 1.0 / length, 0.0).reshape(weight_shape)
            inputs = jnp.take(x, np.minimum(first + k, stop - 1), axis=axis)
            total = total + inputs * weight.astype(x.dtype)
        x = total
    return x


def pool_windows(n: int, m: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the first and the one-past-last input of each adaptive window.

    Args:
        n: Number of inputs.
        m: Number of windows (outputs).

    Returns:
        Two (m,) integer arrays: first and one-past-last input.
    """
    i = np.arange(m)
    return i * n // m, -(-(i + 1) * n // m)


def pool_matrix(n: int, m: int) -> np.ndarray:
    """Returns `adaptive_avg_pool` along one axis as a matrix.

    Args:
        n: Number of inputs.
        m: Number of outputs.

    Returns:
        (m, n) float64 weights.
    """
    first, stop = pool_windows(n, m)
    i = np.arange(n)
    inside = (i >= first[:, None]) & (i < stop[:, None])
    return inside / inside.sum(1, keepdims=True)
