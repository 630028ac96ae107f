"""Agreement of predictions and MOS: SRCC, KRCC, PLCC, RMSE (docs/reference.md, section 4).

All functions take predictions and MOS of the same videos, (n,) each, and compute in float64. An
undefined value is nan, never 0: a correlation if one side is constant, and a correlation of fewer
than two videos (RMSE: of no videos). Values that are not finite, and lists of different lengths,
raise ValueError. PLCC and RMSE use the predictions as they are; `fit_logistic` maps predictions
onto the MOS scale first, as VQEG does.
"""

import dataclasses
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import special, stats

from dagr_jax.runtime.errors import DagrError


def srcc(predictions: ArrayLike, mos: ArrayLike) -> float:
    """Spearman's rank correlation: Pearson's correlation of the ranks. Ties get their mean rank.

    Returns:
        SRCC in [-1, 1]; nan if one side is constant or n < 2.

    Raises:
        ValueError: The lengths differ, or values are not finite.
    """
    x, y = paired(predictions, mos)
    return _pearson(stats.rankdata(x), stats.rankdata(y))


def plcc(predictions: ArrayLike, mos: ArrayLike) -> float:
    """Pearson's linear correlation.

    Returns:
        PLCC in [-1, 1]; nan if one side is constant or n < 2.

    Raises:
        ValueError: The lengths differ, or values are not finite.
    """
    return _pearson(*paired(predictions, mos))


def krcc(predictions: ArrayLike, mos: ArrayLike) -> float:
    """Kendall's rank correlation tau-b, which corrects for ties.

    Returns:
        KRCC in [-1, 1]; nan if one side is constant or n < 2.

    Raises:
        ValueError: The lengths differ, or values are not finite.
    """
    x, y = paired(predictions, mos)
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    # `method` affects only the p-value, which is not used; the exact p-value is slow.
    return float(stats.kendalltau(x, y, variant="b", method="asymptotic").statistic)


def rmse(predictions: ArrayLike, mos: ArrayLike) -> float:
    """Root mean square error. Predictions must be on the MOS scale.

    Returns:
        RMSE, at least 0, in MOS units; nan if there are no videos.

    Raises:
        ValueError: The lengths differ, or values are not finite.
    """
    x, y = paired(predictions, mos)
    return float(np.sqrt(np.mean((x - y) ** 2))) if len(x) else float("nan")


@dataclasses.dataclass(frozen=True)
class LogisticFit:
    """Predictions mapped onto the MOS scale by a logistic.

    Attributes:
        fitted: (n,) predictions after the fit, in MOS units; nan if no fit is possible.
        parameters: β of the curve, as defined in `fit_logistic`; empty if `converged` is False.
        converged: Whether the curve was found, as defined in `fit_logistic`. If not, `fitted` is
            the curve at which the search ended, or the least-squares line if that is as good.
        reason: Why the fit did not converge; "" if it did.
    """

    fitted: np.ndarray
    parameters: tuple[float, ...]
    converged: bool
    reason: str

    def scores(self, mos: ArrayLike) -> tuple[float, float]:
        """Returns (PLCC, RMSE) of the fitted predictions; nan if no fit was possible.

        PLCC is 0 if the fit is constant: the least-squares line of uncorrelated predictions.
        """
        if np.isnan(self.fitted).any():
            return float("nan"), float("nan")
        level = len(self.fitted) > 1 and np.ptp(self.fitted) == 0 < np.ptp(np.asarray(mos))
        return 0.0 if level else plcc(self.fitted, mos), rmse(self.fitted, mos)


