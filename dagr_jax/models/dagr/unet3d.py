"""The saliency network: UNet3D with register tokens (docs/reference.md, section 2).

It has 96,243,333 parameters with the default widths and four registers.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jax.nn.initializers import Initializer
from jaxtyping import Array, Float

from dagr_jax.layers.conv3d import Conv3D
from dagr_jax.layers.linear import Linear, fan_in_uniform
from dagr_jax.layers.norm import BatchNorm
from dagr_jax.layers.parameter import parameter
from dagr_jax.layers.pool import max_pool
from dagr_jax.layers.torch_names import Arrays, Layer, numbers, size
from dagr_jax.models.dagr.layout import saliency_layout
from dagr_jax.runtime.errors import DagrError

TORCH_KEYS = ("encoder1.",)


LAYOUTS = ("time", "channels")


class Registers(nn.Module):
    """N learned tokens that become N input channels, the same for every video.

    Attributes:
        num_registers: N, the number of tokens and also the number of channels.
        register_dim: Length of a token.
        layout: Which frames a token reaches. 'time', as in the release: token k is at the frames t
            with ⌊t·N/T⌋ = k, in all N channels, so that with N > T only T tokens are used.
            'channels', as the paper describes: token k is one channel, at all frames.
        scale: Factor of the initial projection. 1 is PyTorch's default, as in the release. With 0,
            the channels are 0 until the first update.
    """

    num_registers: int
    register_dim: int
    layout: str = "time"
    scale: float = 1.0

    @nn.compact
    def __call__(self, num_frames: int) -> Float[Array, "t n"]:
        """Returns the value of each register channel at each frame.

        Args:
            num_frames: T, the number of frames.

        Returns:
            (T, N). With layout 'time' and T = N, these are the projected tokens, one per row.

        Raises:
            DagrError: The layout is unknown.
        """
        if self.layout not in LAYOUTS:
            raise DagrError(
                f"register_layout {self.layout!r} is unknown; use one of {', '.join(LAYOUTS)}"
            )
        tokens = parameter(
            self, "tokens", nn.initializers.normal(1.0), (self.num_registers, self.register_dim)
        )
        init = _scaled(fan_in_uniform(self.register_dim), self.scale)
        project = Linear(self.num_registers, kernel_init=init, bias_init=init, name="proj")
        values = project(tokens)  # (N tokens, N channels)
        if self.layout == "channels":
            return jnp.broadcast_to(jnp.diagonal(values), (num_frames, self.num_registers))
        # The tokens are along time; they are resized to T frames by nearest neighbour.
        return values[np.arange(num_frames) * self.num_registers // num_frames]


def _scaled(init: Initializer, factor: float) -> Initializer:
    return lambda *args, **kwargs: factor * init(*args, **kwargs)


# `Model.remat` → policy for which values of a block are kept for the gradient.
_CONVOLVED = "convolved"
REMAT: dict[str, Any] = {
    "none": None,
    "norms": jax.checkpoint_policies.save_only_these_names(_CONVOLVED),
    "blocks": jax.checkpoint_policies.nothing_saveable,
}


class Block(nn.Module):
    """[3×3×3 convolution, BatchNorm, ReLU] twice: (B, T, H, W, C) → (B, T, H, W, features).

    Attributes:
        features: Number of output channels.
        conv_form: How the convolutions are computed (see `conv3d.Conv3D`).
        dtype: Compute type.
    """

    features: int
    conv_form: str
    dtype: Any

    @nn.compact
    def __call__(
        self, x: Float[Array, "b t h w c"], train: bool, **joined: Array
    ) -> Float[Array, "b t h w d"]:
        """Applies the block.

        Args:
            x: (B, T, H, W, C) input.
            train: Whether BatchNorm uses batch statistics.
            **joined: Other inputs of the first convolution, `low` or `field` (see
                `conv3d.Conv3D`).

        Returns:
            (B, T, H, W, features).
        """
        for i in (1, 2):
            conv = Conv3D(self.features, self.conv_form, self.dtype, name=f"conv{i}")
            x = checkpoint_name(conv(x, train=train, **(joined if i == 1 else {})), _CONVOLVED)
            x = nn.relu(BatchNorm(name=f"bn{i}")(x, train=train))
        return x


class Model(nn.Module):
    """UNet3D saliency network.

    Attributes:
        widths: Number of channels of each encoder level.
        bottleneck: Number of channels of the bottleneck, below the encoder levels.
        num_registers: N; 0 for the network without registers (the ablation).
        register_dim: Length of a register token.
        register_layout: Which frames a token reaches, 'time' or 'channels' (see `Registers`).
        register_scale: Factor of the initial projection of the tokens (see `Registers`).
        preset: 'paper' or 'release' (see `layout.saliency_layout`).
        conv_form: How the convolutions are computed (see `conv3d.Conv3D`).
        remat: What training recomputes for the gradient instead of keeping it. 'none': nothing.
            'norms': norms and activations; only the outputs of the convolutions are kept. 'blocks':
            everything except the inputs of the blocks, at the cost of another forward pass.
        dtype: Compute type, 'float32' or 'bfloat16'. Parameters, norms and logits are float32.
    """

    widths: Sequence[int] = (64, 128, 256, 512)
    bottleneck: int = 1024
    num_registers: int = 4
    register_dim: int = 64
    register_layout: str = "time"
    register_scale: float = 1.0
    preset: str = "paper"
    conv_form: str = "auto"
    remat: str = "none"
    dtype: Any = "float32"

    @nn.compact
    def __call__(
        self, video: Float[Array | np.ndarray, "b t h w 3"], *, train: bool = False
    ) -> Float[Array, "b t h w"]:
        """Computes saliency logits.

        Args:
            video: (B, T, H, W, 3) frames, RGB in [0, 1].
            train: Whether BatchNorm uses batch statistics ('batch_stats' must then be mutable).

        Returns:
            (B, T, H, W) float32 logits. Their sigmoid is the saliency.

        Raises:
            DagrError: The preset, `register_layout`, `conv_form` or `remat` is unknown.
        """
        dtype = jnp.dtype(self.dtype)
        x = saliency_layout(jnp.asarray(video), self.preset).astype(dtype)
        joined = {}
        if self.num_registers:  # N channels before the three of the video
            registers = Registers(
                self.num_registers,
                self.register_dim,
                self.register_layout,
                self.register_scale,
                name="registers",
            )
            joined = {"field": registers(x.shape[1]).astype(dtype)}

        skips = []
        for level, features in enumerate(self.widths, start=1):
            x = self._block(features, f"encoder{level}")(x, train, **joined)
            joined = {}
            skips.append(x)
            x = max_pool(x, window=2, padding=1, axes=(1, 2, 3))  # n → ⌊n/2⌋ + 1

        x = self._block(self.bottleneck, "bottleneck")(x, train)
        gate = nn.relu(Linear(self.bottleneck, self.dtype, name="attention1")(x))
        x = x * nn.sigmoid(Linear(self.bottleneck, self.dtype, name="attention2")(gate))

        for level in range(len(self.widths), 0, -1):
            block = self._block(self.widths[level - 1], f"decoder{level}")
            x = block(skips[level - 1], train, low=x)  # channels: upsampled x, then the skip
        return Linear(1, name="final_conv")(x)[..., 0]

    def _block(self, features: int, name: str) -> Block:
        if self.remat not in REMAT:
            raise DagrError(f"remat {self.remat!r} is unknown; use one of {', '.join(REMAT)}")
        kind = Block
        if policy := REMAT[self.remat]:
            kind = nn.remat(Block, policy=policy, static_argnums=2)  # of (self, x, train)
        return kind(features, self.conv_form, self.dtype, name=name)


def of_torch(arrays: Arrays) -> Model:
    """Returns the model, with preset 'release', that has the sizes of a PyTorch state_dict."""
    levels = max(numbers(arrays, r"encoder([1-9]\d*)\."))
    registers = any(key == "register_tokens" or key.startswith("token_proj.") for key in arrays)
    paper = Model()
    widths = (*paper.widths, *[64] * levels)[:levels]
    return Model(
        widths=tuple(
            size(arrays, f"encoder{i}.0.weight", 0, width) for i, width in enumerate(widths, 1)
        ),
        bottleneck=size(arrays, "bottleneck.0.weight", 0, paper.bottleneck),
        num_registers=size(arrays, "register_tokens", 1, paper.num_registers) if registers else 0,
        register_dim=size(arrays, "register_tokens", 2, paper.register_dim),
        preset="release",
    )


def torch_layers(model: Model) -> Iterator[Layer]:
    """Yields the PyTorch layers of a model (see `torch_names`).

    Raises:
        DagrError: The register layout is not that of the release, which would compute other maps.
    """
    if model.num_registers and model.register_layout != "time":
        raise DagrError(
            f"a network with register_layout {model.register_layout!r} has no counterpart in the "
            "PyTorch release, whose tokens lie along time; train one with register_layout 'time'"
        )
    if model.num_registers:
        yield "register_tokens", "registers", "tokens"
        yield "token_proj", "registers/proj", "conv1x1x1"
    levels = range(1, len(model.widths) + 1)
    encoders, decoders = [f"encoder{i}" for i in levels], [f"decoder{i}" for i in reversed(levels)]
    for block in (*encoders, "bottleneck", *decoders):
        for i, (conv, norm) in enumerate(((0, 1), (3, 4)), start=1):
            yield f"{block}.{conv}", f"{block}/conv{i}", "conv3d"
            yield f"{block}.{norm}", f"{block}/bn{i}", "batchnorm"
    yield "attention.0", "attention1", "conv1x1x1"
    yield "attention.2", "attention2", "conv1x1x1"
    yield "final_conv", "final_conv", "conv1x1x1"


def describe(model: Model) -> str:
    """Describes the network in words, for messages."""
    registers = f"with {model.num_registers}" if model.num_registers else "without"
    return f"the saliency net {registers} registers"
