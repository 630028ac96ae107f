"""DAGR: frames → saliency maps → fused frames → score (REFERENCE sections 1 and 6)."""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

from dagr_jax.models.contract import Outputs
from dagr_jax.models.dagr import quality_net, unet3d
from dagr_jax.models.dagr.layout import check_preset
from dagr_jax.runtime.errors import DagrError


def fuse(
    frames: Float[Array | np.ndarray, "b t h w 3"],
    maps: Float[Array | np.ndarray, "b t h w"],
    alpha: float,
) -> Float[Array, "b t h w 3"]:
    """Fuses frames and saliency: (1 − α)·I + α·(I ⊙ s), eq. 14 and REFERENCE section 1.

    Args:
      frames: I, (B, T, H, W, 3) in [0, 1].
      maps: s, (B, T, H, W).
      alpha: α in [0, 1].
    """
    frames, maps = jnp.asarray(frames), jnp.asarray(maps)
    return (1 - alpha) * frames + alpha * (frames * maps[..., None])


def normalize_maps(logits: Float[Array | np.ndarray, "*b h w"]) -> Float[Array, "*b h w"]:
    """Saliency maps of logits: sigmoid, then each map min-max normalised on its own to [0, 1].

    A constant map (range below 1e-6, where float32 rounding of the sigmoid would be enlarged to a
    map) is ones: it prefers no place, so it must not change the frame (REFERENCE section 6).
    """
    s = jax.nn.sigmoid(logits)
    low, high = s.min(axis=(-2, -1), keepdims=True), s.max(axis=(-2, -1), keepdims=True)
    constant = high - low < 1e-6
    maps = (s - low) / jnp.where(constant, 1.0, high - low)
    # XLA divides by multiplying with the reciprocal, so that the maximum can miss 1 by one bit.
    return jnp.where(constant | (s == high), 1.0, maps)


def release_maps(maps: Num[Array | np.ndarray, "*b h w"]) -> Float[Array, "*b h w"]:
    """What the PyTorch release makes of stored maps when it loads them (REFERENCE section 1).

    s ← 2s − 1, divided by the map's maximum (at least 1e-6), raised to at least 0.1; an all-zero
    map is ones.

    Args:
      maps: (..., H, W), integers in 0…255 or floats in [0, 1].
    """
    s = _unit(jnp.asarray(maps))
    empty = (s == 0).all(axis=(-2, -1), keepdims=True)
    s = jnp.where(empty, 1.0, (s - 0.5) / 0.5)
    s = s / jnp.maximum(s.max(axis=(-2, -1), keepdims=True), 1e-6)
    return jnp.maximum(s, 0.1)


def _unit(maps: Array) -> Array:
    """Maps as float32: stored integers 0…255 go to [0, 1], floats stay."""
    scale = 255.0 if jnp.issubdtype(maps.dtype, jnp.integer) else 1.0
    return maps.astype(jnp.result_type(float)) / scale


def _resize(images: Array, size: Sequence[int], axes: tuple[int, int]) -> Array:
    """Bilinear, half-pixel centres, antialiased where it shrinks."""
    shape = list(images.shape)
    shape[axes[0]], shape[axes[1]] = size
    if tuple(shape) == images.shape:
        return images
    return jax.image.resize(images, shape, "bilinear", antialias=True)


