"""3×3×3 convolutions that are fast on XLA. Channels last, (B, T, H, W, C)."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dagr_jax.layers import winograd
from dagr_jax.layers.conv2d import conv2d, with_gradient
from dagr_jax.layers.linear import fan_in_uniform
from dagr_jax.layers.parameter import parameter
from dagr_jax.layers.pool import adaptive_avg_pool, pool_matrix, pool_windows
from dagr_jax.runtime.errors import DagrError


class Conv3D(nn.Module):
    """3×3×3 convolution, stride 1, zero padding 1, with bias.

    Parameters `kernel` (3, 3, 3, C_in, C_out), `bias` (C_out,), float32.

    Attributes:
      features: C_out.
      form: how it is computed. 'native' is XLA's own 3-D convolution. 'taps' is three 2-D
        convolutions, one per time tap, with the frames folded into the batch. 'winograd' needs
        fewer of these, of mixtures of frames (`winograd`). 'mixed' has the value of 'taps' and
        the gradients of 'winograd'. 'auto' is `fastest_form`. All take the same parameters and
        agree to 1e-5 of the largest value in float32.
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
        kernel = parameter(self, "kernel", init, (3, 3, 3, channels, self.features))
        bias = parameter(self, "bias", init, (self.features,))
        dtype = jnp.dtype(self.dtype)
        form = _resolved(self.form, dtype, train=train)
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
      DagrError: unknown form.
    """
    x, kernel = jnp.asarray(x), jnp.asarray(kernel)
    return _FORMS[_resolved(form, x.dtype)](x, kernel)


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
    form = _resolved(form, x.dtype)
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
    form = _resolved(form, x.dtype)
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


class Choice(NamedTuple):
    """The form that "auto" takes, and the measurement behind it."""

    form: str
    measured: str


# (backend, whether the type is half precision, whether gradients are wanted) → what "auto" takes.
# The transforms of "winograd" cost digits: bfloat16 has none to spare, and in training the batch
# statistics of a channel that hardly varies enlarge what the value loses.
FASTEST: dict[tuple[str, bool, bool], Choice] = {
    ("cpu", False, False): Choice(
        "winograd", "window of 8 x 224 x 398: 2.75 s, taps 5.52 s; 2 cores, docs/performance.md"
    ),
    ("cpu", False, True): Choice(
        "mixed", "value of taps (digits), gradients of winograd; docs/performance.md"
    ),
    ("cpu", True, False): Choice("taps", "7.24 s; winograd misses the digits; docs/performance.md"),
    ("cpu", True, True): Choice("taps", "winograd misses the digits; docs/performance.md"),
}
# For backends that are not in the table.
UNMEASURED = Choice("native", "not measured; python -m dagr_jax.bench.gpu measures a GPU")


def fastest_form(dtype: Any, *, train: bool) -> str:
    """The form that "auto" takes on this backend (`FASTEST`)."""
    half = jnp.dtype(dtype).itemsize < 4
    return FASTEST.get((jax.default_backend(), half, train), UNMEASURED).form


def _resolved(form: str, dtype: Any, *, train: bool = False) -> str:
    """The form itself, or what 'auto' stands for."""
    if form not in FORMS:
        raise DagrError(f"Conv3D form {form!r} is unknown; use one of {', '.join(FORMS)}")
    return fastest_form(dtype, train=train) if form == "auto" else form


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


def _winograd_gradients(arguments: tuple[Array, ...], gradient: Array) -> tuple[Array, ...]:
    return jax.vjp(_winograd, *arguments)[1](gradient)


_mixed = with_gradient(_taps, _winograd_gradients)


def _planned(x: Array, kernel: Array, low: Array | None = None) -> Array:
    """`conv3d` of x by `winograd.plan`; with `low`, of its upsampling joined before x.

    The upsampled half is never made. Mixing frames is linear and so is upsampling them, so that
    both are one mixture of the low frames; and the 2-D convolution of an upsampled frame is nine
    mixtures of its channels at low resolution, upsampled and shifted.
    """
    t, size = x.shape[1], x.shape[2:4]
    products = winograd.plan(t)
    frames = np.concatenate([product.frames for product in products])  # (K, T)
    kernels = _mix(np.stack([product.taps for product in products]), kernel[None])[0]
    mixtures = _mix(frames, x)
    if low is not None:
        below = low.shape[-1]
        low_mixtures = _mix(frames @ pool_matrix(low.shape[1], t), low)
    results, begin = [], 0
    for product, taps in zip(products, kernels, strict=True):
        its = slice(begin, begin + len(product.frames))
        begin = its.stop
        if low is None:
            y = _conv2d(mixtures[:, its], taps)
        else:
            y = _conv2d(mixtures[:, its], taps[:, :, below:])
            y = y + _upsampled_conv2d(low_mixtures[:, its], taps[:, :, :below], size)
        results.append(y)
    outputs = np.concatenate([product.outputs for product in products], axis=1)  # (T, K)
    return _mix_outputs(outputs)(jnp.concatenate(results, axis=1))


def _mix(weights: np.ndarray, x: Array) -> Array:
    """Weighted sums along axis 1: (K, T), (B, T, …) → (B, K, …).

    A matrix product, not sums: XLA would compute what x is made of again for each of them.
    """
    each = jnp.broadcast_to(jnp.asarray(weights, x.dtype), (len(x), *weights.shape))
    return (each @ x.reshape(*x.shape[:2], -1)).reshape(len(x), -1, *x.shape[2:])


def _mix_outputs(weights: np.ndarray) -> Callable[[Array], Array]:
    """`_mix` by these weights as sums, which become one with what follows; the gradient is none."""

    def sums(x: Array) -> Array:
        rows = ((row, np.flatnonzero(row)) for row in weights.astype(x.dtype))
        return jnp.stack([sum(row[k] * x[:, k] for k in used) for row, used in rows], axis=1)

    return with_gradient(sums, lambda _, gradient: (_mix(weights.T, gradient),))


def _upsampled_conv2d(x: Array, kernel: Array, size: Sequence[int]) -> Array:
    """`_conv2d` of frames that `adaptive_avg_pool` enlarges: (B, T, h, w, C) → (B, T, H, W, D)."""
    b, t, h = x.shape[:3]
    frames = x.reshape(b * t, *x.shape[2:])
    # (B·T, 3h, W, D): the rows of the three row taps, one under the other.
    rows = jnp.concatenate([_enlarged_rows(frames, kernel[i], size[1]) for i in range(3)], axis=1)
    shifted = np.pad(pool_matrix(h, size[0]), ((1, 1), (0, 0)))
    height = np.concatenate([shifted[i : i + size[0]] for i in range(3)], axis=1)  # (H, 3h)
    # A matrix product for each frame: XLA makes a slower one of all, and computes gathers again
    # for every sum that they are part of.
    enlarged = [jnp.asarray(height, x.dtype) @ f.reshape(3 * h, -1) for f in rows]
    return jnp.stack(enlarged).reshape(b, t, *size, kernel.shape[-1])


def _enlarged_rows(frames: Array, taps: Array, width: int) -> Array:
    """Rows enlarged to a width, then convolved with three taps: (N, h, w, C) → (N, h, W, D)."""
    first, stop = pool_windows(frames.shape[2], width)
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


_FORMS: dict[str, Callable[[Array, Array], Array]] = {
    "native": _native,
    "taps": _taps,
    "winograd": _winograd,
    "mixed": _mixed,
}
FORMS = ("auto", *_FORMS)
# Channels from which convolving the enlarged half where it is small pays for its compilation.
_WORTH_MIXING = 128


def _conv2d(x: Array, kernel: Array) -> Array:
    """3×3 convolution of every frame: (B, T, H, W, C) → (B, T, H, W, D)."""
    b, t = x.shape[:2]
    y = conv2d(x.reshape(b * t, *x.shape[2:]), kernel)
    return y.reshape(b, t, *y.shape[1:])
