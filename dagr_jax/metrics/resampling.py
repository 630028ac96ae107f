"""Bootstrap over contents: intervals of any metric of predictions."""

import warnings
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from dagr_jax.metrics import agreement
from dagr_jax.runtime.errors import DagrError


def bootstrap(
    metric: Callable[[np.ndarray, np.ndarray], ArrayLike],
    predictions: ArrayLike,
    mos: ArrayLike,
    contents: Sequence | np.ndarray,
    *,
    n: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[np.ndarray, np.ndarray]:
    """Computes bootstrap intervals of metrics, with resampling of contents.

    Args:
        metric: Function (predictions, mos) → one value or several, such as `srcc`.
        predictions, mos: (n_videos,) predictions and MOS.
        contents: (n_videos,) content labels, equal for the videos of one content.
        n: Number of resamples, at least 1.
        seed: Seed of numpy's Generator; the same seed gives the same interval.
        level: Coverage, in (0, 1).

    Returns:
        (low, high), each of the shape that `metric` returns (see `interval`).

    Raises:
        ValueError: The lengths differ, values are not finite, or `n` or `level` is out of range.
    """
    x, y = agreement.paired(predictions, mos)
    labels = np.asarray(contents)
    if labels.shape != x.shape:
        raise ValueError(f"contents has shape {labels.shape}; give one label for each of {len(x)}")
    values = [
        np.asarray(metric(x[rows], y[rows]), np.float64) for rows in resamples(labels, n, seed)
    ]
    if not values:
        nothing = np.full_like(np.asarray(metric(x, y), np.float64), np.nan)
        return nothing, nothing
    return interval(values, labels, level)


def resamples(contents: Sequence | np.ndarray, n: int, seed: int) -> Iterator[np.ndarray]:
    """Draws contents with replacement; each draw of a content adds all its videos.

    Videos of one content (versions of one scene) are not independent, so they stay together.

    Args:
        contents: (n_videos,) content labels.
        n: Number of resamples, at least 1.
        seed: Seed of numpy's Generator.

    Yields:
        The numbers of the videos of each resample; nothing with fewer than two contents.

    Raises:
        DagrError: `n` is below 1.
    """
    if n < 1:
        raise DagrError(f"n={n}: a bootstrap needs at least 1 resample")
    names, inverse = np.unique(np.asarray(contents), return_inverse=True)
    if len(names) < 2:
        return
    members = [np.flatnonzero(inverse == k) for k in range(len(names))]
    rng = np.random.default_rng(seed)
    for _ in range(n):
        yield np.concatenate([members[k] for k in rng.integers(len(names), size=len(names))])


def interval(
    values: Sequence[ArrayLike] | np.ndarray, contents: Sequence | np.ndarray, level: float = 0.95
) -> tuple[np.ndarray, np.ndarray]:
    """Computes the expanded percentile interval of bootstrap values (Hesterberg 2015, section 5).

    With few contents, the plain percentile interval is too narrow: the spread of a resample of G
    contents is too small by √((G − 1) / G), and its tails are those of a normal distribution. The
    quantiles are therefore taken at Φ(±√(G / (G − 1))·t), with t of Student's distribution with
    G − 1 degrees of freedom. With many contents, both intervals are the same.

    Args:
        values: (n, …) values of the resamples.
        contents: (n_videos,) content labels.
        level: Coverage, in (0, 1).

    Returns:
        (low, high), each of the shape of a value. A nan is left out; nan if all are left out.

    Raises:
        DagrError: `level` is out of range.
    """
    if not 0 < level < 1:
        raise DagrError(f"level={level}: the coverage of an interval is between 0 and 1")
    count = len(np.unique(np.asarray(contents)))
    reach = np.sqrt(count / (count - 1)) * stats.t.ppf((1 + level) / 2, count - 1)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN slice", RuntimeWarning)
        low, high = np.nanquantile(
            np.asarray(values, np.float64), stats.norm.cdf([-reach, reach]), axis=0
        )
    return low, high
