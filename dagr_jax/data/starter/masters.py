"""Pristine scenes of the starter corpus, at the full size at which a platform would receive them.

A scene is a moving crop of a photograph, a mosaic of many photographs, or a real clip. Pictures are
reduced until they are sharp, never enlarged. The exception are the scenes of the kind "soft", which
stand for what users upload: real clips in their own size, and enlarged photographs. Of these, only
the order of the deliveries is known.
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
from PIL import Image

from dagr_jax.data import scenes
from dagr_jax.data.starter import delivery
from dagr_jax.data.starter.sources import KINDS, Source
from dagr_jax.video.decode import decode_frames, probe
from dagr_jax.video.pictures import read_picture
from dagr_jax.video.resize import resize

# Kind of scene → share of the contents.
SCENES = {"mosaic": 0.30, "wallpaper": 0.20, "photograph": 0.24, "clip": 0.08, "soft": 0.18}
# (height, width) in proportion → share: wide, portrait, square, 4:3, cinema.
SHAPES = {(9, 16): 0.60, (16, 9): 0.13, (1, 1): 0.12, (3, 4): 0.09, (20, 47): 0.06}
# Lengths of the shorter side in pixels that a mosaic and a wallpaper have, most often the largest.
SIDES = (1080, 1080, 1080, 720, 540)


@dataclasses.dataclass(frozen=True)
class Master:
    """A pristine scene.

    Attributes:
        frames: (T, H, W, 3) uint8 RGB frames with even height and width.
        fps: Frames per second.
        kind: Kind of scene, of `SCENES`.
        absolute: Whether the scene is pristine. Otherwise it was already degraded, and only the
            order of its deliveries is known.
        sources: Names of the photographs and clips in it.
    """

    frames: np.ndarray
    fps: int
    kind: str
    absolute: bool
    sources: tuple[str, ...]


def render(rng: np.random.Generator, sources: Sequence[Source], frames: int) -> Master:
    """Renders a scene.

    Args:
        rng: Random generator; the scene depends only on its state and on the sources.
        sources: Photographs and clips of one part of the split.
        frames: Number of frames.

    Returns:
        The scene.
    """
    kind = list(SCENES)[rng.choice(len(SCENES), p=list(SCENES.values()))]
    fps = int(rng.choice([24, 25, 30, 50]))
    height, width = _shape(rng)
    if kind == "mosaic":
        shot, used = _moving(rng, *_mosaic(rng, sources, height, width), height, width, frames)
    elif kind == "wallpaper":
        shot, used = _photograph(rng, sources, "wallpapers", height, width, frames)
    elif kind == "photograph":
        chosen = "kodak" if rng.random() < 0.3 else "osie"
        shot, used = _photograph(rng, sources, chosen, height, width, frames)
    elif kind == "clip" or rng.random() < 0.4:
        shot, used = _clip(rng, sources, frames, reduce=kind == "clip")
    else:
        shot, used = _enlarged(rng, sources, height, width, frames)
    if kind in ("mosaic", "wallpaper", "photograph") and rng.random() < 0.5:
        shot, used = _with_objects(rng, shot, used, sources)
    if rng.random() < 0.12:
        shot = _cut(rng, shot)
    shot = _lit(rng, shot)
    if rng.random() < 0.2:
        shot = _grain(rng, shot)
    return Master(_even(shot), fps, kind, kind != "soft", tuple(sorted(set(used))))


def _shape(rng: np.random.Generator) -> tuple[int, int]:
    """Draws the height and width of a frame in pixels."""
    tall, wide = list(SHAPES)[rng.choice(len(SHAPES), p=list(SHAPES.values()))]
    side = SIDES[rng.integers(len(SIDES))]
    if tall <= wide:
        height, width = float(side), side * wide / tall
    else:
        height, width = side * tall / wide, float(side)
    most = 1920 / max(height, width)  # cinema: the longer side limits
    factor = min(1.0, most)
    return int(height * factor) // 2 * 2, int(width * factor) // 2 * 2


def _even(shot: np.ndarray) -> np.ndarray:
    return shot[:, : shot.shape[1] // 2 * 2, : shot.shape[2] // 2 * 2]


def _pick(rng: np.random.Generator, sources: Sequence[Source], kind: str) -> Source:
    fitting = [source for source in sources if source.kind == kind]
    return fitting[rng.integers(len(fitting))]


@functools.lru_cache(maxsize=8)
def _open(source: Source, factor: float) -> Image.Image:
    """Opens a photograph, reduced by a factor."""
    full = Image.fromarray(read_picture(source.path, "RGB"))
    if factor == 1:
        return full
    size = (round(full.width / factor), round(full.height / factor))
    return full.resize(size, Image.Resampling.LANCZOS)


def _reduced(rng: np.random.Generator, source: Source, most: float = 1.6) -> Image.Image:
    """A sharp photograph, reduced by at least the factor of its kind, and by up to `most` more."""
    image = _open(source, KINDS[source.kind].reduce)
    factor = rng.uniform(1, most)
    size = (round(image.width / factor), round(image.height / factor))
    image = image.resize(size, Image.Resampling.LANCZOS)
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else image


def _mosaic(
    rng: np.random.Generator, sources: Sequence[Source], height: int, width: int
) -> tuple[Image.Image, list[str]]:
    """Fills a canvas, larger than the frame, with pieces of photographs in their own size."""
    margin = int(0.08 * min(height, width))
    canvas = Image.new("RGB", (width + 2 * margin, height + 2 * margin))
    waiting, used = [(0, 0, canvas.width, canvas.height)], []
    while waiting:
        left, top, w, h = waiting.pop()
        source = _pick(
            rng, sources, str(rng.choice(["osie", "kodak", "wallpapers"], p=[0.45, 0.2, 0.35]))
        )
        image = _reduced(rng, source)
        if w > image.width or h > image.height:
            # Too large for the photograph: split the longer side.
            share = rng.uniform(0.35, 0.65)
            if w / image.width >= h / image.height:
                cut = max(int(w * share), 1)
                waiting += [(left, top, cut, h), (left + cut, top, w - cut, h)]
            else:
                cut = max(int(h * share), 1)
                waiting += [(left, top, w, cut), (left, top + cut, w, h - cut)]
            continue
        x = int(rng.integers(image.width - w + 1))
        y = int(rng.integers(image.height - h + 1))
        if rng.random() < 0.06:
            drawn = scenes.leaves(rng, h, w)
            canvas.paste(Image.fromarray((drawn * 255 + 0.5).astype(np.uint8)), (left, top))
        else:
            canvas.paste(image.crop((x, y, x + w, y + h)), (left, top))
            used.append(source.name)
    return canvas, used


def _photograph(
    rng: np.random.Generator,
    sources: Sequence[Source],
    kind: str,
    height: int,
    width: int,
    frames: int,
) -> tuple[np.ndarray, list[str]]:
    """A moving crop of a photograph, as large as the photograph allows without enlarging it."""
    source = _pick(rng, sources, kind)
    image = _reduced(rng, source, most=1.8 if kind == "wallpapers" else 1.3)
    factor = min(1.0, 0.94 * image.width / width, 0.94 * image.height / height)
    return _moving(rng, image, [source.name], int(height * factor), int(width * factor), frames)


def _enlarged(
    rng: np.random.Generator, sources: Sequence[Source], height: int, width: int, frames: int
) -> tuple[np.ndarray, list[str]]:
    """A moving crop of a photograph, in its own size or enlarged, with its JPEG artefacts."""
    source = _pick(rng, sources, "osie")
    image = _open(source, 1.0)
    factor = max(1.0, 1.06 * width / image.width, 1.06 * height / image.height)
    size = (round(image.width * factor), round(image.height * factor))
    image = image.resize(size, Image.Resampling.BICUBIC)
    return _moving(rng, image, [source.name], height, width, frames)


def _moving(
    rng: np.random.Generator,
    image: Image.Image,
    used: list[str],
    height: int,
    width: int,
    frames: int,
) -> tuple[np.ndarray, list[str]]:
    """Moves a frame over a picture: it stands still, pans, shakes or zooms in.

    Returns:
        (T, height, width, 3) uint8, and `used`.
    """
    room = np.array([image.height - height, image.width - width], np.float64)
    start, goal = rng.uniform(0, 1, (2, 2)) * room
    zoom = np.ones(frames)
    t = np.linspace(0, 1, frames)[:, None]
    way = rng.choice(["still", "pan", "shake", "zoom"], p=[0.15, 0.45, 0.2, 0.2])
    if way == "still":
        goal = start
    elif way == "pan":  # at most 1.5 % of the shorter side per frame
        most = 0.015 * min(height, width) * frames
        length = float(np.hypot(*(goal - start)))
        goal = start + (goal - start) * min(1.0, most / max(length, 1e-6))
    path = start + (goal - start) * t
    if way == "shake":
        steps = np.cumsum(rng.normal(0, 0.002 * min(height, width), (frames, 2)), axis=0)
        path = np.clip(start + steps, 0, room)
    elif way == "zoom":  # the crop is at most as large as the picture, so it is only reduced
        largest = min(image.height / height, image.width / width, 1.25)
        zoom = np.linspace(1, largest, frames)
        zoom = zoom[::-1] if rng.random() < 0.5 else zoom
        sizes = zoom[:, None] * np.array([height, width])
        room = np.maximum((image.height, image.width) - sizes, 0)
        path = np.clip(start - (sizes - (height, width)) / 2, 0, room)
    shot = np.empty((frames, height, width, 3), np.uint8)
    for i, ((y, x), scale) in enumerate(zip(path, zoom, strict=True)):
        right, below = x + width * scale, y + height * scale
        box = (x, y, min(right, image.width), min(below, image.height))
        shot[i] = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC, box=box))
    return shot, used


@functools.lru_cache
def _clip_size(source: Source) -> tuple[int, int]:
    info = probe(source.path)
    return info.height, info.width


def _clip(
    rng: np.random.Generator, sources: Sequence[Source], frames: int, *, reduce: bool
) -> tuple[np.ndarray, list[str]]:
    """Takes consecutive frames of a real clip, in its own size or reduced until it is sharp."""
    least = KINDS["clips"].reduce * delivery.SIDES[0] if reduce else 0
    large = [s for s in sources if s.kind == "clips" and min(_clip_size(s)) >= least]
    source = _pick(rng, large or sources, "clips")
    length = probe(source.path).num_frames
    first = int(rng.integers(max(length - frames, 0) + 1))
    chosen = np.minimum(np.arange(first, first + frames), length - 1)
    shot = decode_frames(source.path, chosen)
    if reduce:
        most = max(min(shot.shape[1:3]) / delivery.SIDES[0], KINDS["clips"].reduce)
        factor = rng.uniform(KINDS["clips"].reduce, min(1.5 * KINDS["clips"].reduce, most))
        height, width = round(shot.shape[1] / factor), round(shot.shape[2] / factor)
        shot = resize(shot, (height, width), "bicubic", antialias=True)
    return shot, [source.name]


def _with_objects(
    rng: np.random.Generator, shot: np.ndarray, used: list[str], sources: Sequence[Source]
) -> tuple[np.ndarray, list[str]]:
    """Lets pieces of photographs move over the scene."""
    frames, height, width, _ = shot.shape
    short = min(height, width)
    shot, used = shot.copy(), list(used)
    for _ in range(int(rng.integers(1, 4))):
        source = _pick(rng, sources, "osie" if rng.random() < 0.7 else "kodak")
        image = np.asarray(_reduced(rng, source, most=1.2))
        radius = int(min(rng.uniform(0.08, 0.22) * short, min(image.shape[:2]) // 2 - 1))
        if radius < 4:
            continue
        top = rng.integers(image.shape[0] - 2 * radius + 1)
        left = rng.integers(image.shape[1] - 2 * radius + 1)
        colour = image[top : top + 2 * radius, left : left + 2 * radius].astype(np.float32)
        opacity = scenes.blob(rng, radius).astype(np.float32)
        path = scenes.trajectory(rng, frames, rng.uniform(0.5, 5.0) * short / 270)
        centres = rng.uniform(0.1, 0.9, 2) * (height, width) + path - path[frames // 2]
        for frame, centre in zip(shot, centres, strict=True):
            scenes.place(frame, colour, opacity, centre)
        used.append(source.name)
    return shot, used


def _cut(rng: np.random.Generator, shot: np.ndarray) -> np.ndarray:
    """Cuts to another part of the scene: the second half is mirrored and reversed."""
    at = int(rng.integers(len(shot) // 3, 2 * len(shot) // 3 + 1))
    return np.concatenate([shot[:at], shot[at:][::-1, :, ::-1]])


def _lit(rng: np.random.Generator, shot: np.ndarray) -> np.ndarray:
    """Changes the light of the scene: one in six is dark, and contrast and colour vary."""
    gain = rng.uniform(0.2, 0.5) if rng.random() < 1 / 6 else rng.uniform(0.75, 1.05)
    gamma = rng.uniform(0.85, 1.2)
    tint = rng.uniform(0.94, 1.06, 3)
    levels = np.arange(256)[:, None] / 255
    table = np.clip((levels**gamma) * gain * tint * 255 + 0.5, 0, 255).astype(np.uint8)
    return np.stack([table[:, c][shot[..., c]] for c in range(3)], axis=-1)


def _grain(rng: np.random.Generator, shot: np.ndarray) -> np.ndarray:
    """Adds the grain of film or of a camera in low light, the same for all colours."""
    deviation = np.float32(rng.uniform(1.0, 4.5))
    out = np.empty_like(shot)
    for i, frame in enumerate(shot):
        noise = rng.standard_normal((*frame.shape[:2], 1), np.float32) * deviation
        out[i] = np.clip(frame + noise + 0.5, 0, 255)
    return out
