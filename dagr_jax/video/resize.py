"""Frame resizing on uint8: the two rules that the release uses (REFERENCE section 1).

Both are separable sums over a few taps per axis with half-pixel centres: output pixel i looks at
input coordinate (i + 1/2) * in/out - 1/2, and the border pixel is repeated outwards.
"""

import numpy as np


def resize_bilinear(
    frames: np.ndarray, size: tuple[int, int], *, antialias: bool = False
) -> np.ndarray:
    """Resizes frames bilinearly.

    Args:
        frames: (..., h, w, c) uint8.
        size: (height, width) of the result.
        antialias: False reads the two nearest pixels of each axis, also when shrinking (what
            cv2.INTER_LINEAR does; the rule of the VQA frames). True widens the triangle to the
            shrink factor (what PIL and torchvision do; the rule of the release's saliency frames).

    Returns:
        (..., height, width, c) uint8, rounded to nearest, halves up. Within one grey level of
        OpenCV and PIL, which round inside as well.

    Raises:
        ValueError: frames are not uint8 of at least three axes, or a size is below 1.
    """
    if frames.dtype != np.uint8 or frames.ndim < 3:
        raise ValueError(
            f"frames must be uint8 (..., h, w, c), not {frames.dtype} {frames.shape}; convert first"
        )
    height, width = size
    if min(height, width, *frames.shape[-3:-1]) < 1:
        raise ValueError(f"cannot resize {frames.shape} to {size}; every side must be at least 1")
    if frames.shape[-3:-1] == (height, width):
        return frames.copy()
    leading, (h, w, c) = frames.shape[:-3], frames.shape[-3:]
    flat = frames.reshape(-1, h, w, c)
    out = np.empty((len(flat), height, width, c), np.uint8)
    rows, columns = _taps(h, height, antialias), _taps(w, width, antialias)
    # One frame at a time: the float32 working set stays at a few times one frame.
    for source, target in zip(flat, out, strict=True):
        mixed = _mix(_mix(source, rows, axis=0), columns, axis=1)
        # Weights sum to one only to rounding: the clip keeps 255.0000x from wrapping to 0.
        target[...] = np.clip(np.floor(mixed + 0.5), 0, 255)
    return out.reshape(*leading, height, width, c)


def _taps(n_in: int, n_out: int, antialias: bool) -> tuple[np.ndarray, np.ndarray]:
    """Input indices and weights of every output pixel along one axis.

    Returns:
        indices (n_out, k) int64 and weights (n_out, k) float32, each row of weights summing to 1.
    """
    scale = n_in / n_out
    centre = (np.arange(n_out) + 0.5) * scale - 0.5
    support = max(scale, 1.0) if antialias else 1.0  # half-width of the triangle, in input pixels
    first = np.floor(centre - support).astype(np.int64) + 1
    indices = first[:, None] + np.arange(int(np.ceil(2 * support)))
    weights = np.maximum(1 - np.abs(indices - centre[:, None]) / support, 0)
    if antialias:
        # PIL drops what lies outside and renormalises; plain bilinear repeats the border pixel.
        weights *= (indices >= 0) & (indices < n_in)
    weights /= weights.sum(axis=1, keepdims=True)
    return np.clip(indices, 0, n_in - 1), weights.astype(np.float32)


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
