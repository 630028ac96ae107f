"""Agreement of predicted and subjective quality: SRCC, KRCC, PLCC, RMSE (REFERENCE section 4).

All take predictions and MOS of the same videos, (n,) each, and compute in float64. What has no
value is nan, never 0: a correlation where one side is constant, or any of them with fewer than two
videos (RMSE: none). Values that are not finite, or lists of two lengths, are a ValueError.
PLCC and RMSE are plain: no logistic is fitted first.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats


def srcc(predictions: ArrayLike, mos: ArrayLike) -> float:
    """Spearman's rank correlation: Pearson's of the ranks, ties sharing their mean rank.

    Returns:
        In [-1, 1], or nan where one side is constant or n < 2.

    Raises:
        ValueError: see the module.
    """
    x, y = _pair(predictions, mos)
    return _pearson(stats.rankdata(x), stats.rankdata(y))


def plcc(predictions: ArrayLike, mos: ArrayLike) -> float:
    """Pearson's linear correlation.

    Returns:
        In [-1, 1], or nan where one side is constant or n < 2.

    Raises:
        ValueError: see the module.
    """
    return _pearson(*_pair(predictions, mos))


def krcc(predictions: ArrayLike, mos: ArrayLike) -> float:
    """Kendall's rank correlation tau-b, which corrects for ties.

    Returns:
        In [-1, 1], or nan where one side is constant or n < 2.

    Raises:
        ValueError: see the module.
    """
    x, y = _pair(predictions, mos)
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    # 'asymptotic' concerns the p-value, which is not used: the exact one is slow.
    return float(stats.kendalltau(x, y, variant="b", method="asymptotic").statistic)


def rmse(predictions: ArrayLike, mos: ArrayLike) -> float:
    """Root mean square error; both sides must be on one scale.

    Returns:
        At least 0, in units of MOS; nan where there are no videos.

    Raises:
        ValueError: see the module.
    """
    x, y = _pair(predictions, mos)
    return float(np.sqrt(np.mean((x - y) ** 2))) if len(x) else float("nan")


def bootstrap(
    metric: Callable[[np.ndarray, np.ndarray], float],
    predictions: ArrayLike,
    mos: ArrayLike,
    contents: Sequence | np.ndarray,
    *,
    n: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float]:
    """Percentile bootstrap interval of a metric over contents.

    Videos of one content (versions of one scene) are not independent: contents are drawn with
    replacement, and each that is drawn brings all its videos, as often as it was drawn.

    Args:
        metric: a function of this module, or one like them.
        predictions, mos: (n_videos,).
        contents: (n_videos,) labels, equal for the videos of one content.
        n: number of resamples, at least 1.
        seed: of numpy's Generator; the same seed gives the same interval.
        level: coverage, in (0, 1).

    Returns:
        (low, high). Resamples where the metric is nan are left out; (nan, nan) if all are, or
        with fewer than two contents.

    Raises:
        ValueError: see the module; or lengths, n or level are wrong.
    """
    x, y = _pair(predictions, mos)
    labels = np.asarray(contents)
    if labels.shape != x.shape:
        raise ValueError(f"contents has shape {labels.shape}; give one label for each of {len(x)}")
    if n < 1 or not 0 < level < 1:
        raise ValueError(f"n={n}, level={level}: n must be at least 1 and level between 0 and 1")
    names, inverse = np.unique(labels, return_inverse=True)
    if len(names) < 2:
        return float("nan"), float("nan")
    members = [np.flatnonzero(inverse == k) for k in range(len(names))]
    rng = np.random.default_rng(seed)
    values = np.empty(n)
    for i in range(n):
        drawn = np.concatenate([members[k] for k in rng.integers(len(names), size=len(names))])
        values[i] = metric(x[drawn], y[drawn])
    values = values[~np.isnan(values)]
    if not len(values):
        return float("nan"), float("nan")
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _pair(predictions: ArrayLike, mos: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Both sides as checked float64 vectors."""
    x, y = np.asarray(predictions, np.float64), np.asarray(mos, np.float64)
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(
            f"predictions {x.shape} and mos {y.shape} must be two lists of one length; "
            "give one of each for every video"
        )
    for name, values in (("predictions", x), ("mos", y)):
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            raise ValueError(
                f"{name}[{bad[0]}] is {values[bad[0]]} ({len(bad)} of {len(values)} are not "
                "finite); leave out what has no value"
            )
    return x, y


def _pearson(x: np.ndarray, y: np.ndarray) -> float:
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    x, y = x - x.mean(), y - y.mean()
    # The largest is brought to 1 first: squares of very small differences would underflow.
    x, y = x / np.abs(x).max(), y / np.abs(y).max()
    r = np.dot(x / np.linalg.norm(x), y / np.linalg.norm(y))
    return float(np.clip(r, -1.0, 1.0))
