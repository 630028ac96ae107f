"""Pristine scenes of the embedded corpus: photographs and textures with a moving camera.

Photographs are shown at their own size or reduced, never enlarged. An enlarged patch is soft, and a
quality network cannot distinguish this softness from a distortion.
"""

import dataclasses
import importlib.util
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

# Photographs in the wheels of scikit-image and scikit-learn: (package, file, smallest reduction
# factor). Photographs that are soft at their own size are reduced until they are sharp. One that
# would then be too small (skimage's cell.png) is not used.
PHOTOGRAPHS: dict[str, tuple[str, str, float]] = {
    "astronaut": ("skimage", "data/astronaut.png", 1.0),
    "brick": ("skimage", "data/brick.png", 1.0),
    "camera": ("skimage", "data/camera.png", 1.2),
    "cat": ("skimage", "data/chelsea.png", 1.0),
    "china": ("sklearn", "datasets/images/china.jpg", 1.0),
    "coffee": ("skimage", "data/coffee.png", 1.0),
    "coins": ("skimage", "data/coins.png", 1.0),
    "flower": ("sklearn", "datasets/images/flower.jpg", 1.0),
    "galaxies": ("skimage", "data/hubble_deep_field.jpg", 1.5),
    "grass": ("skimage", "data/grass.png", 1.0),
    "gravel": ("skimage", "data/gravel.png", 1.0),
    "motorcycle": ("skimage", "data/motorcycle_left.png", 1.2),
    "retina": ("skimage", "data/retina.jpg", 5.0),
    "rocket": ("skimage", "data/rocket.jpg", 1.2),
    "tissue": ("skimage", "data/ihc.png", 1.0),
}


@dataclasses.dataclass(frozen=True)
class Scene:
    """A rendered scene.

    Attributes:
        frames: (T, H, W, 3) uint8 RGB.
        centres: (T, K, 2) positions (y, x) of the K moving objects in pixels; may be outside the
            frame.
        radii: (K,) radii of the objects in pixels.
    """

    frames: np.ndarray
    centres: np.ndarray
    radii: np.ndarray


@cache
def _photograph(name: str) -> Image.Image:
    package, file, _ = PHOTOGRAPHS[name]
    found = importlib.util.find_spec(package)  # finds the package without importing it
    assert found is not None and found.origin is not None  # a requirement of this package
    with Image.open(Path(found.origin).parent / file) as image:
        return image.convert("RGB")


def _texture(rng: np.random.Generator, h: int, w: int) -> np.ndarray:
    """Draws coloured noise with a power-law spectrum, half the time with stripes.

    Returns:
        (h, w, 3) float in [0, 1].
    """
    fy, fx = np.fft.fftfreq(h)[:, None], np.fft.rfftfreq(w)[None]
    radius = np.maximum(np.hypot(fy, fx), 1.0 / max(h, w))
    spectrum = np.fft.rfft2(rng.standard_normal((h, w))) * radius ** -rng.uniform(0.6, 1.6)
    field = np.fft.irfft2(spectrum, (h, w))
    field /= field.std() + 1e-9
    if rng.random() < 0.5:
        angle, period = rng.uniform(0, np.pi), rng.uniform(6, 40)
        y, x = np.mgrid[:h, :w]
        wave = np.sin(2 * np.pi * (x * np.cos(angle) + y * np.sin(angle)) / period)
        field = field + rng.uniform(0.5, 2.0) * np.sign(wave)
    low, high = rng.uniform(0.05, 0.95, (2, 3))
    mix = 1 / (1 + np.exp(-1.2 * field))[..., None]
    return low * (1 - mix) + high * mix


