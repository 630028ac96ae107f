"""3-D primitives that are fast on XLA: convolution, max-pooling, adaptive average pooling.

All take channels last, (B, T, H, W, C).
"""

import functools
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
        self,
        x: Float[Array | np.ndarray, "b t h w c"],
        *,
        low: Float[Array | np.ndarray, "b s g v e"] | None = None,
        field: Float[Array | np.ndarray, "t n"] | None = None,
        train: bool = False,
    ) -> Float[Array, "b t h w d"]:
        """Convolves.

        Args:
          x: (B, T, H, W, C).
          low: (B, T', H', W', E), enlarged to x and joined before it, `upsampled_conv3d`.
          field: (T, N), channels that are constant over each frame, joined before x.
          train: whether gradients are wanted; tells 'auto' which form to take.

        Returns:
          (B, T, H, W, features).
        """
        channels = x.shape[-1] + sum(a.shape[-1] for a in (low, field) if a is not None)
        init = fan_in_uniform(27 * channels)
        kernel = self.param("kernel", init, (3, 3, 3, channels, self.features), jnp.float32)
        bias = self.param("bias", init, (self.features,), jnp.float32)
        dtype = jnp.dtype(self.dtype)
        form = fastest_form(dtype, train=train) if self.form == "auto" else self.form
        kernel = jnp.asarray(kernel, dtype)
        x = jnp.asarray(x, dtype)
        if low is not None:
            y = upsampled_conv3d(jnp.asarray(low, dtype), x, kernel, form)
        elif field is not None:
            y = field_conv3d(jnp.asarray(field, dtype), x, kernel, form)
        else:
            y = conv3d(x, kernel, form)
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


def upsampled_conv3d(
    low: Float[Array | np.ndarray, "b s g v e"],
    x: Float[Array | np.ndarray, "b t h w c"],
    kernel: Float[Array | np.ndarray, "3 3 3 f d"],
    form: str = "auto",
) -> Float[Array, "b t h w d"]:
    """`conv3d` of two inputs, the first enlarged to the size of the second and joined before it.

    The first convolution of a decoder level. In the form 'winograd' the enlarged half is convolved
    where it is small.

    Args:
      low: (B, T', H', W', E), enlarged by `adaptive_avg_pool`.
      x: (B, T, H, W, C).
      kernel: (3, 3, 3, E + C, D).
      form: see `Conv3D`.

    Returns:
      (B, T, H, W, D).
    """
    low, x, kernel = jnp.asarray(low), jnp.asarray(x), jnp.asarray(kernel)
    if form == "auto":
        form = fastest_form(x.dtype, train=False)
    if form == "winograd" and x.shape[1] > 1 and low.shape[-1] >= _WORTH_MIXING:
        return _planned(x, kernel, low)
    large = adaptive_avg_pool(low, x.shape[1:4])
    return conv3d(jnp.concatenate([large, x], axis=-1), kernel, form)


def field_conv3d(
    field: Float[Array | np.ndarray, "t n"],
    x: Float[Array | np.ndarray, "b t h w c"],
    kernel: Float[Array | np.ndarray, "3 3 3 m d"],
    form: str = "auto",
) -> Float[Array, "b t h w d"]:
    """`conv3d` of x with channels before it that are constant over each frame.

    In the form 'winograd' they are not convolved: what a constant frame gives differs at the
    borders alone, where the kernel reaches beyond, so that 3×3 pixels tell all of it.

    Args:
      field: (T, N), the constants.
      x: (B, T, H, W, C).
      kernel: (3, 3, 3, N + C, D).
      form: see `Conv3D`.

    Returns:
      (B, T, H, W, D).
    """
    field, x, kernel = jnp.asarray(field), jnp.asarray(x), jnp.asarray(kernel)
    if form == "auto":
        form = fastest_form(x.dtype, train=False)
    n, (h, w) = field.shape[-1], x.shape[2:4]
    if form != "winograd" or min(h, w) < 3:
        everywhere = jnp.broadcast_to(field[:, None, None], (*x.shape[:4], n))
        return conv3d(jnp.concatenate([everywhere, x], axis=-1), kernel, form)
    patch = jnp.broadcast_to(field[None, :, None, None], (1, len(field), 3, 3, n))
    patch = conv3d(patch, kernel[..., :n, :], "taps")
    for axis, size in ((2, h), (3, w)):
        first, middle, last = jnp.split(patch, 3, axis)
        patch = jnp.concatenate([first, jnp.repeat(middle, size - 2, axis), last], axis)
    return conv3d(x, kernel[..., n:, :], form) + patch


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
    return _taps(x, kernel) if x.shape[1] == 1 else _planned(x, kernel)


