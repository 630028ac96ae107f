"""Significance tests: does one model predict quality better than another on the same videos?

The paper compares two models with a paired t-test and Wilcoxon's signed-rank test of their
predictions (Table 2). These tests check whether the predictions have the same mean or location, not
whether one model is better: adding a constant to all predictions of one model makes both tests as
significant as one likes. They are included only for comparison with the paper. These methods answer
the question: the same two tests applied to the absolute errors on the MOS scale; tests of two
dependent correlations; and a bootstrap of the difference of the correlations.

All tests but the bootstrap assume that the videos are independent. If several videos show the same
content, they are not, and these tests find differences where there are none: at a level of 5 %, in
a quarter of simulated comparisons of equally good models, with five videos a content. The verdict
then uses the bootstrap alone, which resamples contents.
"""

import dataclasses
import math
import warnings

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from dagr_jax.metrics import agreement, resampling


@dataclasses.dataclass(frozen=True)
class Test:
    """A two-sided test.

    Attributes:
        statistic: t, W or z; nan if the test is undefined.
        p: Probability, under the null hypothesis, of a statistic at least as far from 0; nan if the
            test is undefined.
    """

    __test__ = False  # pytest must not collect this class

    statistic: float
    p: float


_NONE = Test(math.nan, math.nan)


def paired_t(a: ArrayLike, b: ArrayLike) -> Test:
    """Student's paired t-test of the mean of a − b.

    Args:
        a: (n,) values.
        b: (n,) values of the same videos.

    Returns:
        The test with t; undefined if a − b is constant or n < 2.
    """
    difference = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    if len(difference) < 2 or np.ptp(difference) == 0:
        return _NONE
    found = stats.ttest_rel(a, b)
    return Test(float(found.statistic), float(found.pvalue))


def wilcoxon(a: ArrayLike, b: ArrayLike) -> Test:
    """Wilcoxon's signed-rank test of the symmetry of a − b around 0. Zero differences are dropped.

    Args:
        a: (n,) values.
        b: (n,) values of the same videos.

    Returns:
        The test with W; undefined if all differences are 0.
    """
    difference = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    if not difference.any():
        return _NONE
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # few differences: not normal
        found = stats.wilcoxon(difference)
    return Test(float(found.statistic), float(found.pvalue))


def meng(r_a: float, r_b: float, r_ab: float, n: int) -> Test:
    """Test of two correlations that share one variable (Meng, Rosenthal & Rubin 1992, eq. 1–3).

    Args:
        r_a: Correlation of the predictions of model A with MOS.
        r_b: Correlation of the predictions of model B with MOS.
        r_ab: Correlation of the two models' predictions with each other.
        n: Number of videos, more than 3.

    Returns:
        The test with z; undefined if n ≤ 3, or if a correlation is perfect or not finite.
    """
    if _untested(r_a, r_b, r_ab, n):
        return _NONE
    mean = (r_a**2 + r_b**2) / 2
    f = min((1 - r_ab) / (2 * (1 - mean)), 1.0)
    h = (1 - f * mean) / (1 - mean)
    z = (math.atanh(r_a) - math.atanh(r_b)) * math.sqrt((n - 3) / (2 * (1 - r_ab) * h))
    return Test(z, float(2 * stats.norm.sf(abs(z))))


def steiger(r_a: float, r_b: float, r_ab: float, n: int) -> Test:
    """Test of two correlations that share one variable (Steiger 1980, eq. 3, 10 and 14).

    Args:
        r_a: Correlation of the predictions of model A with MOS.
        r_b: Correlation of the predictions of model B with MOS.
        r_ab: Correlation of the two models' predictions with each other.
        n: Number of videos, more than 3.

    Returns:
        The test with z; undefined if n ≤ 3, or if a correlation is perfect or not finite.
    """
    if _untested(r_a, r_b, r_ab, n):
        return _NONE
    mean = (r_a + r_b) / 2
    psi = r_ab * (1 - 2 * mean**2) - mean**2 * (1 - 2 * mean**2 - r_ab**2) / 2
    covariance = psi / (1 - mean**2) ** 2
    z = (math.atanh(r_a) - math.atanh(r_b)) * math.sqrt((n - 3) / (2 - 2 * covariance))
    return Test(z, float(2 * stats.norm.sf(abs(z))))


