"""PyTorch twins of the networks, for parity tests and speed comparisons.

They are written from docs/reference.md, sections 2 and 3, with PyTorch's own layers. The names in a
`state_dict` are those of the release, so that `convert` can convert weights in both directions. The
layout is PyTorch's, channels before time. Modules compute in the type of their parameters; for
bfloat16, run them under `torch.autocast`.

Only the benchmarks need torch; the rest of the package does not.
"""

import inspect
import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from dagr_jax.bench.twin_losses import check_preset
from dagr_jax.models.dagr import quality_net, unet3d

# Channel statistics of ImageNet in [0, 1].
_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)
# Maximum number of frames for which a transformer has positions.
_MAX_FRAMES = 512


class UNet3D(nn.Module):
    """UNet3D saliency network with register tokens (docs/reference.md, section 2).

    It has 96,243,333 parameters with the default sizes.

    Args:
        widths: Number of channels of the encoder levels.
        bottleneck: Number of channels of the bottleneck.
        num_registers: Number of register tokens, N; 0: no registers (the ablation).
        register_dim: Length of a register token.
        preset: 'release' reshapes (B, T, 3, H, W) to (B, 3, T, H, W), 'paper' transposes.
    """

    def __init__(
        self,
        widths: Sequence[int] = (64, 128, 256, 512),
        bottleneck: int = 1024,
        num_registers: int = 4,
        register_dim: int = 64,
        preset: str = "paper",
    ) -> None:
        super().__init__()
        check_preset(preset)
        self.preset = preset
        self.levels = len(widths)
        self.num_registers = num_registers
        if num_registers:
            self.register_tokens = nn.Parameter(torch.randn(1, num_registers, register_dim, 1, 1))
            self.token_proj = nn.Conv3d(register_dim, num_registers, 1)
        channels = 3 + num_registers
        for level, width in enumerate(widths, start=1):
            self.add_module(f"encoder{level}", _block(channels, width))
            channels = width
        self.bottleneck = _block(channels, bottleneck)
        self.attention = nn.Sequential(
            nn.Conv3d(bottleneck, bottleneck, 1),
            nn.ReLU(inplace=True),
            nn.Conv3d(bottleneck, bottleneck, 1),
            nn.Sigmoid(),
        )
        channels = bottleneck
        for level in range(self.levels, 0, -1):
            width = widths[level - 1]
            self.add_module(f"decoder{level}", _block(channels + width, width))
            channels = width
        self.final_conv = nn.Conv3d(channels, 1, 1)

    def forward(self, video: Float[Tensor, "b t 3 h w"]) -> Float[Tensor, "b 1 t h w"]:
        """RGB video in [0, 1], (B, T, 3, H, W) → saliency logits, (B, 1, T, H, W)."""
        b, t, c, h, w = video.shape
        x = video.transpose(1, 2) if self.preset == "paper" else video.reshape(b, c, t, h, w)
        if self.num_registers:
            field = self.registers(t)[None, :, :, None, None].expand(b, -1, -1, h, w)
            x = torch.cat([field, x], dim=1)  # (B, N + 3, T, H, W)
        skips = []
        for level in range(1, self.levels + 1):
            x = getattr(self, f"encoder{level}")(x)
            skips.append(x)
            x = F.max_pool3d(x, kernel_size=2, stride=2, padding=1)
        x = self.bottleneck(x)
        x = x * self.attention(x)
        for level in range(self.levels, 0, -1):
            skip = skips.pop()
            x = F.adaptive_avg_pool3d(x, skip.shape[2:])
            x = getattr(self, f"decoder{level}")(torch.cat([x, skip], dim=1))
        return self.final_conv(x)

    def registers(self, num_frames: int) -> Float[Tensor, "n t"]:
        """Returns the value of each register channel at each of `num_frames` frames, (N, T).

        The N tokens lie along the time axis and are resized to T by nearest neighbour.
        """
        tokens = self.token_proj(self.register_tokens.transpose(1, 2))[0, :, :, 0, 0]  # (N, N)
        frames = torch.arange(num_frames, device=tokens.device)
        return tokens[:, frames * self.num_registers // num_frames]


def _block(channels: int, width: int) -> nn.Sequential:
    """[3×3×3 convolution, BatchNorm, ReLU] twice."""
    return nn.Sequential(
        nn.Conv3d(channels, width, 3, padding=1),
        nn.BatchNorm3d(width),
        nn.ReLU(inplace=True),
        nn.Conv3d(width, width, 3, padding=1),
        nn.BatchNorm3d(width),
        nn.ReLU(inplace=True),
    )


class Bottleneck(nn.Module):
    """torchvision's bottleneck block, V1.5: 1×1, 3×3 with the stride, 1×1 to 4·width."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        out = 4 * width
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if channels != out or stride != 1:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out)
            )

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d u v"]:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


class Spatial(nn.Module):
    """ResNet without final pooling and classifier, as a Sequential of its children."""

    def __init__(self, stage_sizes: Sequence[int], width: int) -> None:
        super().__init__()
        stages, channels = [], width
        for number, blocks in enumerate(stage_sizes):
            stage = []
            for block in range(blocks):
                stride = 2 if number > 0 and block == 0 else 1
                stage.append(Bottleneck(channels, width * 2**number, stride))
                channels = 4 * width * 2**number
            stages.append(nn.Sequential(*stage))
        self.features = nn.Sequential(
            nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2, padding=1),
            *stages,
        )
        self.channels = channels
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n d"]:
        """Images (N, 3, H, W) → features (N, D), averaged over the image."""
        return self.features(images).mean(dim=(2, 3))


class Temporal(nn.Module):
    """Positions, post-norm transformer encoder, mean over time: (B, T, C) → (B, D), T ≤ 512.

    With `channels` = C, a linear map to D = `dim` comes first; None: C is D.
    """

    def __init__(
        self,
        dim: int,
        num_layers: int,
        num_heads: int,
        mlp_dim: int,
        dropout: float,
        channels: int | None = None,
    ) -> None:
        super().__init__()
        self.proj = nn.Identity() if channels is None else nn.Linear(channels, dim)
        layer = nn.TransformerEncoderLayer(dim, num_heads, mlp_dim, dropout, batch_first=True)
        self.transformer_encoder = nn.TransformerEncoder(
            layer, num_layers, enable_nested_tensor=False
        )
        rate = torch.exp(-math.log(1e4) * torch.arange(0, dim, 2, dtype=torch.float64) / dim)
        angle = torch.arange(_MAX_FRAMES, dtype=torch.float64)[:, None] * rate
        positions = torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)  # sin on even
        self.register_buffer("positions", positions.float(), persistent=False)

    def forward(self, x: Float[Tensor, "b t c"]) -> Float[Tensor, "b d"]:
        x = self.proj(x)
        return self.transformer_encoder(x + self.positions[: x.shape[1]]).mean(dim=1)


class Regressor(nn.Module):
    """Linear, ReLU, Dropout for each hidden width, then Linear to one output: (B, D) → (B,)."""

    def __init__(self, channels: int, hidden: Sequence[int], dropout: float) -> None:
        super().__init__()
        layers: list[Any] = []
        for width in hidden:
            layers += [nn.Linear(channels, width), nn.ReLU(inplace=True), nn.Dropout(dropout)]
            channels = width
        self.regressor = nn.Sequential(*layers, nn.Linear(channels, 1))
        for module in self.regressor:
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, x: Float[Tensor, "b d"]) -> Float[Tensor, " b"]:
        return self.regressor(x).squeeze(-1)


class Quality(nn.Module):
    """Quality network with one of three heads (docs/reference.md, section 3).

    It has 67,096,385 parameters with the default sizes. The arguments are the fields of
    `dagr_jax.models.dagr.quality_net.Model`, which explains them. For the ResNet, preset 'release'
    reshapes (B, 3, T, H, W) to (B·T, 3, H, W), and preset 'paper' transposes.
    """

    def __init__(
        self,
        head: str = "full",
        stage_sizes: Sequence[int] = (3, 4, 6, 3),
        width: int = 64,
        num_layers: int = 2,
        num_heads: int = 4,
        mlp_dim: int = 128,
        projection_dim: int = 2048,
        temporal_dim: int = 1024,
        regressor: Sequence[int] = (256, 128),
        dropout: float = 0.3,
        preset: str = "paper",
        normalize: bool = False,
    ) -> None:
        super().__init__()
        check_preset(preset)
        if head not in ("full", "spatial", "temporal"):
            raise ValueError(f"head {head!r} is unknown; use one of full, spatial, temporal")
        self.head, self.preset, self.normalize = head, preset, normalize
        encoder = (num_layers, num_heads, mlp_dim, dropout)
        if head == "temporal":
            self.temporal_analyzer = Temporal(temporal_dim, *encoder, channels=3)
            self.regressor = Regressor(temporal_dim, regressor, dropout)
        else:
            self.spatial_analyzer = Spatial(stage_sizes, width)
            channels = self.spatial_analyzer.channels
            if head == "full":
                self.temporal_analyzer = Temporal(channels, *encoder)
                self.combined_projector = nn.Linear(2 * channels, projection_dim)
            else:
                self.spatial_projector = nn.Linear(channels, projection_dim)
            self.regressor = Regressor(projection_dim, regressor, dropout)
        if normalize:
            for name, values in (("mean", _IMAGENET_MEAN), ("std", _IMAGENET_STD)):
                self.register_buffer(name, torch.tensor(values).view(3, 1, 1, 1), persistent=False)

    def frame_features(self, fused: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, "b t d"]:
        """Returns features of each frame: averaged ResNet features, or (temporal) mean colour."""
        if self.normalize:
            fused = (fused - self.mean) / self.std
        if self.head == "temporal":
            return fused.mean(dim=(3, 4)).transpose(1, 2)
        b, c, t, h, w = fused.shape
        if self.preset == "paper":
            fused = fused.transpose(1, 2)
        return self.spatial_analyzer(fused.reshape(b * t, c, h, w)).unflatten(0, (b, t))

    def forward(self, fused: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, " b"]:
        """Fused frames in [0, 1] → unclipped scores, (B,), on the scale [0, 1] of the targets."""
        features = self.frame_features(fused)
        if self.head == "temporal":
            return self.regressor(self.temporal_analyzer(features))
        y_s = features.mean(dim=1)
        if self.head == "spatial":
            return self.regressor(self.spatial_projector(y_s))
        both = torch.cat([y_s, self.temporal_analyzer(features)], dim=1)
        return self.regressor(self.combined_projector(both))


def twin_of(model: unet3d.Model | quality_net.Model) -> UNet3D | Quality:
    """Makes a new PyTorch module with the sizes, head and preset of our module.

    Fields that select how JAX computes (`dtype`, `conv_form`) or initialises (`stem_init`) have no
    counterpart.

    Raises:
        TypeError: `model` is neither network, or it has another register layout than the release.
        ValueError: The twin lacks the head of `model`.
    """
    twins: dict[type, type[UNet3D] | type[Quality]] = {
        unet3d.Model: UNet3D,
        quality_net.Model: Quality,
    }
    if type(model) not in twins:
        raise TypeError(
            f"{type(model).__name__} has no twin; give a unet3d.Model or a quality_net.Model"
        )
    if getattr(model, "register_layout", "time") != "time":
        raise TypeError("the twin has the register layout of the release, time, alone")
    twin = twins[type(model)]
    return twin(**{name: getattr(model, name) for name in inspect.signature(twin).parameters})