def leaves(rng: np.random.Generator, h: int, w: int) -> np.ndarray:
    """Draws overlapping leaves of many sizes (the "dead leaves" model).

    The edges and the spectrum resemble those of photographs, and the texture never repeats. It is
    drawn at twice the size and reduced, so that edges are as sharp as possible.

    Returns:
        (h, w, 3) float in [0, 1].
    """
    colours = rng.integers(10, 246, (int(rng.integers(4, 12)), 3))
    image = Image.new("RGB", (2 * w, 2 * h), tuple(int(c) for c in colours[0]))
    draw = ImageDraw.Draw(image)
    smallest, largest = rng.uniform(3, 10), rng.uniform(0.1, 0.4) * min(h, w)
    round_ones = rng.random() < 0.5
    for _ in range(int(rng.integers(150, 500))):
        # Areas of natural shapes follow a power law. This draws radii with a density ~ r^-2.
        r = 2 / (1 / smallest - rng.random() * (1 / smallest - 1 / max(largest, smallest + 1)))
        y, x = rng.uniform(0, 2 * h), rng.uniform(0, 2 * w)
        shade = np.clip(colours[rng.integers(len(colours))] + rng.integers(-25, 26), 0, 255)
        fill = tuple(int(c) for c in shade)
        if round_ones:
            stretch = rng.uniform(0.5, 1.0)
            draw.ellipse((x - r, y - r * stretch, x + r, y + r * stretch), fill=fill)
        else:
            angles = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(3, 7))))
            draw.polygon([(x + r * np.cos(a), y + r * np.sin(a)) for a in angles], fill=fill)
    small = np.asarray(image.resize((w, h), Image.Resampling.BOX), np.float32) / 255
    grain = rng.standard_normal((h, w, 1)).astype(np.float32) * np.float32(rng.uniform(0, 0.03))
    return np.clip(small + grain, 0, 1)


def _patch(rng: np.random.Generator, photographs: list[str], h: int, w: int) -> np.ndarray:
    """Cuts a patch from a photograph, and reduces, flips and recolours it.

    A patch that is too small is extended by mirroring, not enlarged.

    Returns:
        (h, w, 3) float in [0, 1].
    """
    name = photographs[rng.integers(len(photographs))]
    image = _photograph(name)
    least = PHOTOGRAPHS[name][2]
    # Limit the reduction, so that the patch is at least a third of the requested size.
    most = max(least, min(2.5 * least, 3 * min(image.height / h, image.width / w)))
    factor = rng.uniform(least, most)
    size = (int(image.width / factor), int(image.height / factor))
    array = np.asarray(image.resize(size, Image.Resampling.LANCZOS), np.float32) / 255
    if rng.random() < 0.5:
        array = array[:, ::-1]
    if rng.random() < 0.3:
        array = array.transpose(1, 0, 2)
    top = rng.integers(max(array.shape[0] - h, 0) + 1)
    left = rng.integers(max(array.shape[1] - w, 0) + 1)
    array = array[top : top + h, left : left + w]
    array = np.pad(
        array, ((0, h - array.shape[0]), (0, w - array.shape[1]), (0, 0)), mode="symmetric"
    )
    tint = rng.uniform(0.75, 1.25, 3).astype(np.float32)
    return np.clip(array ** rng.uniform(0.7, 1.4) * tint, 0, 1)


def _saturate(array: np.ndarray, amount: float) -> np.ndarray:
    grey = array.mean(-1, keepdims=True)
    return np.clip(grey + (array - grey) * amount, 0, 1)


