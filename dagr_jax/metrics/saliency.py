"""Agreement of a predicted saliency map with human gaze, for one frame.

CC, SIM and KLD compare the map with a density; NSS, AUC-Judd, AUC-Borji and shuffled AUC compare it
with fixations. `temporal_consistency` takes the maps of a whole clip.

Pitfalls (docs/reference.md, section 4) and how this module treats them:

* The sizes differ: the prediction is resized (bilinear, half-pixel centres) to the size of the
  ground truth. A fixation map is never resized, because that would lose or add fixations.
* There is no ground truth (no fixations, a constant density): the result is nan, so that
  `numpy.nanmean` leaves the frame out of a mean and does not count it as 0.
* A constant prediction has no information: the result is 0 (AUC: 1/2), so that the frame lowers
  the mean and is not left out.
* Ties: an AUC counts half of them. The random jitter of the benchmark codes gives the same on
  average. Without jitter, the same maps always give the same number.
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
        CC in [-1, 1]; nan for a constant density, 0 for a constant prediction.

    Raises:
        ValueError: An argument is not a map, or values are not finite.
    """
    truth = _map("density", density)
    x = resized(_map("prediction", prediction), truth.shape)
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
        fixations: (H, W) fixation map, above 0 at fixated pixels; each pixel counts once.

    Returns:
        NSS in standard deviations of the map (the population formula, over pixels); nan without
        fixations, 0 for a constant prediction.

    Raises:
        ValueError: An argument is not a map, or values are not finite.
    """
    fixated = _map("fixations", fixations) > 0
    x = resized(_map("prediction", prediction), fixated.shape)
    if not fixated.any():
        return float("nan")
    if _is_constant(x):
        return 0.0
    return float((x[fixated].mean() - x.mean()) / x.std())


def sim(prediction: ArrayLike, density: ArrayLike) -> float:
    """Similarity: sum of the pixelwise minimum of two maps that each sum to one.

    Args:
        prediction: (h, w) saliency. Its minimum is subtracted first, so that an offset has no
            effect.
        density: (H, W) ground-truth density, at least 0, and above 0 at some pixel.

    Returns:
        SIM in [0, 1]; nan for a constant density, 0 for a constant prediction.

    Raises:
        ValueError: An argument is not a map, or values are not finite.
    """
    truth = _map("density", density)
    x = resized(_map("prediction", prediction), truth.shape)
    if np.ptp(truth) == 0:
        return float("nan")
    if _is_constant(x):
        return 0.0
    return float(np.minimum(_distribution(x), _distribution(truth)).sum())


def kld(prediction: ArrayLike, density: ArrayLike) -> float:
    """Kullback-Leibler divergence of the prediction from the density, lower is better.

    KLD = Σ q·log(ε + q / (p + ε)) with ε = 2.2e-16, where p (the prediction) and q (the density)
    each sum to one, as in the MIT benchmark.

    Args:
        prediction: (h, w) saliency, at least 0 (a minimum below 0 is subtracted).
        density: (H, W) ground-truth density.

    Returns:
        KLD in nats, at least 0 except for the effect of ε; nan for a constant density. A constant
        prediction counts as a uniform distribution.

    Raises:
        ValueError: An argument is not a map, or values are not finite.
    """
    truth = _map("density", density)
    x = resized(_map("prediction", prediction), truth.shape)
    if np.ptp(truth) == 0:
        return float("nan")
    epsilon = np.finfo(np.float64).eps
    p = np.full(x.shape, 1 / x.size) if _is_constant(x) else _mass(x)
    q = _mass(truth)
    return float(np.sum(q * np.log(epsilon + q / (p + epsilon))))


def auc_judd(prediction: ArrayLike, fixations: ArrayLike) -> float:
    """Area under the ROC curve of the fixated pixels against all other pixels.

    Every value of the map is a threshold of the curve. The benchmark code of Judd et al. uses only
    the values at the fixations as thresholds and joins the points by straight lines; its AUC is
    higher by at most 1 / (2 · fixations).

    Args:
        prediction: (h, w) saliency, any scale.
        fixations: (H, W) fixation map, above 0 at fixated pixels; each pixel counts once.

    Returns:
        AUC in [0, 1], 1/2 at chance level; nan if no pixel or every pixel is fixated.

    Raises:
        ValueError: An argument is not a map, or values are not finite.
    """
    fixated = _map("fixations", fixations) > 0
    x = resized(_map("prediction", prediction), fixated.shape)
    return _auc(x[fixated], x[~fixated])


def auc_borji(
    prediction: ArrayLike, fixations: ArrayLike, *, seed: int, splits: int = 100
) -> float:
    """AUC of the fixated pixels against as many uniformly drawn pixels, averaged over draws.

    Every value is a threshold. The benchmark code uses steps of 0.1 of the map's range, which
    ignores differences within a step.

    Args:
        prediction: (h, w) saliency, any scale.
        fixations: (H, W) fixation map, above 0 at fixated pixels; each pixel counts once.
        seed: Seed of the draws.
        splits: Number of draws.

    Returns:
        AUC in [0, 1]; nan without fixations.

    Raises:
        ValueError: An argument is not a map, values are not finite, or `splits` is below 1.
    """
    fixated = _map("fixations", fixations) > 0
    x = resized(_map("prediction", prediction), fixated.shape)
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

    A bias that all videos share, above all the centre bias, gains nothing: a centre prior has an
    AUC of 1/2.

    Args:
        prediction: (h, w) saliency, any scale.
        fixations: (H, W) fixation map, above 0 at fixated pixels; each pixel counts once.
        others: (H, W) number of fixations in other videos at each pixel. As many pixels as there
            are fixations are drawn with these counts as weights.
        seed: Seed of the draws.
        splits: Number of draws.

    Returns:
        AUC in [0, 1]; nan if this video or the other videos have no fixations.

    Raises:
        ValueError: An argument is not a map, the sizes of `fixations` and `others` differ, values
            are not finite, values of `others` are below 0, or `splits` is below 1.
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
    x = resized(_map("prediction", prediction), fixated.shape)
    if not weights.any():
        return float("nan")
    return _auc_against_draws(x[fixated], x.ravel(), seed, splits, weights.ravel())


def temporal_consistency(maps: ArrayLike, frames: ArrayLike) -> float:
    """Temporal consistency: how steady saliency is while the video itself is steady.

    For each pair of successive frames the value is
    1 − max(0, change of the maps − change of the frames), where the change between two pictures is
    1 − CC of their pixels. The result is the mean over the clip. A map may thus change as much as
    its frame does (motion, a scene cut); only change beyond that lowers the value. This project
    defined the metric.

    Args:
        maps: (T, h, w) saliency, any scale.
        frames: (T, H, W) luma or (T, H, W, 3) RGB of the same frames, any scale. They are averaged
            down to the size of the maps.

    Returns:
        Consistency in [-1, 1], 1 if the maps never change more than the frames; nan with fewer than
        two frames.

    Raises:
        ValueError: The shapes do not match, or values are not finite.
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
    """Makes a centre prior: a Gaussian at the centre, the baseline that ignores the video.

    Args:
        height: Height of the map, in pixels.
        width: Width of the map, in pixels.
        sigma: Standard deviation along each axis as a fraction of that axis, so that the Gaussian
            has the aspect ratio of the picture. The default is a quarter because people look at
            the middle half most of the time.

    Returns:
        (height, width) float64 in (0, 1], largest at the centre.

    Raises:
        ValueError: A side is below 1, or `sigma` is not above 0.
    """
    if min(height, width) < 1 or not sigma > 0:
        raise ValueError(f"({height}, {width}), sigma {sigma}: all must be above 0")
    # Twice the distance is a whole number of pixels, so both halves are equal to the bit.
    y, x = ((2 * np.arange(n) + 1 - n) / (2 * n * sigma) for n in (height, width))
    return np.exp(-(y[:, None] ** 2 + x[None, :] ** 2) / 2)


