"""What happens to a pristine clip of the embedded corpus on its way to the viewer."""

import dataclasses
import itertools

import numpy as np
from PIL import Image
from scipy import ndimage

from dagr_jax.runtime.errors import DagrError

# Constant rate factors from nearly transparent to very bad, on each codec's own scale.
CRF_RANGE = {"h264": (17, 50), "hevc": (18, 50), "vp9": (20, 63), "av1": (24, 63)}
# Whatever happened to a clip, x264 delivers it at one of these, all nearly transparent: real
# quality sets come from platforms that encode every upload anew. The bitrate then says little of
# the damage.
DELIVERY_CRF = (4, 12)


@dataclasses.dataclass(frozen=True)
class Distortion:
    """What happens to a clip.

    Attributes:
        kind: "compress", "blur", "noise", "rescale", "exposure", "freeze" or "drop".
        level: Severity in [0, 1].
        codec: Codec that compresses the clip, after everything else; None: none does.
        crf: Its constant rate factor; None where `codec` is.
        delivery_crf: Constant rate factor of the delivered x264 file.
    """

    kind: str
    level: float
    codec: str | None
    crf: int | None
    delivery_crf: int


PLANS = ("delivery", "capture")


def plan(rng: np.random.Generator, name: str = "delivery") -> list[Distortion]:
    """The five deliveries of one content, a spread of kinds and severities.

    "delivery", what happens on the way from a studio: two of x264 or x265 (a light and a heavy
    one), one of VP9 or AV1, one spatial distortion and one of time, exposure or noise; every second
    one of the last two is compressed as well. "capture", what happens in a phone: all five have
    the camera's defects, exposure once, noise, blur and rescaling once or twice each, and every
    second one is compressed by VP9 or AV1, never by x264 or x265.

    Raises:
        ValueError: The plan is not in `PLANS`.
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
    # In light, not in code values: a camera's wrong exposure clips highlights, crushes shadows.
    light = (frame / 255.0) ** 2.2 * 2.0**stops
    return (np.clip(light, 0, 1) ** (1 / 2.2) * 255 + 0.5).astype(np.uint8)


def shown_frames(distortion: Distortion, count: int, rng: np.random.Generator) -> np.ndarray:
    """Which source frame is on the screen at each time: (count,) int.

    "freeze" holds one frame for a fifth to three fifths of the clip, "drop" shows only every
    second to eighth frame; every other kind shows each frame in its turn.
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
    """Applies everything but the compression.

    Args:
        frames: (T, H, W, 3) uint8 pristine frames.
        distortion: What to do.
        rng: Source of noise and of where a freeze lies.

    Returns:
        The frames to encode, (T, H, W, 3) uint8, and `shown_frames`.
    """
    shown = shown_frames(distortion, len(frames), rng)
    level = distortion.level
    match distortion.kind:
        case "blur":
            # Radius grows geometrically: equal steps of level look like equal steps of blur.
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
    """Share of the frames, in [0, 1], that show the same source frame as the one before."""
    return float(np.mean([a == b for a, b in itertools.pairwise(shown)]))