def _background(
    rng: np.random.Generator, photographs: list[str], h: int, w: int, patches: float
) -> np.ndarray:
    """Draws patches, leaves and textures that meet at wavy borders, which are sharp or soft.

    Returns:
        (h, w, 3) float in [0, 1].
    """
    cells = int(rng.integers(3, 7))
    seeds = rng.uniform(0, 1, (cells, 2)) * (h, w)
    y, x = np.mgrid[:h, :w].astype(np.float32)
    wobble = ndimage.gaussian_filter(rng.standard_normal((2, h // 8 + 1, w // 8 + 1)), (0, 3, 3))
    wobble = np.repeat(np.repeat(wobble, 8, 1), 8, 2)[:, :h, :w]
    wobble = ndimage.uniform_filter(wobble, (0, 8, 8)) * (0.1 * min(h, w) / wobble.std())
    distance = np.stack([np.hypot(y + wobble[0] - sy, x + wobble[1] - sx) for sy, sx in seeds])
    softness = rng.choice([1.0, 1.0, 12.0])
    weight = np.exp(-(distance - distance.min(0)) / softness)
    weight /= weight.sum(0)
    out = np.zeros((h, w, 3), np.float32)
    for k in range(cells):
        kind = rng.random()
        if kind < 0.375 * (1 - patches):
            cell = _texture(rng, h, w)
        elif kind < 1 - patches:
            cell = leaves(rng, h, w)
        else:
            cell = _patch(rng, photographs, h, w)
        out += weight[k][..., None] * cell
    return _saturate(out, rng.uniform(0.2, 0.7))


def blob(rng: np.random.Generator, radius: int) -> np.ndarray:
    """Draws the opacity of a round object with lobes.

    Returns:
        (2r, 2r) float64 in [0, 1].
    """
    side = 2 * radius
    y, x = (np.mgrid[:side, :side] - radius + 0.5) / radius
    angle = np.arctan2(y, x)
    lobes, depth, phase = rng.integers(2, 6), rng.uniform(0, 0.25), rng.uniform(0, 2 * np.pi)
    border = 0.72 + depth * np.cos(lobes * angle + phase)
    return np.clip((border - np.hypot(y, x)) * radius + 0.5, 0, 1)


def _object(
    rng: np.random.Generator, photographs: list[str], radius: int
) -> tuple[np.ndarray, np.ndarray]:
    """Cuts a blob from a patch.

    Returns:
        (2r, 2r, 3) colour and (2r, 2r) opacity, floats in [0, 1].
    """
    side, opacity = 2 * radius, blob(rng, radius)
    colour = _saturate(_patch(rng, photographs, side, side), 1.6)
    hue = rng.uniform(0, 1, 3)
    hue = (hue - hue.min()) / (np.ptp(hue) + 1e-6)
    return np.clip(0.55 * colour + 0.45 * hue, 0, 1).astype(np.float32), opacity.astype(np.float32)


def trajectory(rng: np.random.Generator, frames: int, speed: float) -> np.ndarray:
    """Draws a path: a straight line plus a sine, relative to the first frame.

    Returns:
        (T, 2) displacements (y, x) in pixels.
    """
    t = np.arange(frames)[:, None]
    angle = rng.uniform(0, 2 * np.pi)
    velocity = speed * np.array([np.sin(angle), np.cos(angle)])
    swing = rng.uniform(0, 3 * speed, 2) * np.sin(
        2 * np.pi * (t / frames * rng.uniform(0.5, 1.5) + rng.uniform(0, 1, 2))
    )
    path = velocity * t + swing
    return path - path[:1]


def place(image: np.ndarray, colour: np.ndarray, opacity: np.ndarray, centre: np.ndarray) -> None:
    """Draws an object on an image, in place; it may be partly or completely outside.

    Args:
        image: (H, W, 3) image.
        colour: (2r, 2r, 3) colour of the object, in the range of the image.
        opacity: (2r, 2r) opacity in [0, 1].
        centre: Position (y, x) of the object in pixels.
    """
    height, width = image.shape[:2]
    r = len(opacity) // 2
    y0, x0 = int(round(centre[0])) - r, int(round(centre[1])) - r
    ys = slice(max(y0, 0), min(y0 + 2 * r, height))
    xs = slice(max(x0, 0), min(x0 + 2 * r, width))
    if ys.start >= ys.stop or xs.start >= xs.stop:
        return
    piece = (slice(ys.start - y0, ys.stop - y0), slice(xs.start - x0, xs.stop - x0))
    a = opacity[piece][..., None]
    image[ys, xs] = image[ys, xs] * (1 - a) + colour[piece] * a


def render(
    rng: np.random.Generator,
    photographs: list[str],
    height: int,
    width: int,
    frames: int,
    *,
    patches: float = 0.6,
) -> Scene:
    """Renders the scene of one content.

    Args:
        rng: Random generator; the scene depends only on its state.
        photographs: Names of the photographs to use, from `PHOTOGRAPHS`.
        height: Frame height in pixels, even.
        width: Frame width in pixels, even.
        frames: Number of frames.
        patches: Mean share of the background that shows photographs, in [0, 1].

    Returns:
        The scene.
    """
    camera = np.rint(trajectory(rng, frames, rng.uniform(0.0, 2.5))).astype(int)
    camera -= camera.min(0)
    travel = camera.max(0)
    canvas = _background(rng, photographs, height + travel[0], width + travel[1], patches)
    gain = rng.uniform(0.75, 1.0)

    count = int(rng.integers(1, 4))
    short = min(height, width)
    radii = rng.integers(int(0.12 * short), int(0.24 * short), count)
    sprites = [_object(rng, photographs, int(r)) for r in radii]
    centres = np.empty((frames, count, 2))
    for k in range(count):
        path = trajectory(rng, frames, rng.uniform(1.0, 5.0) * short / 270)
        # The middle of the path may be anywhere in the frame, so that a centre prior scores low.
        middle = rng.uniform(0.12, 0.88, 2) * (height, width)
        centres[:, k] = middle + path - path[frames // 2]

    out = np.empty((frames, height, width, 3), np.uint8)
    for t in range(frames):
        top, left = camera[t]
        image = canvas[top : top + height, left : left + width].copy()
        for (colour, opacity), centre in zip(sprites, centres[t], strict=True):
            place(image, colour, opacity, centre)
        out[t] = np.clip(image * gain * 255 + 0.5, 0, 255)
    return Scene(out, centres, radii.astype(np.float64))


def gaze_map(scene: Scene, t: int, size: tuple[int, int]) -> np.ndarray:
    """Simulates the gaze density of frame t: Gaussians on the moving objects.

    Args:
        scene: The scene.
        t: Frame index.
        size: (h, w) of the map, which covers the whole frame.

    Returns:
        (h, w) float64 density that sums to one. Objects outside the frame have no weight. The map
        is uniform if no object is visible.
    """
    _, height, width, _ = scene.frames.shape
    h, w = size
    y = (np.arange(h) + 0.5)[:, None] * height / h
    x = (np.arange(w) + 0.5)[None] * width / w
    density = np.full((h, w), 1e-4)
    for (cy, cx), r in zip(scene.centres[t], scene.radii, strict=True):
        if 0 <= cy < height and 0 <= cx < width:
            density += np.exp(-0.5 * ((y - cy) ** 2 + (x - cx) ** 2) / (0.6 * r) ** 2)
    return density / density.sum()


def fixations(
    density: np.ndarray, count: int, shape: tuple[int, int], rng: np.random.Generator
) -> np.ndarray:
    """Draws gaze points from a density.

    Args:
        density: (h, w) density that sums to one.
        count: Number of gaze points.
        shape: (height, width) of the picture in pixels.
        rng: Random generator of the cells of the density. A generator that is spawned from it
            draws the pixels in the cells.

    Returns:
        (count, 2) int32 pixels (y, x) of the picture.
    """
    cells = np.unravel_index(rng.choice(density.size, size=count, p=density.ravel()), density.shape)
    within = rng.spawn(1)[0].random((2, count))
    points = []
    for cell, place, small, full in zip(cells, within, density.shape, shape, strict=True):
        first, end = -(-cell * full // small), -(-(cell + 1) * full // small)
        points.append(np.minimum(first + place * np.maximum(end - first, 1), full - 1))
    return np.stack(points, axis=1).astype(np.int32)