def _untested(r_a: float, r_b: float, r_ab: float, n: int) -> bool:
    """Returns whether the tests of correlations are undefined.

    They are with too few videos, and with a correlation that is perfect (up to rounding) or not
    finite.
    """
    known = all(map(math.isfinite, (r_a, r_b, r_ab)))
    return n <= 3 or not known or max(abs(r_a), abs(r_b), r_ab) > 1 - 1e-9


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Comparison of model A with model B on n videos.

    Attributes:
        n: Number of videos.
        contents: Number of contents; fewer than videos if contents repeat.
        srcc: (SRCC of A, SRCC of B).
        plcc: (PLCC of A, PLCC of B).
        difference: SRCC of A minus SRCC of B.
        low: Lower end of the bootstrap interval of `difference`, resampled by content.
        high: Upper end of that interval.
        level: Coverage of that interval.
        t: Paired t-test of the predictions, as in the paper.
        signed_rank: Wilcoxon's signed-rank test of the predictions, as in the paper.
        t_errors: Paired t-test of the absolute errors, after a logistic fit of each model to MOS.
        signed_rank_errors: Wilcoxon's signed-rank test of the same absolute errors.
        meng: Meng's test of the two SRCC.
        steiger: Steiger's test of the two SRCC.
        meng_plcc: Meng's test of the two PLCC.
        steiger_plcc: Steiger's test of the two PLCC.
    """

    n: int
    contents: int
    srcc: tuple[float, float]
    plcc: tuple[float, float]
    difference: float
    low: float
    high: float
    level: float
    t: Test
    signed_rank: Test
    t_errors: Test
    signed_rank_errors: Test
    meng: Test
    steiger: Test
    meng_plcc: Test
    steiger_plcc: Test

    @property
    def repeats(self) -> bool:
        """Whether several videos show the same content, so that only the bootstrap is valid."""
        return self.contents < self.n


def compare(
    a: ArrayLike,
    b: ArrayLike,
    mos: ArrayLike,
    contents: ArrayLike,
    *,
    n: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Comparison:
    """Compares two models by their predictions for the same videos.

    Args:
        a: (n_videos,) predictions of model A.
        b: (n_videos,) predictions of model B.
        mos: (n_videos,) MOS.
        contents: (n_videos,) content labels, equal for the videos of one content.
        n: Number of bootstrap resamples, at least 1.
        seed: Seed of the bootstrap.
        level: Coverage of the bootstrap interval, in (0, 1).

    Returns:
        The comparison.

    Raises:
        ValueError: The lengths differ, values are not finite, or `n` or `level` is out of range.
    """
    x, y, z = (np.asarray(values, np.float64) for values in (a, b, mos))
    ranks = agreement.srcc(x, z), agreement.srcc(y, z), agreement.srcc(x, y)
    linear = agreement.plcc(x, z), agreement.plcc(y, z), agreement.plcc(x, y)
    # The bootstrap draws row numbers, so that a resample takes the same videos of both models.
    order = np.arange(len(z))
    low, high = resampling.bootstrap(
        lambda rows, truth: _difference(x, y, rows.astype(int), truth),
        order,
        z,
        np.asarray(contents),
        n=n,
        seed=seed,
        level=level,
    )
    errors = [np.abs(agreement.fit_logistic(values, z).fitted - z) for values in (x, y)]
    return Comparison(
        n=len(z),
        contents=len(np.unique(np.asarray(contents))),
        srcc=ranks[:2],
        plcc=linear[:2],
        difference=ranks[0] - ranks[1],
        low=float(low),
        high=float(high),
        level=level,
        t=paired_t(x, y),
        signed_rank=wilcoxon(x, y),
        t_errors=paired_t(*errors),
        signed_rank_errors=wilcoxon(*errors),
        meng=meng(*ranks, len(z)),
        steiger=steiger(*ranks, len(z)),
        meng_plcc=meng(*linear, len(z)),
        steiger_plcc=steiger(*linear, len(z)),
    )


def _difference(x: np.ndarray, y: np.ndarray, rows: np.ndarray, mos: np.ndarray) -> float:
    return agreement.srcc(x[rows], mos) - agreement.srcc(y[rows], mos)


def verdict(found: Comparison, names: tuple[str, str]) -> str:
    """States the result of a comparison in one sentence.

    The sentence says "better" only if the interval of the SRCC difference excludes 0 and, if no
    content repeats, Meng's test is significant at the same level. If contents repeat, Meng's test
    does not count (see the module).

    Args:
        found: Comparison of two models.
        names: Names of models A and B.

    Returns:
        The sentence.
    """
    alpha = 1 - found.level
    a, b = names if found.difference >= 0 else names[::-1]
    low, high = sorted((abs(found.low), abs(found.high)))
    told = f"SRCC differs by {abs(found.difference):.3f} on {found.n} videos"
    if found.repeats:
        told += f" of {found.contents} contents"
    if math.isnan(found.difference):
        return f"{names[0]} and {names[1]} cannot be compared: a correlation is undefined."
    if found.difference == 0 == found.low == found.high:
        return f"{names[0]} and {names[1]} rank the {found.n} videos identically."
    if math.isnan(found.low):
        return f"{told}, but no test is possible: all videos show one content."
    if math.isnan(found.meng.p) and not found.repeats:
        return f"{told}, but no test is possible: a correlation is perfect, or n is too small."
    apart = found.low > 0 or found.high < 0
    meng = "" if found.repeats else f"; Meng's test p = {found.meng.p:.2g}"
    if apart and (found.repeats or found.meng.p < alpha):
        return (
            f"{a} ranks better than {b}: {told} ({found.level:.0%} interval {low:.3f} to "
            f"{high:.3f}{meng})."
        )
    return (
        f"No significant difference between {a} and {b}: {told} ({found.level:.0%} interval "
        f"{found.low:+.3f} to {found.high:+.3f} for {names[0]} minus {names[1]}{meng})."
    )
