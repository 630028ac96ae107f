"""The starter model: ImageNet features of the whole frame and of native windows → score.

Source: docs/starter.md. Each sampled frame is seen twice by the same frozen EfficientNet-Lite0:
squeezed to one size, which shows the composition and, because it is squeezed without antialiasing,
still some of its finest structure; and in a few windows at its own resolution. Of both, the means
and standard deviations of several maps of the network are kept. A small network with a temporal
transformer turns them into a score.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

from dagr_jax.layers.attention import TemporalTransformer
from dagr_jax.layers.efficientnet import LEVELS, EfficientNetLite0
from dagr_jax.layers.linear import Linear
from dagr_jax.layers.norm import BatchNorm
from dagr_jax.models.contract import Outputs


def statistics(maps: Mapping[str, Array], levels: Sequence[str]) -> Float[Array, "n d"]:
    """Computes the means and standard deviations of feature maps over the image.

    Args:
        maps: Name of the level → (N, h, w, C).
        levels: Levels to use, in order.

    Returns:
        (N, 2 · ΣC) float32: mean and deviation of the channels of each level in turn.
    """
    found = []
    for level in levels:
        wide = maps[level].astype(jnp.result_type(float))
        mean = wide.mean((1, 2))
        # Two passes: E[x²] − E[x]² is imprecise for small variances.
        variance = jnp.square(wide - mean[:, None, None]).mean((1, 2))
        found += [mean, jnp.sqrt(variance + 1e-8)]
    return jnp.concatenate(found, axis=-1)


class Head(nn.Module):
    """Features of the frames → score: (B, T, D) → (B,), float32.

    Attributes:
        width: Channels after the projection; must be divisible by `num_heads` and by 2.
        num_layers: Layers of the temporal transformer.
        num_heads: Attention heads of the transformer.
        mlp_dim: Hidden width of the MLPs of the transformer.
        dropout: Dropout rate.
    """

    width: int
    num_layers: int
    num_heads: int
    mlp_dim: int
    dropout: float

    @nn.compact
    def __call__(self, features: Float[Array, "b t d"], *, train: bool) -> Float[Array, " b"]:
        drop = nn.Dropout(self.dropout, deterministic=not train)
        # The features have very different scales.
        x = BatchNorm(name="norm")(features, train=train)
        x = drop(nn.gelu(Linear(self.width, name="projection")(drop(x))))
        spatial = x.mean(axis=1)
        temporal = TemporalTransformer(
            self.num_layers, self.num_heads, self.mlp_dim, self.dropout, name="temporal"
        )(x, train=train)
        x = jnp.concatenate([spatial, temporal], axis=-1)
        return Linear(1, name="score")(x)[:, 0]


class Model(nn.Module):
    """Backbone and head as one model. Parameters are under 'backbone' and 'head'.

    Attributes:
        levels: Maps of the backbone that are used, names of `efficientnet.LEVELS`.
        width: Channels of the head.
        num_layers: Layers of the temporal transformer.
        num_heads: Attention heads of the transformer.
        mlp_dim: Hidden width of the MLPs of the transformer.
        dropout: Dropout rate of the head.
        dtype: Compute type of the backbone. The head is float32.
    """

    levels: Sequence[str] = tuple(LEVELS)
    width: int = 128
    num_layers: int = 1
    num_heads: int = 4
    mlp_dim: int = 128
    dropout: float = 0.3
    dtype: Any = "float32"

    def setup(self) -> None:
        self.backbone = EfficientNetLite0(self.dtype)
        self.head = Head(self.width, self.num_layers, self.num_heads, self.mlp_dim, self.dropout)

    def whole(self, frames: Num[Array | np.ndarray, "b t h w 3"]) -> Float[Array, "b t d"]:
        """Computes the features of squeezed frames: (B, T, H, W, 3) in 0…255 → (B, T, D)."""
        frames = jnp.asarray(frames)
        b, t = frames.shape[:2]
        images = frames.reshape(b * t, *frames.shape[2:]).astype(jnp.result_type(float)) / 255.0
        maps = self.backbone(images)
        return statistics(maps, self.levels).reshape(b, t, -1)

    def details(self, windows: Num[Array | np.ndarray, "b n t h w 3"]) -> Float[Array, "b t d"]:
        """Computes the mean features of n windows: (B, n, T, h, w, 3) in 0…255 → (B, T, D)."""
        windows = jnp.asarray(windows)
        b, n, t = windows.shape[:3]
        each = self.whole(windows.reshape(b * n, *windows.shape[2:]))
        return each.reshape(b, n, t, -1).mean(axis=1)

    def __call__(self, inputs: Mapping[str, Any], *, train: bool = False) -> Outputs:
        """Scores videos.

        Args:
            inputs: "frames" (B, T, H, W, 3) and "windows" (B, n, T, h, w, 3), in 0…255; or what was
                computed from them before, "whole" and "details" (B, T, D).
            train: Whether dropout is on (rng 'dropout') and the norm of the head uses the
                statistics of the batch ('batch_stats' must then be mutable).

        Returns:
            The scores, on the [0, 1] scale of the training targets, not clipped.
        """
        seen = inputs["whole"] if "whole" in inputs else self.whole(inputs["frames"])
        near = inputs["details"] if "details" in inputs else self.details(inputs["windows"])
        features = jnp.concatenate([jnp.asarray(seen), jnp.asarray(near)], axis=-1)
        return Outputs(score=self.head(features, train=train))
