"""Agreement of a predicted saliency map with where people looked: CC and NSS of one frame.

The pitfalls of REFERENCE section 4, and what is done:

* Sizes differ: the prediction is resized (bilinear, half-pixel centres) to the ground truth's
  size; a fixation map never is, as that would lose or invent fixations.
* Nothing to compare with (no fixations, a constant density): nan, so that the frame is left out of
  a mean, `numpy.nanmean`, and not counted as 0.
* A constant prediction tells nothing: 0, so that it lowers a mean and is not left out.
"""

import numpy as np
from numpy.typing import ArrayLike
from scipy import ndimage


def cc(prediction: ArrayLike, density: ArrayLike) -> float:
    """Pearson's correlation over the pixels of a map (eq. 11).

    Args:
        prediction: (h, w) saliency, any scale.
        density: (H, W) ground-truth density, any scale.

    Returns:
        In [-1, 1]; nan for a constant density, 0 for a constant prediction.

    Raises:
        ValueError: not two maps, or values that are not finite.
    """
    truth = _map("density", density)
    x = _resized(_map("prediction", prediction), truth.shape)
    if np.ptp(truth) == 0:
        return float("nan")
    if _is_constant(x):
        return 0.0
    x, y = x - x.mean(), truth - truth.mean()
    r = np.vdot(x / np.linalg.norm(x), y / np.linalg.norm(y))
    return float(np.clip(r, -1.0, 1.0))


def nss(prediction: ArrayLike, fixations: ArrayLike) -> float:
    """Normalized scanpath saliency: mean of the standardized map at the fixated pixels.

    Args:
        prediction: (h, w) saliency, any scale.
        fixations: (H, W), above 0 where somebody looked; a pixel counts once.

    Returns:
        In standard deviations of the map (over pixels, dividing by their number); nan without
        fixations, 0 for a constant prediction.

    Raises:
        ValueError: not two maps, or values that are not finite.
    """
    fixated = _map("fixations", fixations) > 0
    x = _resized(_map("prediction", prediction), fixated.shape)
    if not fixated.any():
        return float("nan")
    if _is_constant(x):
        return 0.0
    return float((x[fixated].mean() - x.mean()) / x.std())


def centre_bias(height: int, width: int, sigma: float = 0.25) -> np.ndarray:
    """A Gaussian at the centre: what a map that ignores the video can reach.

    Args:
        height, width: pixels of the map.
        sigma: standard deviation along each axis as a share of that axis, so that the bump has the
            picture's shape. A quarter: people look at the middle half most of the time.

    Returns:
        (height, width) float64 in (0, 1], largest at the centre.

    Raises:
        ValueError: a side below 1, or sigma not above 0.
    """
    if min(height, width) < 1 or not sigma > 0:
        raise ValueError(f"({height}, {width}), sigma {sigma}: all must be above 0")
    # Twice the distance from the centre in whole pixels, so that both halves are equal to the bit.
    y, x = ((2 * np.arange(n) + 1 - n) / (2 * n * sigma) for n in (height, width))
    return np.exp(-(y[:, None] ** 2 + x[None, :] ** 2) / 2)


def _map(name: str, values: ArrayLike) -> np.ndarray:
    array = np.asarray(values, np.float64)
    if array.ndim != 2 or not array.size:
        raise ValueError(f"{name} has shape {array.shape}; give one map (height, width)")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} holds values that are not finite; look for nan or inf in it")
    return array


def _resized(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if values.shape == shape:
        return values
    factors = [new / old for new, old in zip(shape, values.shape, strict=True)]
    return ndimage.zoom(values, factors, order=1, mode="nearest", grid_mode=True)


def _is_constant(values: np.ndarray) -> bool:
    # Resizing a constant leaves rounding behind, which standardizing would blow up.
    return bool(np.ptp(values) <= 1e-12 * np.abs(values).max())
