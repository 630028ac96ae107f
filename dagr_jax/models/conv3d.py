"""3-D primitives that are fast on XLA: convolution, max-pooling, adaptive average pooling.

All take channels last, (B, T, H, W, C).
"""

import functools
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dagr_jax.models import winograd
from dagr_jax.models.linear import fan_in_uniform


class Conv3D(nn.Module):
    """3×3×3 convolution, stride 1, zero padding 1, with bias.

    Parameters `kernel` (3, 3, 3, C_in, C_out), `bias` (C_out,), float32.

    Attributes:
      features: C_out.
      form: how it is computed. 'native' is XLA's own 3-D convolution. 'taps' is three 2-D
        convolutions, one per time tap, with the frames folded into the batch. 'winograd' needs
        fewer of these, of mixtures of frames (`winograd`). 'auto' is `fastest_form`. All take the
        same parameters and agree to 1e-5 of the largest value in float32.
      dtype: compute type.
    """

    features: int
    form: str = "auto"
    dtype: Any = "float32"

    @nn.compact
    def __call__(
        self, x: Float[Array | np.ndarray, "b t h w c"], *, train: bool = False
    ) -> Float[Array, "b t h w d"]:
        """Args: x, (B, T, H, W, C_in); train: whether gradients are wanted, for 'auto' alone."""
        fan_in = 27 * x.shape[-1]
        init = fan_in_uniform(fan_in)
        kernel = self.param("kernel", init, (3, 3, 3, x.shape[-1], self.features), jnp.float32)
        bias = self.param("bias", init, (self.features,), jnp.float32)
        dtype = jnp.dtype(self.dtype)
        form = fastest_form(dtype, train=train) if self.form == "auto" else self.form
        y = conv3d(x.astype(dtype), jnp.asarray(kernel, dtype), form)
        return y + jnp.asarray(bias, dtype)


def conv3d(
    x: Float[Array | np.ndarray, "b t h w c"],
    kernel: Float[Array | np.ndarray, "3 3 3 c d"],
    form: str = "auto",
) -> Float[Array, "b t h w d"]:
    """3×3×3 convolution with zero padding 1.

    Args:
      x: (B, T, H, W, C).
      kernel: (3, 3, 3, C, D), axes time, height, width, in, out.
      form: see `Conv3D`.

    Returns:
      (B, T, H, W, D).

    Raises:
      ValueError: unknown form.
    """
    x, kernel = jnp.asarray(x), jnp.asarray(kernel)
    if form == "auto":
        form = fastest_form(x.dtype, train=False)
    if form not in _FORMS:
        raise ValueError(f"Conv3D form {form!r} is unknown; use one of {', '.join(FORMS)}")
    return _FORMS[form](x, kernel)


def fastest_form(dtype: Any, *, train: bool) -> str:
    """The form to take on this kind of device (docs/performance.md has the measurements)."""
    if jax.default_backend() != "cpu":
        return "native"
    # The transforms cost digits: bfloat16 has none to spare, and batch statistics of a channel
    # that hardly varies enlarge what is lost in training.
    return "taps" if train or jnp.dtype(dtype).itemsize < 4 else "winograd"


def _native(x: Array, kernel: Array) -> Array:
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1, 1), "SAME", dimension_numbers=("NDHWC", "DHWIO", "NDHWC")
    )


def _taps(x: Array, kernel: Array) -> Array:
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


def _winograd(x: Array, kernel: Array) -> Array:
    """Minimal filtering along time: frames are mixed, convolved in 2-D, and mixed again."""
    b, t = x.shape[:2]
    if t == 1:
        return _taps(x, kernel)
    if t == 2:
        # Frames beyond the ends are zero: y0 = k1 x0 + k2 x1, y1 = k0 x0 + k1 x1, which share a
        # product.
        both = _conv2d(x[:, :1] + x[:, 1:], kernel[1])
        first = _conv2d(x[:, 1:], kernel[2] - kernel[1])
        second = _conv2d(x[:, :1], kernel[0] - kernel[1])
        return jnp.concatenate([both + first, both + second], axis=1)
    outputs: dict[int, Array] = {}
    start = 0
    for m, run in itertools.groupby(winograd.tiles(t)):
        starts = [start + m * i for i in range(len(list(run)))]
        start = starts[-1] + m
        a, g, mix = winograd.matrices(m)
        products = []
        for row, taps in zip(mix, g, strict=True):
            # Tiles of one size share the transformed kernel: their frames are one batch.
            frames = [
                _sum((row[i], x[:, s - 1 + i]) for i in range(m + 2) if 0 <= s - 1 + i < t)
                for s in starts
            ]
            mixed = _sum((tap, kernel[q]) for q, tap in enumerate(taps))
            products.append(_conv2d(jnp.stack(frames, axis=1), mixed))
        for k, s in enumerate(starts):
            for i in range(m):
                outputs[s + i] = _sum((w, p[:, k]) for w, p in zip(a[i], products, strict=True))
    return jnp.stack([outputs[i] for i in range(t)], axis=1)


def _sum(terms: Iterable[tuple[float, Array]]) -> Array:
    """Σ weight · array; weights of zero cost nothing."""
    return functools.reduce(jnp.add, (x * np.asarray(w, x.dtype) for w, x in terms if w))


_FORMS: dict[str, Callable[[Array, Array], Array]] = {
    "native": _native,
    "taps": _taps,
    "winograd": _winograd,
}
FORMS = ("auto", *_FORMS)


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