def _map(name: str, values: ArrayLike) -> np.ndarray:
    array = np.asarray(values, np.float64)
    if array.ndim != 2 or not array.size:
        raise ValueError(f"{name} has shape {array.shape}; give one map (height, width)")
    if not np.isfinite(array).all():
        raise DagrError(f"{name} holds values that are not finite; look for nan or inf in it")
    return array


def resized(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Resizes a map (h, w) to a shape: bilinear, half-pixel centres. All metrics use it."""
    if values.shape == shape:
        return values
    factors = [new / old for new, old in zip(shape, values.shape, strict=True)]
    return ndimage.zoom(values, factors, order=1, mode="nearest", grid_mode=True)


def _is_constant(values: np.ndarray) -> bool:
    # A resized constant has rounding errors, which standardizing would amplify.
    return bool(np.ptp(values) <= 1e-12 * np.abs(values).max())


def _mass(values: np.ndarray) -> np.ndarray:
    """Scales a map to sum to one. A minimum below 0 is subtracted first."""
    lifted = values - min(values.min(), 0.0)
    return lifted / lifted.sum()


def _distribution(values: np.ndarray) -> np.ndarray:
    """Subtracts the minimum of a map and scales the result to sum to one."""
    lifted = values - values.min()
    return lifted / lifted.sum()


def _auc(positives: np.ndarray, negatives: np.ndarray) -> float:
    """Probability that a positive is above a negative; ties count half (Mann and Whitney)."""
    if not positives.size or not negatives.size:
        return float("nan")
    if positives.size <= 32:  # faster than to sort the pixels of a large picture
        lower = [np.count_nonzero(negatives < one) for one in positives]
        upper = [np.count_nonzero(negatives <= one) for one in positives]
        count = sum(lower) + sum(upper)
    else:
        ordered = np.sort(negatives)
        below = np.searchsorted(ordered, positives, "left")
        count = (below + np.searchsorted(ordered, positives, "right")).sum()
    return float(count / (2 * positives.size * negatives.size))


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
    chance = None
    if weights is not None:  # only the pixels that can be drawn, with the same draws
        pixels, weights = pixels[weights > 0], weights[weights > 0]
        chance = weights / weights.sum()
    rng = np.random.default_rng(seed)
    # All draws have the same number of pixels, so the mean of their AUCs equals the AUC against
    # the union of the draws.
    return _auc(positives, rng.choice(pixels, size=splits * positives.size, p=chance))


def _change(a: np.ndarray, b: np.ndarray) -> float:
    """Returns 1 − CC of two pictures, in [0, 2]; 0 if both are constant, 1 if only one is."""
    if _is_constant(a) or _is_constant(b):
        return 0.0 if _is_constant(a) and _is_constant(b) else 1.0
    return 1 - cc(a, b)
