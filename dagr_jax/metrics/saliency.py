"""Agreement of a predicted saliency map with where people looked, for one frame.

CC, SIM and KLD compare with a density; NSS, AUC-Judd, AUC-Borji and shuffled AUC with fixations.
`temporal_consistency` looks at the maps of a whole clip.

The pitfalls of REFERENCE section 4, and what is done:

* Sizes differ: the prediction is resized (bilinear, half-pixel centres) to the ground truth's
  size; a fixation map never is, as that would lose or invent fixations.
* Nothing to compare with (no fixations, a constant density): nan, so that the frame is left out of
  a mean, `numpy.nanmean`, and not counted as 0.
* A constant prediction tells nothing: 0 (an AUC: 1/2), so that it lowers a mean and stays in it.
* Ties: an AUC counts half of them, which is what the benchmark codes' random jitter gives on
  average; no jitter is needed, and the same maps give the same number.
"""

import numpy as np
from numpy.typing import ArrayLike
from scipy import ndimage
from skimage.transform import resize_local_mean

from dagr_jax.runtime.errors import DagrError


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


def sim(prediction: ArrayLike, density: ArrayLike) -> float:
    """Similarity: what two maps that each sum to one have in common.

    Args:
        prediction: (h, w) saliency; its minimum is taken off first, so that an offset is free.
        density: (H, W) ground-truth density, at least 0 somewhere above it.

    Returns:
        In [0, 1]; nan for a density without mass, 0 for a constant prediction.

    Raises:
        ValueError: not two maps, or values that are not finite.
    """
    truth = _map("density", density)
    x = _resized(_map("prediction", prediction), truth.shape)
    if np.ptp(truth) == 0:
        return float("nan")
    if _is_constant(x):
        return 0.0
    return float(np.minimum(_distribution(x), _distribution(truth)).sum())


def kld(prediction: ArrayLike, density: ArrayLike) -> float:
    """Kullback-Leibler divergence of the prediction from the density, lower is better.

    Σ q·log(ε + q / (p + ε)) with ε = 2.2e-16, both maps summing to one, as in the MIT benchmark.

    Args:
        prediction: (h, w) saliency, at least 0 (a minimum below it is taken off).
        density: (H, W) ground-truth density.

    Returns:
        In nats, at least 0 but for ε; nan for a density without mass. A constant prediction counts
        as uniform.

    Raises:
        ValueError: not two maps, or values that are not finite.
    """
    truth = _map("density", density)
    x = _resized(_map("prediction", prediction), truth.shape)
    if np.ptp(truth) == 0:
        return float("nan")
    epsilon = np.finfo(np.float64).eps
    p = np.full(x.shape, 1 / x.size) if _is_constant(x) else _mass(x)
    q = _mass(truth)
    return float(np.sum(q * np.log(epsilon + q / (p + epsilon))))


def auc_judd(prediction: ArrayLike, fixations: ArrayLike) -> float:
    """Area under the ROC curve, fixated pixels against all others.

    The curve takes every value of the map as a threshold. The benchmark code of Judd et al. takes
    those at the fixations alone and joins them by straight lines, which lies higher by at most
    1 / (2 · fixations).

    Args:
        prediction: (h, w) saliency, any scale.
        fixations: (H, W), above 0 where somebody looked; a pixel counts once.

    Returns:
        In [0, 1], 1/2 by chance; nan where no pixel or every pixel is fixated.

    Raises:
        ValueError: not two maps, or values that are not finite.
    """
    fixated = _map("fixations", fixations) > 0
    x = _resized(_map("prediction", prediction), fixated.shape)
    return _auc(x[fixated], x[~fixated])


def auc_borji(
    prediction: ArrayLike, fixations: ArrayLike, *, seed: int, splits: int = 100
) -> float:
    """AUC of the fixated pixels against as many pixels drawn evenly, averaged over draws.

    Args:
        prediction: (h, w) saliency, any scale.
        fixations: (H, W), above 0 where somebody looked; a pixel counts once.
        seed: of the draws.
        splits: number of draws.

    Returns:
        In [0, 1]; nan without fixations. Every value is a threshold (the benchmark code steps by
        0.1 of the map's range, which loses what lies between).

    Raises:
        ValueError: not two maps, values that are not finite, or splits below 1.
    """
    fixated = _map("fixations", fixations) > 0
    x = _resized(_map("prediction", prediction), fixated.shape)
    return _auc_against_draws(x[fixated], x.ravel(), seed, splits)