class Model(nn.Module):
    """Saliency network, fusion and quality network as one model.

    `saliency` and `vqa` are given as plain data, the fields of `unet3d.Model` and
    `quality_net.Model` (what they do not name of preset and dtype is taken from here), and are
    modules afterwards. Parameters and batch statistics lie under 'saliency' and 'vqa'.

    Attributes:
      saliency: fields of `unet3d.Model`, or None for a model without one (α = 0, or with maps
        that were made before).
      vqa: fields of `quality_net.Model`.
      alpha: weight of the saliency in the fused frames, in [0, 1]. With 0 no map is computed.
      saliency_size: (height, width) at which the saliency net sees the frames; None: as they are.
      preset: 'paper' uses the maps as they are; 'release' stores and loads them as the release
        does (`release_maps`), and both networks take its layout.
      dtype: compute type of both networks.
    """

    saliency: Any
    vqa: Any
    alpha: float = 0.5
    saliency_size: Sequence[int] | None = None
    preset: str = "paper"
    dtype: Any = "float32"

    def __post_init__(self) -> None:
        check_preset(self.preset)
        if not 0 <= self.alpha <= 1:
            raise DagrError(f"alpha must be in [0, 1], got {self.alpha}")
        # Flax names a submodule by the field that holds it; parent=None leaves the adopting to us.
        shared = {"preset": self.preset, "dtype": self.dtype}
        if isinstance(self.saliency, Mapping):
            self.saliency = unet3d.Model(**{**shared, **self.saliency}, parent=None)
        if isinstance(self.vqa, Mapping):
            self.vqa = quality_net.Model(**{**shared, **self.vqa}, parent=None)
        super().__post_init__()

    def __call__(
        self,
        inputs: Mapping[str, Num[Array | np.ndarray, "..."]] | Num[Array | np.ndarray, "b t h w 3"],
        *,
        train: bool = False,
    ) -> Outputs:
        """Scores videos.

        The saliency network is frozen: always in eval mode, and no gradient flows into it.

        Args:
          inputs: the frames, or a mapping with them under 'frames': (B, T, H, W, 3), RGB, uint8 or
            float in [0, 255]. Under 'maps' it may hold their saliency maps, (B, T, h, w), floats in
            [0, 1] or integers in 0…255, resized to the frames; where it does not, the saliency
            network makes them.
          train: as in `quality_net.Model`.

        Returns:
          score: (B,), float32, on the [0, 1] scale of the training targets, not clipped.
          maps: {'saliency': (B, T, h, w)} as they were fused with the frames; {} with alpha = 0.

        Raises:
          DagrError: alpha > 0, and there are neither maps nor a saliency network.
        """
        given = inputs if isinstance(inputs, Mapping) else {"frames": inputs}
        frames, maps = given["frames"], given.get("maps")
        # α = 0 needs no maps; init makes the parameters all the same.
        if maps is None and (self.alpha or (self.saliency is not None and self.is_initializing())):
            if self.saliency is None:
                raise DagrError(
                    f"alpha={self.alpha} needs saliency maps, and the model has no saliency "
                    "network; give the field saliency, or maps beside the frames"
                )
            logits = self.saliency(_seen(self, frames), train=False)
            maps = jax.lax.stop_gradient(_as_stored(self, logits))
        fused = jnp.asarray(frames).astype(jnp.result_type(float)) / 255.0
        if not self.alpha:
            return Outputs(self.vqa(fused, train=train))
        maps = _unit(jnp.asarray(maps))
        s = _resize(maps, fused.shape[2:4], (2, 3))
        if self.preset == "release":
            s = release_maps(s)
        return Outputs(self.vqa(fuse(fused, s, self.alpha), train=train), {"saliency": maps})


def saliency_maps(
    model: Model, variables: Mapping[str, Any], frames: Num[Array | np.ndarray, "b t h w 3"]
) -> Float[Array, "b t u v"]:
    """Saliency maps of frames, each from 0 to 1, by the saliency network alone.

    Args:
      model: with a saliency network.
      variables: of the model; those under 'saliency' are enough.
      frames: (B, T, H, W, 3), RGB, uint8 or float in [0, 255].

    Returns:
      (B, T, h, w) in [0, 1], of size `saliency_size` (of the frames if that is None). With preset
      'release' they are multiples of 1/255, as the release stores them.

    Raises:
      DagrError: there is no saliency network.
    """
    if model.saliency is None:
        raise DagrError("the model has no saliency network; give the field saliency")
    own = {kind: tree["saliency"] for kind, tree in variables.items() if "saliency" in tree}
    logits = model.saliency.apply(own, _seen(model, frames), train=False)
    return _as_stored(model, logits)


def _seen(model: Model, frames: Array | np.ndarray) -> Array:
    """Frames as the saliency network sees them: in [0, 1], of `saliency_size`."""
    video = jnp.asarray(frames).astype(jnp.result_type(float)) / 255.0
    if model.saliency_size is not None:
        video = _resize(video, model.saliency_size, (2, 3))
    return video


def _as_stored(model: Model, logits: Any) -> Array:
    """Maps of logits; with preset 'release' as bytes hold them."""
    maps = normalize_maps(logits)
    return jnp.floor(maps * 255.0) / 255.0 if model.preset == "release" else maps
