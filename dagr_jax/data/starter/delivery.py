"""How a pristine scene of the starter corpus becomes a delivered file.

A delivery reduces the scene, encodes it, and may enlarge and encode it again, as when a platform
takes in what another platform gave out. Before that, the scene may suffer a fault: blur, noise,
wrong exposure, frozen or dropped frames, or bad deinterlacing.
"""

import dataclasses
from pathlib import Path

import numpy as np
from scipy import ndimage

from dagr_jax.data.distortions import Distortion, distort
from dagr_jax.video.decode import decode_frames
from dagr_jax.video.encode import write_video
from dagr_jax.video.resize import resize, short_side

# Codec → (share, best and worst rate factor or quantiser).
CODECS: dict[str, tuple[float, tuple[int, int]]] = {
    "h264": (0.40, (12, 50)),
    "hevc": (0.22, (10, 50)),
    "vp9": (0.12, (12, 63)),
    "av1": (0.12, (16, 63)),
    "mpeg2": (0.07, (2, 31)),
    "mpeg4": (0.07, (2, 31)),
}
# Shorter sides of deliveries in pixels, and some uncommon ones.
SIDES = (144, 160, 180, 208, 240, 270, 288, 320, 360, 400, 432, 480, 540, 576, 640, 720, 900, 1080)
_SUFFIX = {"vp9": ".webm", "mpeg2": ".mpg", "mpeg4": ".avi"}
# Faults whose quality VMAF does not tell: it rates noise too high, and exposure at random.
UNMEASURED = ("noise", "exposure")
FAULTS = ("blur", "noise", "exposure", "freeze", "drop", "weave", "bob")


@dataclasses.dataclass(frozen=True)
class Delivery:
    """How a scene is delivered.

    Attributes:
        fault: One of `FAULTS`, or "".
        level: Severity of the fault in [0, 1]; 0 without a fault.
        side: Shorter side in pixels at which the scene is encoded.
        codec: Codec, key of `CODECS`.
        crf: Rate factor or quantiser of `codec`.
        shown: Shorter side in pixels of the delivered file; more than `side` if it was enlarged.
        again: Codec of the second encoding; "": the scene was encoded once.
        again_crf: Rate factor of `again`; 0 without a second encoding.
    """

    fault: str
    level: float
    side: int
    codec: str
    crf: int
    shown: int
    again: str = ""
    again_crf: int = 0

    @property
    def suffix(self) -> str:
        """Suffix of the delivered file, with its dot."""
        return _SUFFIX.get(self.again or self.codec, ".mp4")


def plan(rng: np.random.Generator, side: int) -> list[Delivery]:
    """Draws the six deliveries of a scene.

    Two at full size (one good, one at any rate), two smaller ones, one that is encoded twice, most
    often enlarged in between, and one with a fault. All of a scene's deliveries are compared with
    each other in training, so they differ in size, rate and codec at once.

    Args:
        rng: Random generator.
        side: Shorter side of the scene in pixels.
    """
    smaller = [s for s in SIDES if s < side] or [side]

    def lower() -> int:
        return int(smaller[rng.integers(len(smaller))])

    def encoded(low: float, high: float, size: int) -> Delivery:
        codec, crf = _rate(rng, low, high)
        return Delivery("", 0.0, size, codec, crf, size)

    plans = [
        encoded(0.0, 0.3, side),
        encoded(0.2, 1.0, side),
        encoded(0.0, 0.5, lower()),
        encoded(0.1, 1.0, lower()),
    ]
    first = encoded(0.0, 0.8, lower() if rng.random() < 0.75 else side)
    larger = [s for s in (*SIDES, side) if first.side <= s <= side]
    shown = int(larger[rng.integers(len(larger))])
    codec, crf = _rate(rng, 0.0, 0.6, ("h264", "hevc", "vp9", "av1"))
    plans.append(dataclasses.replace(first, shown=shown, again=codec, again_crf=crf))
    fault = str(FAULTS[rng.choice(len(FAULTS), p=[0.3, 0.15, 0.1, 0.12, 0.12, 0.12, 0.09])])
    faulty = encoded(0.0, 0.5, side if rng.random() < 0.6 else lower())
    plans.append(dataclasses.replace(faulty, fault=fault, level=float(rng.uniform(0, 1))))
    return plans


def _rate(
    rng: np.random.Generator, low: float, high: float, among: tuple[str, ...] = tuple(CODECS)
) -> tuple[str, int]:
    """Draws a codec, and a rate between two shares of its range."""
    shares = np.array([CODECS[codec][0] for codec in among])
    codec = str(among[rng.choice(len(among), p=shares / shares.sum())])
    best, worst = CODECS[codec][1]
    return codec, round(best + rng.uniform(low, high) * (worst - best))


def deliver(
    path: Path, frames: np.ndarray, fps: int, how: Delivery, rng: np.random.Generator
) -> None:
    """Writes the delivered file.

    Args:
        path: File to write; it has the suffix `how.suffix`.
        frames: (T, H, W, 3) uint8 frames of the scene.
        fps: Frames per second.
        how: The delivery.
        rng: Random generator, for noise and the start of a freeze.
    """
    seen = _reduce(_faulty(frames, how, rng), how.side)
    if how.again:
        first = path.with_name(f".{path.stem}.first.mkv")  # Matroska holds every codec
        try:
            write_video(first, seen, fps=fps, codec=how.codec, crf=how.crf)
            seen = decode_frames(first, np.arange)
        finally:
            first.unlink(missing_ok=True)
        size = _size(frames, how.shown)
        seen = resize(seen, size, "bicubic") if size != seen.shape[1:3] else seen
    write_video(path, seen, fps=fps, codec=how.again or how.codec, crf=how.again_crf or how.crf)


def _size(frames: np.ndarray, side: int) -> tuple[int, int]:
    """Returns the even (height, width) of frames whose shorter side becomes `side`."""
    high, wide = short_side(frames.shape[1], frames.shape[2], side)
    return max(high // 2 * 2, 2), max(wide // 2 * 2, 2)


def _reduce(frames: np.ndarray, side: int) -> np.ndarray:
    size = _size(frames, side)
    if size == frames.shape[1:3]:
        return frames
    return resize(frames, size, "bicubic", antialias=True)


def _faulty(frames: np.ndarray, how: Delivery, rng: np.random.Generator) -> np.ndarray:
    """Applies the fault of a delivery."""
    if how.fault == "blur":
        # In the size of the scene: at most the blur of a picture of a tenth of its size.
        sigma = min(frames.shape[1:3]) / 1080 * 0.7 * (6.0 / 0.7) ** how.level
        return np.stack([ndimage.gaussian_filter(f, (sigma, sigma, 0)) for f in frames])
    if how.fault == "weave":  # the fields of two moments in one frame: combs at moving edges
        out, later = frames.copy(), np.concatenate([frames[1:], frames[-1:]])
        out[:, 1::2] = later[:, 1::2]
        return out
    if how.fault == "bob":  # one field alone, every line shown twice
        return np.repeat(frames[:, ::2], 2, axis=1)
    if how.fault:
        return distort(frames, Distortion(how.fault, how.level, None, None, 0), rng)[0]
    return frames
