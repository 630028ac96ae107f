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
    """3×3×3 convolution with stride 1, zero padding 1 and bias.

    Its parameters are `kernel` (3, 3, 3, C_in, C_out) and `bias` (C_out,), float32.

    Attributes:
        features: Number of output channels, C_out.
        form: How the convolution is computed. 'native' is XLA's own 3-D convolution. 'taps' is
            three 2-D convolutions, one per time tap, with the frames folded into the batch.
            'winograd' is fewer 2-D convolutions, of mixtures of frames (`layers.winograd`). 'mixed'
            has the value of 'taps' and the gradients of 'winograd'. 'auto' is `fastest_form`. All
            forms have the same parameters. In float32 they agree to 1e-5 of the largest value.
        dtype: Compute type.
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
        """Convolves the input, optionally with channels concatenated before it.

        Args:
            x: (B, T, H, W, C) input.
            low: (B, T', H', W', E) input at low resolution, which is upsampled to the size of x and
                concatenated before x (`upsampled_conv3d`).
            field: (T, N) channels that are constant over each frame, which are concatenated before
                x (`field_conv3d`).
            train: Whether gradients are needed; selects the form for 'auto'.

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
        x: (B, T, H, W, C) input.
        kernel: (3, 3, 3, C, D), axes time, height, width, in, out.
        form: How the convolution is computed, one of `FORMS` (described in `Conv3D`).

    Returns:
        (B, T, H, W, D).

    Raises:
        DagrError: `form` is unknown.
    """
    x, kernel = jnp.asarray(x), jnp.asarray(kernel)
    return _FORMS[_resolved(form, x.dtype)](x, kernel)


def upsampled_conv3d(
    low: Float[Array | np.ndarray, "b s g v e"],
    x: Float[Array | np.ndarray, "b t h w c"],
    kernel: Float[Array | np.ndarray, "3 3 3 f d"],
    form: str = "auto",
) -> Float[Array, "b t h w d"]:
    """`conv3d` of an upsampled input and a second input, concatenated along the channels.

    This is the first convolution of a decoder level. The form 'winograd' convolves the upsampled
    half at low resolution.

    Args:
        low: (B, T', H', W', E) first input, which `adaptive_avg_pool` resizes to (T, H, W).
        x: (B, T, H, W, C) second input.
        kernel: (3, 3, 3, E + C, D).
        form: How the convolution is computed, one of `FORMS` (described in `Conv3D`).

    Returns:
        (B, T, H, W, D).

    Raises:
        DagrError: `form` is unknown.
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
    """`conv3d` of x, with channels concatenated before it that are constant over each frame.

    The form 'winograd' convolves the constant channels as frames of 3×3 pixels only. The result for
    a constant frame differs only at the borders, where the kernel reaches into the padding, so the
    3×3 pixels contain all distinct values.

    Args:
        field: (T, N) constants.
        x: (B, T, H, W, C) input.
        kernel: (3, 3, 3, N + C, D).
        form: How the convolution is computed, one of `FORMS` (described in `Conv3D`).

    Returns:
        (B, T, H, W, D).

    Raises:
        DagrError: `form` is unknown.
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
    """The form that "auto" selects, and the measurement that supports it."""

    form: str
    measured: str


# (backend, half precision, gradients needed) → the form that "auto" selects.
# The transforms of "winograd" lose precision. bfloat16 is not precise enough for them. In training,
# the batch statistics of a channel that hardly varies amplify the rounding errors of the value.
FASTEST: dict[tuple[str, bool, bool], Choice] = {
    ("cpu", False, False): Choice(
        "winograd", "window of 8 x 224 x 398: 2.75 s, taps 5.52 s; 2 cores, docs/performance.md"
    ),
    ("cpu", False, True): Choice(
        "mixed", "value of taps (precision), gradients of winograd; docs/performance.md"
    ),
    ("cpu", True, False): Choice("taps", "7.24 s; winograd is too imprecise; docs/performance.md"),
    ("cpu", True, True): Choice("taps", "winograd is too imprecise; docs/performance.md"),
}
# Choice for backends that are not in the table.
UNMEASURED = Choice("native", "not measured; python -m dagr_jax.bench.gpu measures a GPU")


def fastest_form(dtype: Any, *, train: bool) -> str:
    """Returns the form that "auto" selects on this backend (from `FASTEST`).

    Args:
        dtype: Compute type.
        train: Whether gradients are needed.
    """
    half = jnp.dtype(dtype).itemsize < 4
    return FASTEST.get((jax.default_backend(), half, train), UNMEASURED).form


def _resolved(form: str, dtype: Any, *, train: bool = False) -> str:
    """Returns `form`, or the form that 'auto' selects. Raises DagrError if it is unknown."""
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
    # The first tap multiplies frame t-1 and the last tap frame t+1. The zero frames at the ends are
    # not convolved.
    before = _conv2d(x[:, :-1], kernel[0])
    after = _conv2d(x[:, 1:], kernel[2])
    ends = ((0, 0), (0, 0), (0, 0), (0, 0))
    return (
        y
        + jnp.pad(before, (ends[0], (1, 0), *ends[1:]))
        + jnp.pad(after, (ends[0], (0, 1), *ends[1:]))
    )


def _winograd(x: Array, kernel: Array) -> Array:
    """Minimal filtering along time: mixes frames, convolves them in 2-D, and mixes the results."""
    return _taps(x, kernel) if x.shape[1] == 1 else _planned(x, kernel)


def _winograd_gradients(arguments: tuple[Array, ...], gradient: Array) -> tuple[Array, ...]:
    return jax.vjp(_winograd, *arguments)[1](gradient)


_mixed = with_gradient(_taps, _winograd_gradients)


def _planned(x: Array, kernel: Array, low: Array | None = None) -> Array:
    """`conv3d` of x by `winograd.plan`; with `low`, its upsampling is concatenated before x.

    The upsampled half is never materialised. Mixing frames and upsampling them are both linear, so
    together they are one mixture of the low-resolution frames. The 2-D convolution of an upsampled
    frame is nine mixtures of its channels at low resolution, which are then upsampled and shifted.
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

    It uses a matrix product, because with explicit sums XLA would recompute x for each of them.
    """
    each = jnp.broadcast_to(jnp.asarray(weights, x.dtype), (len(x), *weights.shape))
    return (each @ x.reshape(*x.shape[:2], -1)).reshape(len(x), -1, *x.shape[2:])


def _mix_outputs(weights: np.ndarray) -> Callable[[Array], Array]:
    """`_mix` as explicit sums, which XLA fuses with later operations; its gradient is `_mix`."""

    def sums(x: Array) -> Array:
        rows = ((row, np.flatnonzero(row)) for row in weights.astype(x.dtype))
        return jnp.stack([sum(row[k] * x[:, k] for k in used) for row, used in rows], axis=1)

    return with_gradient(sums, lambda _, gradient: (_mix(weights.T, gradient),))


def _upsampled_conv2d(x: Array, kernel: Array, size: Sequence[int]) -> Array:
    """`_conv2d` of frames upsampled by `adaptive_avg_pool`: (B, T, h, w, C) → (B, T, H, W, D)."""
    b, t, h = x.shape[:3]
    frames = x.reshape(b * t, *x.shape[2:])
    # (B·T, 3h, W, D): the rows of the three row taps, stacked vertically.
    rows = jnp.concatenate([_enlarged_rows(frames, kernel[i], size[1]) for i in range(3)], axis=1)
    shifted = np.pad(pool_matrix(h, size[0]), ((1, 1), (0, 0)))
    height = np.concatenate([shifted[i : i + size[0]] for i in range(3)], axis=1)  # (H, 3h)
    # One matrix product per frame: XLA's product over all frames is slower, and instead of a
    # matrix product XLA would recompute gathers for every sum that uses them.
    enlarged = [jnp.asarray(height, x.dtype) @ f.reshape(3 * h, -1) for f in rows]
    return jnp.stack(enlarged).reshape(b, t, *size, kernel.shape[-1])


def _enlarged_rows(frames: Array, taps: Array, width: int) -> Array:
    """Upsamples rows to a width and convolves with three taps: (N, h, w, C) → (N, h, W, D)."""
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
# Number of channels from which convolving the upsampled half at low resolution saves more time than
# its compilation costs.
_WORTH_MIXING = 128


def _conv2d(x: Array, kernel: Array) -> Array:
    """3×3 convolution of every frame: (B, T, H, W, C) → (B, T, H, W, D)."""
    b, t = x.shape[:2]
    y = conv2d(x.reshape(b * t, *x.shape[2:]), kernel)
    return y.reshape(b, t, *y.shape[1:])
