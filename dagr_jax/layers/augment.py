"""Augmentation on the device, inside the train step.

Every draw is keyed by (seed, step, record), never by the position in the batch. The result
therefore does not depend on the number of devices or hosts. Each value is drawn once per video, so
that a static scene stays static. (The release draws the colour per frame, which makes the video
flicker: docs/reference.md, section 3.)
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer, Num

from dagr_jax.runtime.errors import DagrError

# ITU-R BT.601 luma, which PIL and torchvision use for grey.
LUMA = (0.299, 0.587, 0.114)


@dataclasses.dataclass(frozen=True)
class Augment:
    """Settings of the augmentation. The defaults turn it off.

    Attributes:
        flip: Mirror the video left-right with probability 1/2.
        jitter: Draw factors for brightness, contrast and saturation from U[1 − jitter, 1 + jitter],
            once per video (the release uses 0.2).
        crop: (height, width) in pixels of a random window, the same for all frames and maps of a
            video. None: no crop.
    """

    flip: bool = False
    jitter: float = 0.0
    crop: tuple[int, int] | None = None


def to_unit(x: Num[Array, "..."]) -> Float[Array, "..."]:
    """[0, 255] → [0, 1] in the default float type (float64 under jax_enable_x64)."""
    return x.astype(jnp.result_type(float)) / 255


def record_keys(key: jax.Array, index: Integer[Array, " b"]) -> jax.Array:
    """Derives one random key for each record of a batch.

    Args:
        key: Random key that already depends on the seed and the step.
        index: (B,) record numbers.

    Returns:
        (B,) random keys.
    """
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(index.astype(jnp.uint32))


def augment_batch(
    key: jax.Array,
    index: Integer[Array, " b"],
    frames: Num[Array, "b t h w 3"],
    maps: Num[Array, "b t h2 w2"] | None,
    config: Augment,
) -> tuple[jax.Array, jax.Array | None]:
    """Augments the frames and maps of each video with the same draws.

    Args:
        key: Random key of this step.
        index: (B,) record numbers. The same record at the same step gives the same draws.
        frames: (B, T, H, W, 3) in [0, 255], uint8 or float.
        maps: (B, T, h, w) saliency maps, any type and scale, or None. With `crop` they are first
            resized to the size of the frames (bilinear, as in the model), so that one window fits
            both.
        config: Settings of the augmentation.

    Returns:
        (frames, maps) with the same range. They stay uint8 if no arithmetic was needed, else they
        are float.

    Raises:
        DagrError: The crop is larger than the frames.
    """
    h, w = frames.shape[2:4]
    if config.crop and (config.crop[0] > h or config.crop[1] > w):
        raise DagrError(f"augment.crop={config.crop} is larger than the frames, {h}x{w}")
    if config.crop and maps is not None and maps.shape[2:] != (h, w):
        shape = (*maps.shape[:2], h, w)
        maps = jax.image.resize(maps.astype(jnp.result_type(float)), shape, "bilinear")
    keys = record_keys(key, index)
    if maps is None:
        return jax.vmap(lambda k, f: _augment_one(k, f, None, config)[0])(keys, frames), None
    return jax.vmap(lambda k, f, m: _augment_one(k, f, m, config))(keys, frames, maps)


def _augment_one(
    key: jax.Array, frames: jax.Array, maps: jax.Array | None, config: Augment
) -> tuple[jax.Array, jax.Array | None]:
    """Augments one video (T, H, W, 3) and its maps (T, h, w)."""
    crop_key, flip_key, colour_key = jax.random.split(key, 3)
    both = [x for x in (frames, maps) if x is not None]
    if config.crop:
        (h, w), room = config.crop, frames.shape[1:3]
        limits = jnp.array([room[0] - h + 1, room[1] - w + 1])
        top, left = jax.random.randint(crop_key, (2,), 0, limits)
        both = [
            jax.lax.dynamic_slice_in_dim(jax.lax.dynamic_slice_in_dim(x, top, h, 1), left, w, 2)
            for x in both
        ]
    if config.flip:
        mirrored = jax.random.bernoulli(flip_key)
        both = [jnp.where(mirrored, jnp.flip(x, axis=2), x) for x in both]
    if config.jitter:
        both[0] = colour_jitter(colour_key, both[0], config.jitter)
    return both[0], both[1] if maps is not None else None


def colour_jitter(
    key: jax.Array, frames: Num[Array, "t h w 3"], amount: float
) -> Num[Array, "t h w 3"]:
    """Changes brightness, contrast and saturation of a video, each by one factor.

    The pivot of the contrast is the mean luma of the whole clip. A pivot per frame would make the
    video flicker.

    Args:
        key: Random key.
        frames: (T, H, W, 3) in [0, 255].
        amount: The factors are drawn from U[1 − amount, 1 + amount].

    Returns:
        (T, H, W, 3) float, clipped to [0, 255].
    """
    bright, contrast, saturation = jax.random.uniform(
        key, (3,), minval=1 - amount, maxval=1 + amount
    )
    x = jnp.clip(frames.astype(jnp.result_type(float)) * bright, 0, 255)
    pivot = (x @ jnp.array(LUMA)).mean()
    x = jnp.clip(pivot + (x - pivot) * contrast, 0, 255)
    grey = (x @ jnp.array(LUMA))[..., None]
    return jnp.clip(grey + (x - grey) * saturation, 0, 255)