def _planned(x: Array, kernel: Array, low: Array | None = None) -> Array:
    """`conv3d` of x by `winograd.plan`; with `low`, of its upsampling joined before x.

    The upsampled half is never made. Mixing frames is linear and so is upsampling them, so that
    both are one mixture of the low frames; and the 2-D convolution of an upsampled frame is nine
    mixtures of its channels at low resolution, upsampled and shifted.
    """
    t, size = x.shape[1], x.shape[2:4]
    below = 0 if low is None else low.shape[-1]
    results = []
    for product in winograd.plan(t):
        taps = _sum((w, kernel[q]) for q, w in enumerate(product.taps))
        results.append((product.outputs, _conv2d(_mixtures(x, product.frames), taps[:, :, below:])))
        if low is not None:
            slow = product.frames @ _pool_matrix(low.shape[1], t)
            y = _upsampled_conv2d(_mixtures(low, slow), taps[:, :, :below], size)
            results.append((product.outputs, y))
    return jnp.stack(
        [
            _sum((outputs[i, k], y[:, k]) for outputs, y in results for k in range(y.shape[1]))
            for i in range(t)
        ],
        axis=1,
    )


def _mixtures(x: Array, weights: np.ndarray) -> Array:
    """Weighted sums of frames: (B, T, H, W, C), (K, T) → (B, K, H, W, C)."""
    return jnp.stack([_sum((w, x[:, i]) for i, w in enumerate(row)) for row in weights], axis=1)


def _upsampled_conv2d(x: Array, kernel: Array, size: Sequence[int]) -> Array:
    """`_conv2d` of frames that `adaptive_avg_pool` enlarges: (B, T, h, w, C) → (B, T, H, W, D)."""
    b, t, h = x.shape[:3]
    frames = x.reshape(b * t, *x.shape[2:])
    # (B·T, 3h, W, D): the rows of the three row taps, one under the other.
    rows = jnp.concatenate([_enlarged_rows(frames, kernel[i], size[1]) for i in range(3)], axis=1)
    shifted = np.pad(_pool_matrix(h, size[0]), ((1, 1), (0, 0)))
    height = np.concatenate([shifted[i : i + size[0]] for i in range(3)], axis=1)  # (H, 3h)
    # A matrix product for each frame: XLA makes a slower one of all, and computes gathers again
    # for every sum that they are part of.
    enlarged = [jnp.asarray(height, x.dtype) @ f.reshape(3 * h, -1) for f in rows]
    return jnp.stack(enlarged).reshape(b, t, *size, kernel.shape[-1])


def _enlarged_rows(frames: Array, taps: Array, width: int) -> Array:
    """Rows enlarged to a width, then convolved with three taps: (N, h, w, C) → (N, h, W, D)."""
    first, stop = _pool_windows(frames.shape[2], width)
    total = jnp.zeros((), frames.dtype)
    for j in range(3):
        mixed = frames @ taps[j]
        source = np.arange(width) + j - 1
        inside = (source >= 0) & (source < width)
        source = source.clip(0, width - 1)
        length = (stop - first)[source]
        for a in range(int(length.max())):
            weight = np.where(inside & (a < length), 1.0 / length, 0.0)[:, None]
            inputs = jnp.take(mixed, np.minimum(first + a, stop - 1)[source], axis=2)
            total = total + inputs * weight.astype(frames.dtype)
    return total


def _pool_matrix(n: int, m: int) -> np.ndarray:
    """`adaptive_avg_pool` of an axis as a matrix, (m, n)."""
    first, stop = _pool_windows(n, m)
    i = np.arange(n)
    inside = (i >= first[:, None]) & (i < stop[:, None])
    return inside / inside.sum(1, keepdims=True)


def _sum(terms: Iterable[tuple[float, Array]]) -> Array:
    """Σ weight · array; weights of zero cost nothing."""
    return functools.reduce(jnp.add, (x * np.asarray(w, x.dtype) for w, x in terms if w))


_FORMS: dict[str, Callable[[Array, Array], Array]] = {
    "native": _native,
    "taps": _taps,
    "winograd": _winograd,
}
FORMS = ("auto", *_FORMS)
# Channels from which convolving the enlarged half where it is small pays for its compilation.
_WORTH_MIXING = 128


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
