"""Axis layout of the inputs of the two networks, by preset.

The PyTorch release reshapes where it should transpose, which mixes frames and channels. Its weights
were trained with this layout, so the preset `release` reproduces it (docs/reference.md, sections 2
and 3). The preset `paper` does not change the frames.
"""

from jaxtyping import Array, Float

from dagr_jax.runtime.errors import DagrError

PRESETS = ("paper", "release")


def check_preset(preset: str) -> None:
    """Raises DagrError if the preset is unknown."""
    if preset not in PRESETS:
        raise DagrError(f"preset {preset!r} is unknown; use one of {', '.join(PRESETS)}")


def saliency_layout(video: Float[Array, "b t h w c"], preset: str) -> Float[Array, "b t h w c"]:
    """Returns the input of the saliency network.

    Args:
        video: (B, T, H, W, C) frames.
        preset: 'paper' returns the frames unchanged. 'release' reads the memory of (B, T, C, H, W)
            as (B, C, T, H, W).

    Returns:
        (B, T, H, W, C).

    Raises:
        DagrError: The preset is unknown.
    """
    check_preset(preset)
    if preset == "paper":
        return video
    b, t, h, w, c = video.shape
    return video.transpose(0, 1, 4, 2, 3).reshape(b, c, t, h, w).transpose(0, 2, 3, 4, 1)


def frame_layout(fused: Float[Array, "b t h w c"], preset: str) -> Float[Array, "b t h w c"]:
    """Returns the input of the ResNet.

    Args:
        fused: (B, T, H, W, C) frames fused with saliency.
        preset: 'paper' returns the frames unchanged. 'release' reads the memory of (B, C, T, H, W)
            as (B, T, C, H, W).

    Returns:
        (B, T, H, W, C).

    Raises:
        DagrError: The preset is unknown.
    """
    check_preset(preset)
    if preset == "paper":
        return fused
    b, t, h, w, c = fused.shape
    return fused.transpose(0, 4, 1, 2, 3).reshape(b, t, c, h, w).transpose(0, 1, 3, 4, 2)
