"""Resizing of uint8 frames, with the kernels that models use.

All kernels are separable sums over a few taps per axis with half-pixel centres: output pixel i is
centred at input coordinate (i + 1/2) * in/out - 1/2, and border pixels are repeated outwards.
"""

import numpy as np

from dagr_jax.runtime.errors import DagrError

FILTERS = ("bilinear", "bicubic", "area")

# Parameter a of the cubic kernel: PyTorch's value without antialiasing, and PIL's with it.
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
        frames: (..., h, w, c) uint8 frames.
        size: (height, width) of the result in pixels.
        kernel: "bilinear"; "bicubic" with a = -0.75 as in PyTorch's interpolate, or a = -0.5 as in
            PIL with antialiasing; or "area", the mean over the input pixels that an output pixel
            covers, which needs no antialiasing.
        antialias: False: reads the two (bicubic: four) nearest pixels of each axis, also when
            shrinking, like cv2.INTER_LINEAR and PyTorch's interpolate. True: widens the kernel by
            the shrink factor, like PIL and torchvision.

    Returns:
        (..., height, width, c) uint8, rounded to nearest (halves up) and clipped to 0…255. The
        values are within one grey level of OpenCV and PIL, which also round intermediate values.

    Raises:
        DagrError: A side is below 1.
        ValueError: The frames are not uint8 or have fewer than three axes, or the kernel is
            unknown.
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
    # One frame at a time, so that the float32 working set is a few times the size of one frame.
    for source, target in zip(flat, out, strict=True):
        mixed = _mix(_mix(source, rows, axis=0), columns, axis=1)
        # Weights sum to 1 up to rounding. The clip prevents 255.0000x from wrapping to 0.
        target[...] = np.clip(np.floor(mixed + 0.5), 0, 255)
    return out.reshape(*leading, height, width, c)


def resize_bilinear(
    frames: np.ndarray, size: tuple[int, int], *, antialias: bool = False
) -> np.ndarray:
    """Resizes frames with the bilinear kernel (see `resize`).

    Args:
        frames: (..., h, w, c) uint8 frames.
        size: (height, width) of the result in pixels.
        antialias: Whether to resize with antialiasing.

    Returns:
        (..., height, width, c) uint8.

    Raises:
        DagrError: A side is below 1.
        ValueError: The frames are not uint8 or have fewer than three axes.
    """
    return resize(frames, size, "bilinear", antialias=antialias)


def short_side(height: int, width: int, side: int) -> tuple[int, int]:
    """Returns the size of a frame whose shorter side becomes `side`, with the same aspect ratio.

    The longer side is rounded down, like in torchvision's `Resize`.

    Args:
        height: Height of the frame in pixels.
        width: Width of the frame in pixels.
        side: New length of the shorter side in pixels.

    Returns:
        (height, width) in pixels.
    """
    if height <= width:
        return side, max(1, side * width // height)
    return max(1, side * height // width), side


def _taps(n_in: int, n_out: int, kernel: str, antialias: bool) -> tuple[np.ndarray, np.ndarray]:
    """Computes the input indices and weights of every output pixel along one axis.

    Args:
        n_in: Number of input pixels.
        n_out: Number of output pixels.
        kernel: Name of the kernel, one of `FILTERS`.
        antialias: Whether to widen the kernel by the shrink factor.

    Returns:
        (n_out, k) int64 indices and (n_out, k) float32 weights. Each row of weights sums to 1.
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
        # PIL drops taps outside the frame and renormalises. Without antialiasing, border pixels are
        # repeated.
        weights = weights * ((indices >= 0) & (indices < n_in))
    weights = weights / weights.sum(axis=1, keepdims=True)
    return np.clip(indices, 0, n_in - 1), weights.astype(np.float32)


def _cubic(distance: np.ndarray, a: float) -> np.ndarray:
    """Computes Keys' cubic convolution kernel, with parameter a, at distances of at least 0."""
    d = np.minimum(distance, 2.0)
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return np.where(d <= 1, near, far)


def _mix(x: np.ndarray, taps: tuple[np.ndarray, np.ndarray], axis: int) -> np.ndarray:
    """Computes the weighted sum of the taps along one axis of (h, w, c).

    Args:
        x: (h, w, c) frame.
        taps: (n_out, k) indices and (n_out, k) weights.
        axis: 0 for the height, 1 for the width.

    Returns:
        (h, w, c) float32, with length n_out along the axis.
    """
    indices, weights = taps
    if np.array_equal(indices[:, 0], np.arange(x.shape[axis])) and np.all(weights[:, 0] == 1):
        return x.astype(np.float32)  # This side keeps its length.
    shape = [1, 1, 1]
    shape[axis] = -1
    total = np.float32(0)
    for k in range(indices.shape[1]):
        total = total + np.take(x, indices[:, k], axis=axis) * weights[:, k].reshape(shape)
    return np.asarray(total)