def auc_shuffled(
    prediction: ArrayLike,
    fixations: ArrayLike,
    others: ArrayLike,
    *,
    seed: int,
    splits: int = 100,
) -> float:
    """AUC of the fixated pixels against pixels that were fixated in other videos.

    What all videos share, the centre above all, earns nothing: a centre prior is at 1/2.

    Args:
        prediction: (h, w) saliency, any scale.
        fixations: (H, W), above 0 where somebody looked; a pixel counts once.
        others: (H, W), number of fixations in other videos at each pixel; pixels are drawn
            from it in this proportion, as many as there are fixations.
        seed: of the draws.
        splits: number of draws.

    Returns:
        In [0, 1]; nan without fixations here or elsewhere.

    Raises:
        ValueError: not maps, sizes of `fixations` and `others` differ, values that are not finite
            or below 0 in `others`, or splits below 1.
    """
    fixated = _map("fixations", fixations) > 0
    weights = _map("others", others)
    if weights.shape != fixated.shape:
        raise ValueError(
            f"others {weights.shape} and fixations {fixated.shape} differ in size; map the other "
            "videos' fixations into this frame's coordinates first"
        )
    if weights.min() < 0:
        raise ValueError("others counts fixations and holds values below 0")
    x = _resized(_map("prediction", prediction), fixated.shape)
    if not weights.any():
        return float("nan")
    return _auc_against_draws(x[fixated], x.ravel(), seed, splits, weights.ravel())


def temporal_consistency(maps: ArrayLike, frames: ArrayLike) -> float:
    """How steady saliency is where the video itself is steady.

    Of each two successive frames: 1 − max(0, change of the maps − change of the frames), where
    the change of two pictures is 1 − CC of their pixels. The mean of it over the clip. A map may
    thus change as much as its frame does (motion, a scene cut), and what it changes beyond that
    counts against it. The definition is this project's own.

    Args:
        maps: (T, h, w) saliency, any scale.
        frames: (T, H, W) luma or (T, H, W, 3) RGB of the same frames, any scale; compared at the
            size of the maps, as means over the pixels that fall into one of a map.

    Returns:
        In [-1, 1], 1 for maps that never change more than the frames; nan with under two frames.

    Raises:
        ValueError: shapes do not fit, or values that are not finite.
    """
    saliency, video = np.asarray(maps, np.float64), np.asarray(frames, np.float64)
    if video.ndim == 4:
        video = video.mean(-1)
    if saliency.ndim != 3 or video.ndim != 3 or len(saliency) != len(video):
        raise ValueError(
            f"maps {np.shape(maps)} and frames {np.shape(frames)}: give (T, h, w) and (T, H, W) "
            "or (T, H, W, 3) of the same frames"
        )
    if len(saliency) < 2:
        return float("nan")
    shape = saliency.shape[1:]
    small = [resize_local_mean(_map("frames", frame), shape) for frame in video]
    scores = []
    for t in range(len(saliency) - 1):
        a, b = (_map("maps", m) for m in saliency[t : t + 2])
        scores.append(1 - max(0.0, _change(a, b) - _change(small[t], small[t + 1])))
    return float(np.mean(scores))


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
        raise DagrError(f"{name} holds values that are not finite; look for nan or inf in it")
    return array


def _resized(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if values.shape == shape:
        return values
    factors = [new / old for new, old in zip(shape, values.shape, strict=True)]
    return ndimage.zoom(values, factors, order=1, mode="nearest", grid_mode=True)


def _is_constant(values: np.ndarray) -> bool:
    # Resizing a constant leaves rounding behind, which standardizing would blow up.
    return bool(np.ptp(values) <= 1e-12 * np.abs(values).max())


def _mass(values: np.ndarray) -> np.ndarray:
    """A map that sums to one; what lies below 0 is lifted first."""
    lifted = values - min(values.min(), 0.0)
    return lifted / lifted.sum()


def _distribution(values: np.ndarray) -> np.ndarray:
    """A map from 0 that sums to one."""
    lifted = values - values.min()
    return lifted / lifted.sum()


def _auc(positives: np.ndarray, negatives: np.ndarray) -> float:
    """Probability that a positive lies above a negative, ties counting half (Mann and Whitney)."""
    if not positives.size or not negatives.size:
        return float("nan")
    ordered = np.sort(negatives)
    below = np.searchsorted(ordered, positives, "left")
    through = np.searchsorted(ordered, positives, "right")
    return float((below + through).sum() / (2 * positives.size * negatives.size))


def _auc_against_draws(
    positives: np.ndarray,
    pixels: np.ndarray,
    seed: int,
    splits: int,
    weights: np.ndarray | None = None,
) -> float:
    if splits < 1:
        raise ValueError(f"splits={splits}: at least 1")
    if not positives.size:
        return float("nan")
    chance = None if weights is None else weights / weights.sum()
    rng = np.random.default_rng(seed)
    # All draws hold as many pixels: the mean of their AUCs is the AUC against them together.
    return _auc(positives, rng.choice(pixels, size=splits * positives.size, p=chance))


def _change(a: np.ndarray, b: np.ndarray) -> float:
    """1 − CC of two pictures, in [0, 2]; 0 where both are constant, 1 where one is."""
    if _is_constant(a) or _is_constant(b):
        return 0.0 if _is_constant(a) and _is_constant(b) else 1.0
    return 1 - cc(a, b)
