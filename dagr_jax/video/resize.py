"""Frame resizing on uint8, by the filters that models ask for.

All are separable sums over a few taps per axis with half-pixel centres: output pixel i looks at
input coordinate (i + 1/2) * in/out - 1/2, and the border pixel is repeated outwards.
"""

import numpy as np

from dagr_jax.runtime.errors import DagrError

FILTERS = ("bilinear", "bicubic", "area")

# PyTorch's cubic where it does not antialias; with antialias it takes PIL's.
_CUBIC, _CUBIC_ANTIALIASED = -0.75, -0.5


def resize(
    frames: np.ndarray,
    size: tuple[int, int],
    kernel: str = "bilinear",
    *,
    antialias: bool = False,
) -> np.ndarray:
    """Resizes frames.

    Args:
        frames: (..., h, w, c) uint8.
        size: (height, width) of the result.
        kernel: "bilinear"; "bicubic" with a = -0.75 as PyTorch's interpolate, with antialias
            a = -0.5 as PIL's; or "area", the mean over the input pixels that an output pixel
            covers, which needs no antialias.
        antialias: False reads the two (bicubic: four) nearest pixels of each axis, also when
            shrinking, as cv2.INTER_LINEAR and PyTorch's interpolate do. True widens the kernel to
            the shrink factor, as PIL and torchvision do.

    Returns:
        (..., height, width, c) uint8, rounded to nearest, halves up, clipped to 0 to 255. Within
        one grey level of OpenCV and PIL, which round inside as well.

    Raises:
        DagrError: A size is below 1.
        ValueError: Frames are not uint8 of at least three axes, or the kernel is unknown.
    """
    if frames.dtype != np.uint8 or frames.ndim < 3:
        raise ValueError(
            f"frames must be uint8 (..., h, w, c), not {frames.dtype} {frames.shape}; convert first"
        )
    if kernel not in FILTERS:
        raise ValueError(f"resize kernel {kernel!r} is unknown; use one of {', '.join(FILTERS)}")
    height, width = size
    if min(height, width, *frames.shape[-3:-1]) < 1:
        raise DagrError(f"cannot resize {frames.shape} to {size}; every side must be at least 1")
    if frames.shape[-3:-1] == (height, width):
        return frames.copy()
    leading, (h, w, c) = frames.shape[:-3], frames.shape[-3:]
    flat = frames.reshape(-1, h, w, c)
    out = np.empty((len(flat), height, width, c), np.uint8)
    rows, columns = (
        _taps(n_in, n_out, kernel, antialias) for n_in, n_out in ((h, height), (w, width))
    )
    # One frame at a time: the float32 working set stays at a few times one frame.
    for source, target in zip(flat, out, strict=True):
        mixed = _mix(_mix(source, rows, axis=0), columns, axis=1)
        # Weights sum to one only to rounding: the clip keeps 255.0000x from wrapping to 0.
        target[...] = np.clip(np.floor(mixed + 0.5), 0, 255)
    return out.reshape(*leading, height, width, c)


def resize_bilinear(
    frames: np.ndarray, size: tuple[int, int], *, antialias: bool = False
) -> np.ndarray:
    """`resize` with the bilinear kernel."""
    return resize(frames, size, "bilinear", antialias=antialias)


def short_side(height: int, width: int, side: int) -> tuple[int, int]:
    """(height, width) of a frame whose shorter side becomes `side`; the aspect stays.

    The longer side is cut to an integer, as torchvision's `Resize` does.
    """
    if height <= width:
        return side, max(1, side * width // height)
    return max(1, side * height // width), side


def _taps(n_in: int, n_out: int, kernel: str, antialias: bool) -> tuple[np.ndarray, np.ndarray]:
    """Input indices and weights of every output pixel along one axis.

    Returns:
        indices (n_out, k) int64 and weights (n_out, k) float32, each row of weights summing to 1.
    """
    scale = n_in / n_out
    centre = (np.arange(n_out) + 0.5) * scale - 0.5
    if kernel == "area":
        # Output pixel i covers the input from i * scale to (i + 1) * scale.
        begin, end = np.arange(n_out) * scale, (np.arange(n_out) + 1) * scale
        first = np.floor(begin).astype(np.int64)
        indices = first[:, None] + np.arange(int(np.ceil(scale)) + 1)
        covered = np.minimum(indices + 1, end[:, None]) - np.maximum(indices, begin[:, None])
        weights = np.maximum(covered, 0)
    else:
        stretch = max(scale, 1.0) if antialias else 1.0
        support = stretch * (1 if kernel == "bilinear" else 2)  # half-width, in input pixels
        first = np.floor(centre - support).astype(np.int64) + 1
        indices = first[:, None] + np.arange(int(np.ceil(2 * support)))
        distance = np.abs(indices - centre[:, None]) / stretch
        if kernel == "bilinear":
            weights = np.maximum(1 - distance, 0)
        else:
            weights = _cubic(distance, _CUBIC_ANTIALIASED if antialias else _CUBIC)
    if antialias or kernel == "area":
        # PIL drops what lies outside and renormalises; without antialias the border is repeated.
        weights = weights * ((indices >= 0) & (indices < n_in))
    weights = weights / weights.sum(axis=1, keepdims=True)
    return np.clip(indices, 0, n_in - 1), weights.astype(np.float32)


def _cubic(distance: np.ndarray, a: float) -> np.ndarray:
    """Keys' cubic convolution kernel at distances of at least 0."""
    d = np.minimum(distance, 2.0)
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return np.where(d <= 1, near, far)


def _mix(x: np.ndarray, taps: tuple[np.ndarray, np.ndarray], axis: int) -> np.ndarray:
    """Weighted sum of the taps along one axis of (h, w, c); float32."""
    indices, weights = taps
    if np.array_equal(indices[:, 0], np.arange(x.shape[axis])) and np.all(weights[:, 0] == 1):
        return x.astype(np.float32)  # this side keeps its length
    shape = [1, 1, 1]
    shape[axis] = -1
    total = np.float32(0)
    for k in range(indices.shape[1]):
        total = total + np.take(x, indices[:, k], axis=axis) * weights[:, k].reshape(shape)
    return np.asarray(total)
