"""Agreement of predicted and subjective quality: SRCC, KRCC, PLCC, RMSE (REFERENCE section 4).

All take predictions and MOS of the same videos, (n,) each, and compute in float64. What has no
value is nan, never 0: a correlation where one side is constant, or any of them with fewer than two
videos (RMSE: none). Values that are not finite, or lists of two lengths, are a ValueError.
PLCC and RMSE are plain; `fit_logistic` maps predictions onto the MOS scale first, as VQEG does.
"""

import dataclasses
import warnings
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, special, stats


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


@dataclasses.dataclass(frozen=True)
class LogisticFit:
    """Predictions on the MOS scale.

    Attributes:
        fitted: (n,) the predictions after the fit, in units of MOS; nan where there is none.
        parameters: β of the curve, as `fit_logistic` writes it; empty where `converged` is False.
        converged: whether the curve was found. If not, `fitted` is the least-squares line.
        reason: why it was not; "" where it was.
    """

    fitted: np.ndarray
    parameters: tuple[float, ...]
    converged: bool
    reason: str

    def scores(self, mos: ArrayLike) -> tuple[float, float]:
        """(PLCC, RMSE) of the fitted predictions; nan where there are none."""
        if np.isnan(self.fitted).any():
            return float("nan"), float("nan")
        return plcc(self.fitted, mos), rmse(self.fitted, mos)


def fit_logistic(predictions: ArrayLike, mos: ArrayLike, parameters: int = 4) -> LogisticFit:
    """Least-squares fit of a logistic from predictions to MOS.

    With four parameters (VQEG 2003), monotone:
        f(x) = β2 + (β1 − β2) / (1 + exp(−(x − β3) / β4)),  β4 > 0
    With five (Sheikh et al., TIP 2006), a logistic and a line:
        f(x) = β1·(1/2 − 1 / (1 + exp(β2·(x − β3)))) + β4·x + β5,  β2 > 0
    A scale that runs the other way only changes the signs of β1 − β2 or β1.

    Only centre and width are searched; the other parameters are linear and solved exactly for each
    (variable projection). The search starts from the best of a grid over the predictions'
    quantiles, so that it depends neither on guessed start values nor on a few outliers.

    The straight line is the limit of either curve. Where it is as good as the best curve, the data
    does not determine one: `converged` is False and the line is taken. The correlation after the
    fit is therefore never below |PLCC| before it.

    Args:
        predictions, mos: (n,).
        parameters: 4 or 5.

    Raises:
        ValueError: see the module; or parameters is neither 4 nor 5.
    """
    if parameters not in (4, 5):
        raise ValueError(f"parameters={parameters}: the logistic has 4 or 5")
    x, y = _pair(predictions, mos)
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        nothing = np.full(len(x), np.nan)
        return LogisticFit(
            nothing, (), False, "one side is constant, or there are under two videos"
        )
    line = _line(x, y)
    if len(x) <= parameters:
        reason = f"{len(x)} videos do not determine {parameters} parameters"
        return LogisticFit(line, (), False, reason)

    # Predictions in half ranges: the search does not depend on their scale.
    centre, spread = x.mean(), np.ptp(x) / 2
    u = (x - centre) / spread
    straight = [np.ones_like(u), u] if parameters == 5 else [np.ones_like(u)]
    basis = np.linalg.qr(np.stack(straight, axis=1))[0]

    def beside(values: np.ndarray) -> np.ndarray:
        """What the straight part cannot explain."""
        return values - basis @ (basis.T @ values)

    target = beside(y) / np.linalg.norm(y - y.mean())

    def unexplained(place: np.ndarray) -> float:
        """Share of the variance that the best curve with this centre and log width leaves."""
        curve = beside(special.expit((u - place[0]) / np.exp(place[1])))
        size = np.linalg.norm(curve)
        if size < 1e-9:  # straight all over the data
            return float(np.dot(target, target))
        return float(np.dot(target, target) - np.dot(curve / size, target) ** 2)

    # Not by derivatives: a steep curve steps from video to video, and Gauss-Newton is lost where
    # the correlation is low. Two dimensions are few enough for a simplex.
    found = optimize.minimize(
        unexplained,
        min(_starts(u), key=unexplained),
        method="Nelder-Mead",
        bounds=[(-3.0, 3.0), (np.log(0.01), np.log(30.0))],
        options={"xatol": 1e-5, "fatol": 1e-10, "maxfev": 1000},
    )
    if not found.success:
        return LogisticFit(line, (), False, "the search did not settle")
    place, width = centre + spread * found.x[0], spread * float(np.exp(found.x[1]))
    curve = special.expit((x - place) / width)
    columns = np.stack([curve, *straight], axis=1)
    height, low, *slope = np.linalg.lstsq(columns, y, rcond=None)[0]
    fitted = columns @ np.array([height, low, *slope])
    gain = np.sum((line - y) ** 2) - np.sum((fitted - y) ** 2)
    if not gain > 1e-9 * np.sum((y - y.mean()) ** 2):
        return LogisticFit(line, (), False, "a straight line fits as well, the curve's limit")
    beta: tuple[float, ...]
    if parameters == 5:
        per_unit = slope[0] / spread
        beta = (height, 1 / width, place, per_unit, low - per_unit * centre + height / 2)
    else:
        beta = (low + height, low, place, width)
    return LogisticFit(fitted, tuple(float(b) for b in beta), True, "")


def _line(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The least-squares line through (x, y), at x."""
    dx = x - x.mean()
    return y.mean() + dx * (np.dot(dx, y - y.mean()) / np.dot(dx, dx))


def _starts(u: np.ndarray) -> list[np.ndarray]:
    """Centres at quantiles; widths from a fraction of the middle half to beyond the range."""
    quartile = np.quantile(u, 0.75) - np.quantile(u, 0.25)
    unit = np.clip(quartile if quartile > 0 else u.std(), 1e-2, 1.0)
    return [
        np.array([c, np.log(np.clip(unit * w, 0.01, 30.0))])
        for c in np.quantile(u, [0.02, 0.1, 0.25, 0.4, 0.5, 0.6, 0.75, 0.9, 0.98])
        for w in (0.05, 0.15, 0.4, 1.0, 3.0, 10.0)
    ]


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
    """Percentile bootstrap intervals of metrics over contents.

    Videos of one content (versions of one scene) are not independent: contents are drawn with
    replacement, and each that is drawn brings all its videos, as often as it was drawn.

    Args:
        metric: (predictions, mos) → one value or several, such as a function of this module.
        predictions, mos: (n_videos,).
        contents: (n_videos,) labels, equal for the videos of one content.
        n: number of resamples, at least 1.
        seed: of numpy's Generator; the same seed gives the same interval.
        level: coverage, in (0, 1).

    Returns:
        (low, high), each of the shape that `metric` returns. Resamples where a value is nan are
        left out of its interval; nan if all are, or with fewer than two contents.

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
        nothing = np.full_like(np.asarray(metric(x, y), np.float64), np.nan)
        return nothing, nothing
    members = [np.flatnonzero(inverse == k) for k in range(len(names))]
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(n):
        drawn = np.concatenate([members[k] for k in rng.integers(len(names), size=len(names))])
        values.append(metric(x[drawn], y[drawn]))
    table = np.asarray(values, np.float64)
    tails = [(1 - level) / 2, (1 + level) / 2]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN slice", RuntimeWarning)
        low, high = np.nanquantile(table, tails, axis=0)
    return low, high


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
