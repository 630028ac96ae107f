"""ResNet backbone with bottleneck blocks, torchvision's V1.5 (docs/reference.md, section 3)."""

from collections.abc import Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dagr_jax.layers.conv2d import Conv2D
from dagr_jax.layers.norm import BatchNorm
from dagr_jax.layers.pool import max_pool
from dagr_jax.layers.torch_names import Arrays, Layer, numbers
from dagr_jax.runtime.errors import DagrError

# torchvision's initialisation: normal, variance 2 / fan_out.
_KAIMING = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def gabor_stem(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
    """Initializer of the stem that resembles ImageNet-trained kernels: edges and colour blobs.

    Three of four filters are grey zero-mean Gabor functions, with orientations spread over the half
    circle and wavelengths from 2.2 to 6 pixels. Every fourth filter is a Gaussian with a random
    colour. Random kernels respond mostly to brightness, and a network that starts from them needs
    its first hundreds of steps to learn the fine structure that matters for quality.

    Args:
        key: Random key of the phases and colours.
        shape: (k, k, 3, filters).
        dtype: Type of the kernels.

    Returns:
        (k, k, 3, filters) kernels of unit norm.
    """
    size, _, channels, filters = shape
    phase_key, colour_key = jax.random.split(key)
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    number = np.arange(filters)
    golden = (np.sqrt(5) - 1) / 2  # its multiples modulo 1 fill the interval evenly
    angle = np.pi * (number * golden % 1)
    wavelength = 2.2 * (6 / 2.2) ** (number / max(filters - 1, 1))
    phase = jax.random.uniform(phase_key, (filters,), maxval=2 * np.pi)
    across = x[..., None] * np.cos(angle) + y[..., None] * np.sin(angle)  # (k, k, filters)
    window = np.exp(-(x**2 + y**2)[..., None] / (2 * (0.45 * wavelength) ** 2))
    wave = window * jnp.cos(2 * np.pi * across / wavelength + phase)
    wave = wave - wave.mean((0, 1))
    edges = jnp.broadcast_to(wave[:, :, None], shape)
    colour = jax.random.normal(colour_key, (channels, filters))
    blob = np.exp(-(x**2 + y**2) / (2 * 1.5**2))[..., None, None] * colour
    kernel = jnp.where(number % 4 == 3, blob, edges)
    return (kernel / jnp.sqrt((kernel**2).sum((0, 1, 2)))).astype(dtype)


_STEM_INIT = {"kaiming": _KAIMING, "gabor": gabor_stem}


class Bottleneck(nn.Module):
    """Bottleneck block: 1×1, 3×3 (with the stride, as in V1.5), 1×1 to 4·features, shortcut."""

    features: int
    stride: int
    dtype: Any

    @nn.compact
    def __call__(
        self, x: Float[Array | np.ndarray, "n h w c"], *, train: bool
    ) -> Float[Array, "n u v d"]:
        def conv(features: int, size: int, stride: int, name: str) -> Conv2D:
            return Conv2D(features, size, stride, self.dtype, _KAIMING, name=name)

        out = 4 * self.features
        y = conv(self.features, 1, 1, "conv1")(x)
        y = nn.relu(BatchNorm(name="bn1")(y, train=train))
        y = conv(self.features, 3, self.stride, "conv2")(y)
        y = nn.relu(BatchNorm(name="bn2")(y, train=train))
        y = conv(out, 1, 1, "conv3")(y)
        y = BatchNorm(name="bn3")(y, train=train)
        if x.shape[-1] != out or self.stride != 1:
            x = conv(out, 1, self.stride, "downsample_conv")(x)
            x = BatchNorm(name="downsample_bn")(x, train=train)
        return nn.relu(x + y)


class ResNet(nn.Module):
    """ResNet without the final pooling and classifier; ResNet-50 by default.

    Attributes:
        stage_sizes: Number of blocks in each stage. Every stage after the first halves the height
            and width.
        width: Number of stem channels; stage s has 4·width·2^s channels.
        dtype: Compute type. Parameters and norms are float32.
        stem_init: Initializer of the stem: 'kaiming' (torchvision's) or 'gabor' (a substitute for
            ImageNet weights).
    """

    stage_sizes: Sequence[int] = (3, 4, 6, 3)
    width: int = 64
    dtype: Any = "float32"
    stem_init: str = "kaiming"

    @nn.compact
    def __call__(
        self, images: Float[Array | np.ndarray, "n h w 3"], *, train: bool = False
    ) -> Float[Array, "n u v d"]:
        """Computes the feature maps of images.

        Args:
            images: (N, H, W, 3) images.
            train: Whether BatchNorm uses the statistics of the batch.

        Returns:
            (N, ⌈H/32⌉, ⌈W/32⌉, 32·width) features, with four stages.
        """
        if self.stem_init not in _STEM_INIT:
            known = ", ".join(_STEM_INIT)
            raise DagrError(f"stem_init {self.stem_init!r} is unknown; use one of {known}")
        x = images.astype(jnp.dtype(self.dtype))
        x = Conv2D(self.width, 7, 2, self.dtype, _STEM_INIT[self.stem_init], name="conv1")(x)
        x = nn.relu(BatchNorm(name="bn1")(x, train=train))
        x = max_pool(x, window=3, padding=1, axes=(1, 2))
        for stage, blocks in enumerate(self.stage_sizes):
            for block in range(blocks):
                x = Bottleneck(
                    self.width * 2**stage,
                    2 if stage > 0 and block == 0 else 1,
                    self.dtype,
                    name=f"layer{stage + 1}_{block}",
                )(x, train=train)
        return x


def torch_layers(stage_sizes: Sequence[int]) -> Iterator[Layer]:
    """Yields torchvision's layer names of a ResNet (see `torch_names`). timm uses the same names.

    Args:
        stage_sizes: Number of blocks in each stage.
    """
    yield "conv1", "conv1", "conv2d"
    yield "bn1", "bn1", "batchnorm"
    for stage, blocks in enumerate(stage_sizes, start=1):
        for block in range(blocks):
            name, path = f"layer{stage}.{block}", f"layer{stage}_{block}"
            for i in (1, 2, 3):
                yield f"{name}.conv{i}", f"{path}/conv{i}", "conv2d"
                yield f"{name}.bn{i}", f"{path}/bn{i}", "batchnorm"
            if block == 0:
                yield f"{name}.downsample.0", f"{path}/downsample_conv", "conv2d"
                yield f"{name}.downsample.1", f"{path}/downsample_bn", "batchnorm"


def torch_stage_sizes(arrays: Arrays, prefix: str = "layer", first: int = 1) -> tuple[int, ...]:
    """Counts the blocks in each stage of a ResNet state_dict.

    Args:
        arrays: Arrays of the state_dict.
        prefix: Prefix of the stage names; stages are named <prefix><first>, <prefix><first + 1>, …
        first: Number of the first stage.

    Returns:
        Number of blocks in each stage.
    """
    sizes: list[int] = []
    while blocks := numbers(arrays, rf"{prefix}{first + len(sizes)}\.(\d+)\."):
        sizes.append(1 + max(blocks))
    return tuple(sizes)
