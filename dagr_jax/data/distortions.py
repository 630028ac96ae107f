"""Distortions of the pristine clips of the embedded corpus."""

import dataclasses
import itertools

import numpy as np
from PIL import Image
from scipy import ndimage

from dagr_jax.runtime.errors import DagrError

# Constant rate factors from nearly transparent to very bad, on the scale of each codec.
CRF_RANGE = {"h264": (17, 50), "hevc": (18, 50), "vp9": (20, 63), "av1": (24, 63)}
# After its distortion, every clip is encoded by x264 with a constant rate factor in this range,
# which is nearly transparent. Real quality sets come from platforms that re-encode every upload, so
# the bitrate says little about the distortion.
DELIVERY_CRF = (4, 12)


@dataclasses.dataclass(frozen=True)
class Distortion:
    """Distortion of a clip.

    Attributes:
        kind: "compress", "blur", "noise", "rescale", "exposure", "freeze" or "drop".
        level: Severity in [0, 1].
        codec: Codec that compresses the clip as the last distortion; None: no compression.
        crf: Constant rate factor of `codec`; None if `codec` is None.
        delivery_crf: Constant rate factor of the delivered x264 file.
    """

    kind: str
    level: float
    codec: str | None
    crf: int | None
    delivery_crf: int


PLANS = ("delivery", "capture")


def plan(rng: np.random.Generator, name: str = "delivery") -> list[Distortion]:
    """Draws the five distortions of one content, of various kinds and severities.

    The plan "delivery" models the delivery from a studio: two clips compressed by x264 or x265 (one
    lightly, one heavily), one clip compressed by VP9 or AV1, one with a spatial distortion, and one
    with a temporal distortion, wrong exposure or noise. The last two are also compressed with
    probability 1/2.

    The plan "capture" models the camera of a phone: one clip each with wrong exposure, noise, blur
    and rescaling, and one more with noise or blur. Each is also compressed by VP9 or AV1 with
    probability 1/2, never by x264 or x265.

    Args:
        rng: Random generator.
        name: Name of the plan, one of `PLANS`.

    Returns:
        Five distortions.

    Raises:
        DagrError: `name` is not in `PLANS`.
    """

    def delivery() -> int:
        return int(rng.integers(DELIVERY_CRF[0], DELIVERY_CRF[1] + 1))

    def compress(codec: str, low: float, high: float) -> Distortion:
        level = rng.uniform(low, high)
        first, last = CRF_RANGE[codec]
        return Distortion(
            "compress", level, codec, round(first + level * (last - first)), delivery()
        )

    def other(kinds: list[str], codecs: list[str]) -> Distortion:
        kind, level = str(rng.choice(kinds)), rng.uniform(0, 1)
        if rng.random() < 0.5:
            return Distortion(kind, level, None, None, delivery())
        again = compress(str(rng.choice(codecs)), 0.2, 0.8)
        return dataclasses.replace(again, kind=kind, level=level)

    if name not in PLANS:
        raise DagrError(f"distortions {name!r} are unknown; one of {', '.join(PLANS)}")
    if name == "capture":
        kinds = ["exposure", "noise", "blur", "rescale", str(rng.choice(["noise", "blur"]))]
        return [other([kind], ["vp9", "av1"]) for kind in kinds]
    studio = ["h264", "hevc"]
    return [
        compress(str(rng.choice(["h264", "hevc"], p=[0.7, 0.3])), 0.0, 0.55),
        compress(str(rng.choice(["h264", "hevc"], p=[0.7, 0.3])), 0.55, 1.0),
        compress(str(rng.choice(["vp9", "av1"])), 0.0, 1.0),
        other(["blur", "noise", "rescale"], studio),
        other(["freeze", "drop", "exposure", "noise"], studio),
    ]


def _rescale(frame: np.ndarray, factor: float) -> np.ndarray:
    image = Image.fromarray(frame)
    small = (max(round(image.width / factor), 2), max(round(image.height / factor), 2))
    return np.asarray(
        image.resize(small, Image.Resampling.BICUBIC).resize(image.size, Image.Resampling.BICUBIC)
    )


def _expose(frame: np.ndarray, stops: float) -> np.ndarray:
    # Scale linear light, not code values: wrong exposure clips highlights and crushes shadows.
    light = (frame / 255.0) ** 2.2 * 2.0**stops
    return (np.clip(light, 0, 1) ** (1 / 2.2) * 255 + 0.5).astype(np.uint8)


def shown_frames(distortion: Distortion, count: int, rng: np.random.Generator) -> np.ndarray:
    """Returns which source frame is shown at each time.

    "freeze" holds one frame for 1/5 to 3/5 of the clip. "drop" shows only every 2nd to 8th frame.
    Every other kind shows all frames in order.

    Args:
        distortion: The distortion.
        count: Number of frames of the clip.
        rng: Random generator, for the start of a freeze.

    Returns:
        (count,) integer indices of source frames.
    """
    shown = np.arange(count)
    if distortion.kind == "freeze":
        length = round((0.2 + 0.4 * distortion.level) * count)
        start = int(rng.integers(1, count - length))
        shown[start : start + length] = start
    elif distortion.kind == "drop":
        step = round(2 + 6 * distortion.level)
        shown = shown // step * step
    return shown


def distort(
    frames: np.ndarray, distortion: Distortion, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Applies a distortion, except for the compression.

    Args:
        frames: (T, H, W, 3) uint8 pristine frames.
        distortion: The distortion.
        rng: Random generator, for noise and the start of a freeze.

    Returns:
        (T, H, W, 3) uint8 frames to encode; and (T,) indices of the source frames that they show.

    Raises:
        ValueError: The kind of the distortion is unknown.
    """
    shown = shown_frames(distortion, len(frames), rng)
    level = distortion.level
    match distortion.kind:
        case "blur":
            # The radius grows geometrically, so that equal steps of level look equal.
            sigma = 0.6 * (3.5 / 0.6) ** level
            out = np.stack([ndimage.gaussian_filter(f, (sigma, sigma, 0)) for f in frames])
        case "noise":
            deviation = 4.0 * (30.0 / 4.0) ** level
            noise = rng.standard_normal(frames.shape, np.float32) * np.float32(deviation)
            out = np.clip(frames + noise + 0.5, 0, 255).astype(np.uint8)
        case "rescale":
            out = np.stack([_rescale(f, 1.3 * (5.0 / 1.3) ** level) for f in frames])
        case "exposure":
            stops = rng.choice([-1, 1]) * (0.5 + 2.0 * level)
            out = np.stack([_expose(f, stops) for f in frames])
        case "compress" | "freeze" | "drop":
            out = frames
        case _:
            raise ValueError(f"distortion kind {distortion.kind!r} is unknown")
    return out[shown], shown


def repeated_fraction(shown: np.ndarray) -> float:
    """Returns the share of frames, in [0, 1], that show the same source frame as the previous one.

    Args:
        shown: (T,) indices of the source frames.
    """
    return float(np.mean([a == b for a, b in itertools.pairwise(shown)]))