def fit_logistic(predictions: ArrayLike, mos: ArrayLike, parameters: int = 4) -> LogisticFit:
    """Fits a logistic from predictions to MOS by least squares.

    With four parameters (VQEG 2003), monotone:
        f(x) = β2 + (β1 − β2) / (1 + exp(−(x − β3) / β4)),  β4 > 0
    With five parameters (Sheikh et al., TIP 2006), a logistic plus a line:
        f(x) = β1·(1/2 − 1 / (1 + exp(β2·(x − β3)))) + β4·x + β5,  β2 > 0
    An inverted prediction scale changes only the sign of β1 − β2 or β1.

    The search covers only the centre and the width. The other parameters are linear and are solved
    exactly for each candidate (variable projection). Centre and width are in interquartile ranges
    from the median. Newton's method starts at several widths, each at the best of several
    quantiles, so that the result does not depend on guessed start values or on a few outliers.

    Least squares alone often has no minimum: the error keeps decreasing by tiny amounts towards an
    exponential (centre at infinity), a polynomial (infinite width) or a step that fits the noise of
    two neighbouring videos (width 0). The search therefore minimises
        ln(squared error) + 1e-5·(asinh²(centre) + ln²(width)) + 2·ln(n) / (n·r²).
    The second term selects, among curves that fit equally well, the one in the middle of the
    predictions. The third term penalises a rise across few predictions, where
    r = Σ 4·s·(1 − s) of the logistic s in (0, 1), summed over distinct predictions: the best of n
    places for a step gains ln(n) of log likelihood by chance. If the data determines a curve, both
    terms move it by far less than its uncertainty. Points on a logistic give exactly that logistic.

    `converged` is True if the search converged and its lowest minimum is a curve of the family: it
    rises across at least two predictions (r ≥ 2, or every point lies on the curve), its width is
    below ten ranges of the predictions, and its squared error is below that of the straight line by
    more than 1e-9 of the variance of MOS. It does not mean that β is certain: with noise, very
    different β may fit equally well. If it is False, `reason` says why, and `fitted` is the curve
    at which the search ended if that beats the line by the same margin, else the line. If there are
    no more distinct predictions than parameters, there is no search and the line is used. The
    correlation after the fit is therefore never below |PLCC| before it.

    Args:
        predictions: (n,) predictions, any scale.
        mos: (n,) MOS.
        parameters: Number of parameters, 4 or 5.

    Raises:
        ValueError: The lengths differ, values are not finite, or `parameters` is not 4 or 5.
    """
    if parameters not in (4, 5):
        raise ValueError(f"parameters={parameters}: the logistic has 4 or 5")
    x, y = paired(predictions, mos)
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        reason = "one side is constant, or there are fewer than two videos"
        return LogisticFit(np.full(len(x), np.nan), (), False, reason)
    # Divide by the range first: squares of very small differences would underflow.
    mean, scale = y.mean(), np.ptp(y)
    scale *= np.linalg.norm((y - mean) / scale)
    v = (y - mean) / scale
    across = (x - x.mean()) / np.ptp(x)
    across /= np.linalg.norm(across)
    r = np.dot(across, v)
    r *= abs(r) > 1e-12  # smaller values are rounding errors
    line = mean + scale * r * across

    distinct, which, count = np.unique(x, return_inverse=True, return_counts=True)
    if len(distinct) <= parameters:
        reason = f"{len(distinct)} distinct predictions do not determine {parameters} parameters"
        return LogisticFit(line, (), False, reason)
    grid = np.quantile(x, [0.25, 0.5, 0.75, *_CENTRES])
    if grid[0] == grid[2]:  # half of the videos share one prediction
        grid = np.quantile(distinct, [0.25, 0.5, 0.75, *_CENTRES])
    median, spread = grid[1], grid[2] - grid[0]
    u = (x - median) / spread
    far = np.abs(u).max()
    straight = [np.ones_like(u), u / far][: parameters - 3]
    basis, triangle = np.linalg.qr(np.stack(straight, axis=1))
    target = v - basis @ (basis.T @ v)
    videos = _Videos(u, target, basis, 1 / count[which], 2 * np.log(len(u)) / len(u))
    place, reason = _search(videos, (grid[3:] - median) / spread)

    _, sign, curve = (part[0] for part in _logistic(u, place[None]))
    curve = sign * curve  # the logistic minus 1 if sign is -1
    beside = curve - basis @ (basis.T @ curve)
    height = np.dot(beside, v) / np.dot(beside, beside)
    flat, *slope = np.linalg.solve(triangle, basis.T @ (v - height * curve))
    fitted = height * beside + basis @ (basis.T @ v)
    if not 1 - r**2 - np.sum((v - fitted) ** 2) > 1e-9:
        return LogisticFit(line, (), False, "a straight line fits as well, the limit of the curve")
    fitted = mean + scale * fitted
    if reason:
        return LogisticFit(fitted, (), False, reason)
    height = scale * height
    low = mean + scale * flat - (height if sign < 0 else 0.0)
    centre, width = median + spread * place[0], spread * np.exp(place[1])
    beta = [low + height, low, centre, width]
    if parameters == 5:
        per_unit = scale * slope[0] / far / spread
        beta = [height, 1 / width, centre, per_unit, low - per_unit * median + height / 2]
    return LogisticFit(fitted, tuple(map(float, beta)), True, "")


