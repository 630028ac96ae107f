"""How the axes of a video reach the two networks, by preset.

The PyTorch release reshapes where it should transpose, which mixes frames and channels. Weights
trained with it expect that, so the preset `release` reproduces it (REFERENCE sections 2 and 3);
`paper` leaves the frames as they are.
"""

from jaxtyping import Array, Float

from dagr_jax.runtime.errors import DagrError

PRESETS = ("paper", "release")


def check_preset(preset: str) -> None:
    """Raises DagrError if the preset is unknown."""
    if preset not in PRESETS:
        raise DagrError(f"preset {preset!r} is unknown; use one of {', '.join(PRESETS)}")


def saliency_layout(video: Float[Array, "b t h w c"], preset: str) -> Float[Array, "b t h w c"]:
    """The saliency net's input: `release` reads memory of (B,T,3,H,W) as (B,3,T,H,W)."""
    check_preset(preset)
    if preset == "paper":
        return video
    b, t, h, w, c = video.shape
    return video.transpose(0, 1, 4, 2, 3).reshape(b, c, t, h, w).transpose(0, 2, 3, 4, 1)


def frame_layout(fused: Float[Array, "b t h w c"], preset: str) -> Float[Array, "b t h w c"]:
    """The ResNet's input: `release` reads memory of (B,3,T,H,W) as (B,T,3,H,W)."""
    check_preset(preset)
    if preset == "paper":
        return fused
    b, t, h, w, c = fused.shape
    return fused.transpose(0, 4, 1, 2, 3).reshape(b, t, c, h, w).transpose(0, 1, 3, 4, 2)
