"""2-D convolutions with gradients that are also fast on CPUs. Channels last, (N, H, W, C)."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dagr_jax.layers.parameter import parameter

# Pixels per matrix product of the kernel gradient: few enough to stay in the cache of a core.
_CHUNK = 1024


class Conv2D(nn.Module):
    """Convolution without bias, with padding (size − 1)/2 on every side, as in PyTorch.

    Its parameter is `kernel` (size, size, C_in, features), float32.

    Attributes:
        features: Number of output channels.
        size: Kernel size, odd.
        stride: Stride along both axes.
        dtype: Compute type.
        kernel_init: Initializer of the kernel.
    """

    features: int
    size: int
    stride: int = 1
    dtype: Any = "float32"
    kernel_init: Any = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x: Float[Array | np.ndarray, "n h w c"]) -> Float[Array, "n u v d"]:
        """Convolves images: (N, H, W, C) → (N, ⌈H/stride⌉, ⌈W/stride⌉, features)."""
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = parameter(self, "kernel", self.kernel_init, shape)
        kernel = jnp.asarray(kernel, jnp.dtype(self.dtype))
        x = jnp.asarray(x, kernel.dtype)
        if self.size == 1:
            return conv2d(x[:, :: self.stride, :: self.stride], kernel)
        if self.size == 3 and self.stride == 1:
            return conv2d(x, kernel)
        return _conv(x, kernel, self.stride)


def conv2d(x: Float[Array, "n h w c"], kernel: Float[Array, "k k c d"]) -> Float[Array, "n h w d"]:
    """1×1 or 3×3 convolution with stride 1 and zero padding to the same size.

    On a CPU it has its own gradient rule, because XLA's kernel gradient runs there at an eighth to
    a half of the speed of a matrix product.

    Args:
        x: (N, H, W, C).
        kernel: (k, k, C, D), axes height, width, in, out; k is 1 or 3.

    Returns:
        (N, H, W, D).
    """
    return _conv2d_cpu(x, kernel) if jax.default_backend() == "cpu" else _same(x, kernel)


def _same(x: Array, kernel: Array) -> Array:
    # XLA does not turn a 1×1 convolution into a matrix product over pixels by itself.
    return x @ kernel[0, 0] if len(kernel) == 1 else _conv(x, kernel)


def _conv(x: Array, kernel: Array, stride: int = 1) -> Array:
    edge = len(kernel) // 2
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        [(edge, edge), (edge, edge)],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def with_gradient(
    value: Callable[..., Array], backward: Callable[[tuple[Array, ...], Array], tuple[Array, ...]]
) -> Callable[..., Array]:
    """Gives a function of arrays its own gradient rule.

    Args:
        value: The function.
        backward: Gradient rule: (arguments of `value`, gradient by its output) → gradients by its
            arguments.

    Returns:
        The function with the gradient rule.
    """
    rule = jax.custom_vjp(value)
    rule.defvjp(lambda *arguments: (value(*arguments), arguments), backward)
    return rule


def _backward(arguments: tuple[Array, ...], gradient: Array) -> tuple[Array, Array]:
    x, kernel = arguments
    turned = kernel[::-1, ::-1].swapaxes(2, 3)
    of_kernel = kernel_gradient(x, gradient, len(kernel))
    return _same(gradient, turned), of_kernel.astype(kernel.dtype)


_conv2d_cpu = with_gradient(_same, _backward)


def kernel_gradient(
    x: Float[Array, "n h w c"], gradient: Float[Array, "n h w d"], size: int
) -> Float[Array, "{size} {size} c d"]:
    """Computes the gradient of `conv2d` by its kernel.

    Entry (i, j) of a 3×3 kernel gradient is the matrix product of the pixels of x with the pixels
    of the output gradient that lie i − 1 rows and j − 1 columns before them. Here the rows of an
    image are laid out in one strip, with a zero between rows, so that every such shift is a fixed
    offset in the strip. The three column shifts are applied to x. The three row shifts are applied
    to the gradient and concatenated in one matrix. This gives three wide matrix products instead of
    nine narrow ones.

    The strips are multiplied in pieces, so that each piece is transposed in the cache. XLA would
    transpose the whole strip.

    Args:
        x: (N, H, W, C) input of the convolution.
        gradient: (N, H, W, D) gradient by the output.
        size: Kernel size, 1 or 3.

    Returns:
        (size, size, C, D), at least float32.
    """
    n, height, width, channels = x.shape
    features = gradient.shape[-1]
    edge = size // 2
    row = width + edge
    margin = edge * (row + 1)
    chunk = min(-(-max(_CHUNK, 4 * channels, 4 * features) // n), height * row)
    count = -(-height * row // chunk)

    def strip(image: Array) -> Array:
        rows = jnp.pad(image, ((0, 0), (0, 0), (0, edge), (0, 0))).reshape(n, height * row, -1)
        return jnp.pad(rows, ((0, 0), (margin, margin + count * chunk - height * row), (0, 0)))

    pixels, gradients = strip(x), strip(gradient)
    shifts = range(-edge, edge + 1)

    def part(strip: Array, start: Array | int) -> Array:
        cut = jax.lax.dynamic_slice_in_dim(strip, start, chunk, axis=1)
        return cut.reshape(n * chunk, -1)

    def add(total: Array, number: Array) -> tuple[Array, None]:
        begin = margin + number * chunk
        right = jnp.concatenate([part(gradients, begin - i * row) for i in shifts], axis=-1)
        products = [
            jnp.matmul(part(pixels, begin + j).T, right, preferred_element_type=total.dtype)
            for j in shifts
        ]
        return total + jnp.stack(products), None

    # bfloat16 is not precise enough for the sums.
    wide = jnp.promote_types(x.dtype, jnp.float32)
    zero = jnp.zeros((size, channels, size * features), wide)
    total, _ = jax.lax.scan(add, zero, jnp.arange(count))
    return total.reshape(size, channels, size, features).transpose(2, 0, 1, 3)
