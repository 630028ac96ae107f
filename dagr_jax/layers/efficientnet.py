"""EfficientNet-Lite0 backbone: inverted bottlenecks without squeeze-and-excitation, ReLU6.

Source: Tan & Le, EfficientNet, ICML 2019, and the Lite variants of TensorFlow's model garden.
Padding is TensorFlow's SAME, because the published weights were trained with it: with stride 2, the
extra row and column are at the bottom and the right.
"""

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dagr_jax.layers.norm import BatchNorm
from dagr_jax.layers.parameter import parameter
from dagr_jax.layers.torch_names import Layer


class _Stage(NamedTuple):
    expand: int  # factor of the hidden channels
    features: int
    blocks: int
    stride: int  # of the first block
    size: int  # of the depthwise kernel


_STAGES = (
    _Stage(1, 16, 1, 1, 3),
    _Stage(6, 24, 2, 2, 3),
    _Stage(6, 40, 2, 2, 5),
    _Stage(6, 80, 3, 2, 3),
    _Stage(6, 112, 3, 1, 5),
    _Stage(6, 192, 4, 2, 5),
    _Stage(6, 320, 1, 1, 3),
)
_STEM, _HEAD = 32, 1280
# Blocks after which the size halves next, and the head: (name of the map, channels).
LEVELS = {"stem": 32, "1": 16, "2": 24, "3": 40, "5": 112, "head": _HEAD}
_NORM = functools.partial(BatchNorm, epsilon=1e-3, momentum=0.01)
_INIT = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def _relu6(x: Array) -> Array:
    return jnp.clip(x, 0, 6)


def _same(length: int, size: int, stride: int) -> tuple[int, int]:
    """Returns TensorFlow's SAME padding of an axis: (before, after)."""
    total = max((-(-length // stride) - 1) * stride + size - length, 0)
    return total // 2, total - total // 2


class _Conv(nn.Module):
    """Convolution without bias: a full one of size 3, or a matrix product of size 1."""

    features: int
    size: int
    stride: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n u v d"]:
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = jnp.asarray(parameter(self, "kernel", _INIT, shape), jnp.dtype(self.dtype))
        if self.size == 1:
            return x @ kernel[0, 0]
        padding = [_same(length, self.size, self.stride) for length in x.shape[1:3]]
        strides = (self.stride, self.stride)
        return jax.lax.conv_general_dilated(
            x, kernel, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )


class _Depthwise(nn.Module):
    """Depthwise convolution without bias, as a sum of shifted products.

    XLA fuses the sum into one loop. On a CPU this takes a fraction of the time of XLA's grouped
    convolution.
    """

    size: int
    stride: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n u v c"]:
        shape = (self.size, self.size, 1, x.shape[-1])
        kernel = jnp.asarray(parameter(self, "kernel", _INIT, shape), jnp.dtype(self.dtype))
        return depthwise(x, kernel[:, :, 0], self.stride)


def depthwise(
    x: Float[Array, "n h w c"], kernel: Float[Array, "k k c"], stride: int
) -> Float[Array, "n u v c"]:
    """Convolves each channel with its own kernel, with SAME padding.

    Args:
        x: (N, H, W, C).
        kernel: (k, k, C).
        stride: Stride along both axes.

    Returns:
        (N, ⌈H/stride⌉, ⌈W/stride⌉, C).
    """
    size = len(kernel)
    rows, columns = (_same(length, size, stride) for length in x.shape[1:3])
    high, wide = (-(-length // stride) for length in x.shape[1:3])
    padded = jnp.pad(x, ((0, 0), rows, columns, (0, 0)))
    total = jnp.zeros((), x.dtype)
    for i in range(size):
        for j in range(size):
            last = (i + (high - 1) * stride + 1, j + (wide - 1) * stride + 1)
            shifted = padded[:, i : last[0] : stride, j : last[1] : stride]
            total = total + shifted * kernel[i, j]
    return total


class _Block(nn.Module):
    """Inverted bottleneck: 1×1 to `expand` times the channels, depthwise, 1×1 back."""

    expand: int
    features: int
    stride: int
    size: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], *, train: bool) -> Float[Array, "n u v d"]:
        y = x
        if self.expand > 1:
            y = _Conv(self.expand * x.shape[-1], 1, 1, self.dtype, name="expand")(y)
            y = _relu6(_NORM(name="bn0")(y, train=train))
        y = _Depthwise(self.size, self.stride, self.dtype, name="depthwise")(y)
        y = _relu6(_NORM(name="bn1")(y, train=train))
        y = _Conv(self.features, 1, 1, self.dtype, name="project")(y)
        y = _NORM(name="bn2")(y, train=train)
        return x + y if self.stride == 1 and x.shape[-1] == self.features else y


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0 without pooling and classifier: 3,371,008 parameters.

    Attributes:
        dtype: Compute type. Parameters and norms are float32.
    """

    dtype: Any = "float32"

    @nn.compact
    def __call__(
        self, images: Float[Array | np.ndarray, "n h w 3"], *, train: bool = False
    ) -> dict[str, Float[Array, "n _ _ _"]]:
        """Computes the feature maps of images.

        Args:
            images: (N, H, W, 3) images in [0, 1].
            train: Whether BatchNorm uses the statistics of the batch.

        Returns:
            The maps of `LEVELS`: "stem" (N, ⌈H/2⌉, ⌈W/2⌉, 32) to "head" (N, ⌈H/32⌉, ⌈W/32⌉, 1280).
        """
        # The published weights expect (255 · x − 127) / 128.
        x = (jnp.asarray(images) * 255.0 - 127.0) / 128.0
        x = _Conv(_STEM, 3, 2, self.dtype, name="stem")(x.astype(jnp.dtype(self.dtype)))
        x = _relu6(_NORM(name="stem_bn")(x, train=train))
        maps = {"stem": x}
        for number, name, block in blocks():
            x = _Block(
                block.expand, block.features, block.stride, block.size, self.dtype, name=name
            )(x, train=train)
            if str(number) in LEVELS:
                maps[str(number)] = x
        x = _Conv(_HEAD, 1, 1, self.dtype, name="head")(x)
        maps["head"] = _relu6(_NORM(name="head_bn")(x, train=train))
        return maps


def blocks() -> Iterator[tuple[int, str, _Stage]]:
    """Yields (stage, name, sizes) of each block. Only the first of a stage strides."""
    count = 0
    for number, stage in enumerate(_STAGES, start=1):
        for block in range(stage.blocks):
            yield number, f"block{count}", stage if block == 0 else stage._replace(stride=1)
            count += 1


def torch_layers() -> Iterator[Layer]:
    """Yields the layer names of the PyTorch port of the published weights (see `torch_names`)."""
    yield "_conv_stem", "stem", "conv2d"
    yield "_bn0", "stem_bn", "batchnorm"
    for count, (_, name, block) in enumerate(blocks()):
        there = f"_blocks.{count}"
        if block.expand > 1:
            yield f"{there}._expand_conv", f"{name}/expand", "conv2d"
            yield f"{there}._bn0", f"{name}/bn0", "batchnorm"
        yield f"{there}._depthwise_conv", f"{name}/depthwise", "conv2d"
        yield f"{there}._bn1", f"{name}/bn1", "batchnorm"
        yield f"{there}._project_conv", f"{name}/project", "conv2d"
        yield f"{there}._bn2", f"{name}/bn2", "batchnorm"
    yield "_conv_head", "head", "conv2d"
    yield "_bn1", "head_bn", "batchnorm"