# Start values of the search: centres as quantiles, widths in interquartile ranges.
_CENTRES = (0.02, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.98)
_WIDTHS = (0.1, 0.3, 1.0, 3.0)
_TWICE = np.array([[2, 3], [3, 4]])  # indices of the three entries of a symmetric 2 × 2 matrix


class _Videos(NamedTuple):
    """Data of the search. MOS is scaled to mean 0 and sum of squares 1."""

    u: np.ndarray  # (n,) predictions, in interquartile ranges from the median
    target: np.ndarray  # (n,) residual of MOS after a fit of the straight part of the curve
    basis: np.ndarray  # (n, 1 or 2) orthonormal: a constant, and with five parameters a line
    share: np.ndarray  # (n,) 1 / number of videos with this prediction
    charge: float  # penalty of a rise across one prediction


def _logistic(u: np.ndarray, place: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns z = (u − centre) / width (k, n), a sign (k, 1), and 1 / (1 + exp(−sign·z)) (k, n).

    The sign puts the videos on the tail towards 0, where float64 is precise.
    """
    z = (u - place[:, :1]) / np.exp(place[:, 1:])
    sign = np.where(place[:, :1] < 0, -1.0, 1.0)
    return z, sign, special.expit(sign * z)


def _search(videos: _Videos, centres: np.ndarray) -> tuple[np.ndarray, str]:
    """Returns (centre, log width) of the lowest minimum, and why it is not in the family, or ""."""
    u = videos.u
    grid = np.stack(np.meshgrid(centres, np.log(_WIDTHS)), axis=-1)
    _, _, s = _logistic(u, grid.reshape(-1, 2))
    rise = np.maximum(4 * (s * (1 - s)) @ videos.share, 1e-9)
    s -= (s @ videos.basis) @ videos.basis.T
    gain = (s @ videos.target) ** 2 / np.maximum(np.sum(s * s, axis=1), 1e-300)
    error = np.maximum(np.sum(videos.target**2) - gain, 1e-300)
    value = np.log(error) + videos.charge / rise**2
    best = np.argmin(value.reshape(grid.shape[:2]), axis=1)
    place = grid[np.arange(len(best)), best]

    state = [place, *_objective(videos, place)]
    radius, settled = np.ones(len(place)), np.zeros(len(place), bool)
    live = np.arange(len(place))
    for _ in range(60):
        place, value, gradient, hessian, error, _ = (part[live] for part in state)
        curvature, axes = np.linalg.eigh(hessian)
        along = np.einsum("kij,ki->kj", axes, gradient)
        size = np.maximum(np.abs(curvature), 1e-12)
        promise = np.sum(along**2 / size, axis=1) / 2
        # With a radius this small, rounding hides any further improvement.
        least = promise < np.where(radius[live] < 1e-6, 1e-6, 1e-11)
        done = (least & (curvature[:, 0] > 0)) | (error < 1e-18)
        settled[live] = done
        if done.all():
            break
        live, place, value = live[~done], place[~done], value[~done]
        step = np.einsum("kij,kj->ki", axes, -along / size)[~done]
        length = np.linalg.norm(step, axis=1)
        step *= np.minimum(1, radius[live] / length)[:, None]
        # Steps of the centre are in units of the width.
        place = place + step * np.exp(place[:, 1:] * [1, 0])
        tried = [place, *_objective(videos, place)]
        better = tried[1] < value
        for part, new in zip(state, tried, strict=True):
            part[live[better]] = new[better]
        length = np.minimum(length, radius[live])
        radius[live] = np.where(better, np.minimum(2 * radius[live], 2), length / 4)

    place, value, _, _, error, rise = state
    k = np.argmin(value)
    # Rounding may stop a growing width before it reaches ten ranges of the predictions.
    if place[k, 1] > np.log((10 if settled[k] else 2) * np.ptp(u)):
        return place[k], "the width diverges: the best curve is a polynomial"
    if rise[k] < 2 and error[k] > 1e-18:
        if u.min() < place[k, 0] < u.max():
            return place[k], "the width goes to 0: the best curve is a step"
        return place[k], "the centre diverges: the best curve is an exponential"
    return place[k], "" if settled[k] else "the search did not converge"


def _objective(videos: _Videos, place: np.ndarray) -> list[np.ndarray]:
    """Computes the objective that `fit_logistic` minimises, at k places.

    Returns:
        [value (k,), gradient (k, 2), Hessian (k, 2, 2), squared error (k,), r (k,)]. Derivatives
        are by the centre, in units of the width, and by the log width. The Hessian of the error
        term is that of the squared error, divided by the error, not that of its logarithm: both
        agree at a minimum, and this one is positive in a larger region around it.
    """
    u, target, basis, share, charge = videos
    z, sign, s = _logistic(u, place)
    s1 = s * (1 - s)
    s2 = sign * s1 * (1 - 2 * s)
    # Derivatives of the curve and of r: first by z, then by the place (two first, three second).
    first, second = np.stack([s1, s2]), np.stack([s2, s1 * (1 - 6 * s1)])
    mixed = z * second + first
    bends = np.stack([-first, -z * first, second, mixed, z * mixed])  # (5, 2, k, n)
    curve = np.concatenate([(sign * s)[None], bends[:2, 0]])
    curve -= (curve @ basis) @ basis.T
    rise, rises = np.maximum(4 * s1 @ share, 1e-9), 4 * bends[:, 1] @ share

    norm = np.maximum(np.einsum("kn,kn->k", curve[0], curve[0]), 1e-300)
    height = curve[0] @ target / norm
    left = target - height[:, None] * curve[0]
    error = np.maximum(np.einsum("kn,kn->k", left, left), 1e-300)
    slopes = np.einsum("ikn,kn->ik", bends[:, 0], left)
    products = np.einsum("ikn,jkn->ijk", curve, curve[1:])
    cross = height * products[0] - slopes[:2]  # half the error's derivative by height and place
    error1 = -2 * height / error * slopes[:2]
    error2 = height**2 * products[1:] - height * slopes[_TWICE] - cross[:, None] * cross / norm
    error2 = 2 / error * error2

    centre, log_width = place.T
    asinh, root = np.arcsinh(centre), np.hypot(1, centre)
    unit = np.exp(log_width) / root
    few, lean = charge / rise**2, rises[:2] / rise
    value = np.log(error) + 1e-5 * (asinh**2 + log_width**2) + few
    gradient = error1 + 2e-5 * np.stack([asinh * unit, log_width]) - 2 * few * lean
    hessian = error2 + 2 * few * (3 * lean[:, None] * lean - rises[_TWICE] / rise)
    hessian[0, 0] += 2e-5 * unit**2 * (1 - asinh * centre / root)
    hessian[1, 1] += 2e-5
    return [value, gradient.T, hessian.transpose(2, 0, 1), error, rise]


def paired(predictions: ArrayLike, mos: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Returns predictions and MOS as float64 vectors, (n,) each, after a check of both."""
    x, y = np.asarray(predictions, np.float64), np.asarray(mos, np.float64)
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(
            f"predictions {x.shape} and mos {y.shape} must be two lists of one length; "
            "give one of each for every video"
        )
    for name, values in (("predictions", x), ("mos", y)):
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            raise DagrError(
                f"{name}[{bad[0]}] is {values[bad[0]]} ({len(bad)} of {len(values)} are not "
                "finite); leave out what has no value"
            )
    return x, y


def _pearson(x: np.ndarray, y: np.ndarray) -> float:
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    x, y = x - x.mean(), y - y.mean()
    # Divide by the maximum first: squares of very small differences would underflow.
    x, y = x / np.abs(x).max(), y / np.abs(y).max()
    r = np.dot(x / np.linalg.norm(x), y / np.linalg.norm(y))
    return float(np.clip(r, -1.0, 1.0))
