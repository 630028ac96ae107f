"""Transformer encoder over the frames of a video (docs/reference.md, section 3)."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dagr_jax.layers.linear import Linear
from dagr_jax.runtime.errors import DagrError


def positions(length: int, dim: int) -> Float[np.ndarray, "t d"]:
    """Sine and cosine position encodings: sine on even channels, cosine on odd channels.

    Args:
        length: Number of frames, T.
        dim: Number of channels, D, even.

    Returns:
        (T, D) float32.

    Raises:
        DagrError: `dim` is odd.
    """
    if dim % 2:
        raise DagrError(f"positions need an even number of channels, got {dim}")
    rate = np.exp(-math.log(1e4) * np.arange(0, dim, 2) / dim)
    angle = np.arange(length)[:, None] * rate
    return np.stack([np.sin(angle), np.cos(angle)], -1).reshape(length, dim).astype(np.float32)


class SelfAttention(nn.Module):
    """Multi-head self-attention, (B, T, D) → (B, T, D). The softmax is float32."""

    num_heads: int
    dropout: float
    dtype: Any

    @nn.compact
    def __call__(
        self, x: Float[Array | np.ndarray, "b t d"], *, train: bool
    ) -> Float[Array, "b t d"]:
        b, t, d = x.shape
        if d % self.num_heads:
            raise DagrError(f"num_heads={self.num_heads} does not divide the {d} channels")
        qkv = Linear(
            3 * d,
            self.dtype,
            kernel_init=nn.initializers.xavier_uniform(),
            bias_init=nn.initializers.zeros,
            name="in_proj",
        )(x)
        qkv = qkv.reshape(b, t, 3, self.num_heads, d // self.num_heads)
        q, k, v = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]  # (B, T, heads, D / heads)
        logits = jnp.einsum("bqhc,bkhc->bhqk", q, k, preferred_element_type=jnp.result_type(float))
        weights = jax.nn.softmax(logits / math.sqrt(d // self.num_heads))  # (B, heads, T, T)
        weights = nn.Dropout(self.dropout, deterministic=not train)(weights)
        y = jnp.einsum("bhqk,bkhc->bqhc", weights.astype(v.dtype), v).reshape(b, t, d)
        return Linear(d, self.dtype, bias_init=nn.initializers.zeros, name="out_proj")(y)


class EncoderLayer(nn.Module):
    """Post-norm encoder layer, (B, T, D) → (B, T, D). The residual stream is float32."""

    num_heads: int
    mlp_dim: int
    dropout: float
    dtype: Any

    @nn.compact
    def __call__(
        self, x: Float[Array | np.ndarray, "b t d"], *, train: bool
    ) -> Float[Array, "b t d"]:
        drop = nn.Dropout(self.dropout, deterministic=not train)
        y = SelfAttention(self.num_heads, self.dropout, self.dtype, name="self_attn")(
            x, train=train
        )
        x = _layer_norm("norm1")(x + drop(y))
        y = drop(nn.relu(Linear(self.mlp_dim, self.dtype, name="linear1")(x)))
        y = Linear(x.shape[-1], self.dtype, name="linear2")(y)
        return _layer_norm("norm2")(x + drop(y))


def _layer_norm(name: str) -> nn.LayerNorm:
    return nn.LayerNorm(
        epsilon=1e-5, dtype=jnp.result_type(float), use_fast_variance=False, name=name
    )


class TemporalTransformer(nn.Module):
    """Position encodings, `num_layers` post-norm encoder layers, mean over time.

    Attributes:
        num_layers: Number of encoder layers.
        num_heads: Number of attention heads; must divide the number of channels.
        mlp_dim: Width of the feed-forward part.
        dropout: Dropout rate in training (rng stream 'dropout').
        dtype: Compute type. Positions, norms, softmax and residuals are always float32.
    """

    num_layers: int = 2
    num_heads: int = 4
    mlp_dim: int = 128
    dropout: float = 0.3
    dtype: Any = "float32"

    @nn.compact
    def __call__(
        self, features: Float[Array | np.ndarray, "b t d"], *, train: bool = False
    ) -> Float[Array, "b d"]:
        """Encodes the features of the frames.

        Args:
            features: (B, T, D) features.
            train: Whether dropout is on.

        Returns:
            (B, D) float32.
        """
        x = jnp.asarray(features, jnp.result_type(float)) + positions(*features.shape[1:])
        for i in range(self.num_layers):
            x = EncoderLayer(
                self.num_heads, self.mlp_dim, self.dropout, self.dtype, name=f"layer{i}"
            )(x, train=train)
        return x.mean(axis=1)
