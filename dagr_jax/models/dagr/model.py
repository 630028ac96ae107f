"""DAGR: frames → saliency maps → fused frames → score (docs/reference.md, sections 1 and 6)."""

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
    """Fuses frames and saliency maps: (1 − α)·I + α·(I ⊙ s).

    Source: eq. 14 and docs/reference.md, section 1.

    Args:
        frames: I, (B, T, H, W, 3) frames in [0, 1].
        maps: s, (B, T, H, W) saliency maps.
        alpha: α, weight of the saliency in [0, 1].

    Returns:
        (B, T, H, W, 3) fused frames.
    """
    frames, maps = jnp.asarray(frames), jnp.asarray(maps)
    return (1 - alpha) * frames + alpha * (frames * maps[..., None])


def normalize_maps(logits: Float[Array | np.ndarray, "*b h w"]) -> Float[Array, "*b h w"]:
    """Computes saliency maps: sigmoid of the logits, then min-max normalisation of each map.

    A constant map becomes ones: it prefers no place, so it must not change the frame
    (docs/reference.md, section 6). A map is constant if its range is below 1e-6; normalisation
    would amplify the float32 rounding of the sigmoid to a full-range map.

    Args:
        logits: (..., H, W) logits.

    Returns:
        (..., H, W) maps in [0, 1].
    """
    s = jax.nn.sigmoid(logits)
    low, high = s.min(axis=(-2, -1), keepdims=True), s.max(axis=(-2, -1), keepdims=True)
    constant = high - low < 1e-6
    maps = (s - low) / jnp.where(constant, 1.0, high - low)
    # XLA divides by multiplying with the reciprocal, so the maximum can differ from 1 by one bit.
    return jnp.where(constant | (s == high), 1.0, maps)


def release_maps(maps: Num[Array | np.ndarray, "*b h w"]) -> Float[Array, "*b h w"]:
    """Transforms stored maps like the PyTorch release when it loads them.

    s ← 2s − 1, divided by the maximum of the map (at least 1e-6), then raised to at least 0.1. An
    all-zero map becomes ones. Source: docs/reference.md, section 1.

    Args:
        maps: (..., H, W) maps, integers in 0…255 or floats in [0, 1].

    Returns:
        (..., H, W) maps in [0.1, 1].
    """
    s = _unit(jnp.asarray(maps))
    empty = (s == 0).all(axis=(-2, -1), keepdims=True)
    s = jnp.where(empty, 1.0, (s - 0.5) / 0.5)
    s = s / jnp.maximum(s.max(axis=(-2, -1), keepdims=True), 1e-6)
    return jnp.maximum(s, 0.1)


def _unit(maps: Array) -> Array:
    """Returns maps as float32. Integers in 0…255 are scaled to [0, 1]; floats are not scaled."""
    scale = 255.0 if jnp.issubdtype(maps.dtype, jnp.integer) else 1.0
    return maps.astype(jnp.result_type(float)) / scale


def _resize(images: Array, size: Sequence[int], axes: tuple[int, int]) -> Array:
    """Resizes with the bilinear kernel and half-pixel centres, with antialiasing when it shrinks.

    Args:
        images: Array of images.
        size: (height, width) of the result in pixels.
        axes: Axes of height and width.
    """
    shape = list(images.shape)
    shape[axes[0]], shape[axes[1]] = size
    if tuple(shape) == images.shape:
        return images
    return jax.image.resize(images, shape, "bilinear", antialias=True)


class Model(nn.Module):
    """Saliency network, fusion and quality network as one model.

    `saliency` and `vqa` are passed as plain data, the fields of `unet3d.Model` and
    `quality_net.Model`, and are modules afterwards. If their fields do not contain preset or dtype,
    those of this model are used. Parameters and batch statistics are under 'saliency' and 'vqa'.

    Attributes:
        saliency: Fields of `unet3d.Model`; None for a model without a saliency network (α = 0, or
            precomputed maps).
        vqa: Fields of `quality_net.Model`.
        alpha: Weight of the saliency in the fused frames, in [0, 1]. With 0, no map is computed.
        saliency_size: (height, width) in pixels to which frames are resized for the saliency
            network; None: the size of the frames.
        preset: 'paper' uses the maps unchanged. 'release' stores and loads maps like the release
            (`release_maps`), and both networks use its layout.
        dtype: Compute type of both networks.
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
        # Flax names a submodule by the field that holds it. With parent=None, the submodule is not
        # attached to another parent before that.
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

        The saliency network is frozen: it is always in eval mode, and no gradient flows into it.

        Args:
            inputs: The frames, or a mapping with the frames under 'frames': (B, T, H, W, 3), RGB,
                uint8 or float in [0, 255]. The mapping may contain their saliency maps under
                'maps': (B, T, h, w), floats in [0, 1] or integers in 0…255, which are resized to
                the frames. Without maps, the saliency network computes them.
            train: Whether dropout is on (rng 'dropout') and BatchNorm uses batch statistics
                ('batch_stats' must be mutable), in the quality network.

        Returns:
            `Outputs` with these fields:
            score: (B,) float32, on the [0, 1] scale of the training targets, not clipped.
            maps: {'saliency': (B, T, h, w)}, the maps before they are resized to the frames; {} if
                alpha is 0.

        Raises:
            DagrError: alpha is above 0, and there are neither maps nor a saliency network.
        """
        given = inputs if isinstance(inputs, Mapping) else {"frames": inputs}
        frames, maps = given["frames"], given.get("maps")
        # α = 0 needs no maps, but init must still create the parameters of the saliency network.
        if maps is None and (self.alpha or (self.saliency is not None and self.is_initializing())):
            if self.saliency is None:
                raise DagrError(
                    f"alpha={self.alpha} needs saliency maps, and the model has no saliency "
                    "network; set the field saliency, or pass maps with the frames"
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
    """Computes the saliency maps of frames, with the saliency network alone.

    Args:
        model: Model with a saliency network.
        variables: Variables of the model. Only those under 'saliency' are needed.
        frames: (B, T, H, W, 3) frames, RGB, uint8 or float in [0, 255].

    Returns:
        (B, T, h, w) maps in [0, 1], each min-max normalised. Their size is `saliency_size`, or the
        size of the frames if `saliency_size` is None. With preset 'release', the values are
        multiples of 1/255, as the release stores them.

    Raises:
        DagrError: There is no saliency network.
    """
    if model.saliency is None:
        raise DagrError("the model has no saliency network; set the field saliency")
    own = {kind: tree["saliency"] for kind, tree in variables.items() if "saliency" in tree}
    logits = model.saliency.apply(own, _seen(model, frames), train=False)
    return _as_stored(model, logits)


def _seen(model: Model, frames: Array | np.ndarray) -> Array:
    """Returns the input of the saliency network: frames in [0, 1], resized to `saliency_size`."""
    video = jnp.asarray(frames).astype(jnp.result_type(float)) / 255.0
    if model.saliency_size is not None:
        video = _resize(video, model.saliency_size, (2, 3))
    return video


def _as_stored(model: Model, logits: Any) -> Array:
    """Returns the maps of logits; with preset 'release', rounded down to multiples of 1/255."""
    maps = normalize_maps(logits)
    return jnp.floor(maps * 255.0) / 255.0 if model.preset == "release" else maps
