import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from dagr_jax.metrics.agreement import krcc, plcc, rmse, srcc
from dagr_jax.metrics.resampling import bootstrap, interval

SHARED = Path(__file__).resolve().parents[3] / "shared"
CORRELATIONS = [srcc, krcc, plcc]


def sample(n, seed, ties):
    rng = np.random.default_rng(seed)
    mos = rng.uniform(1, 5, n)
    predictions = 0.3 * mos + rng.standard_normal(n)
    if ties:
        mos, predictions = np.round(mos), np.round(predictions, 1)
    return predictions, mos


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("n", [5, 60, 500])
def test_against_scipy(n, ties):
    x, y = sample(n, n, ties)
    # Different orders of summation in float64.
    assert srcc(x, y) == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-10)
    assert krcc(x, y) == pytest.approx(stats.kendalltau(x, y).statistic, abs=1e-10)
    assert plcc(x, y) == pytest.approx(stats.pearsonr(x, y).statistic, abs=1e-10)
    assert rmse(x, y) == pytest.approx(float(np.sqrt(((x - y) ** 2).mean())), abs=1e-10)


def test_known_values():
    x, y = [1, 2, 3, 4, 5], [2, 1, 4, 3, 5]
    assert srcc(x, y) == pytest.approx(0.8)  # 1 - 6 * 4 / (5 * 24)
    assert krcc(x, y) == pytest.approx(0.6)  # 8 pairs agree, 2 do not, of 10
    assert plcc(x, y) == pytest.approx(0.8)  # x and y are their own ranks
    assert rmse(x, y) == pytest.approx(np.sqrt(0.8))
    # Ties, tau-b: 5 concordant, 0 discordant, one of 6 pairs tied in x: 5 / sqrt(5 * 6).
    assert krcc([1, 1, 2, 3], [1, 2, 3, 4]) == pytest.approx(5 / np.sqrt(30))


@given(
    st.lists(st.integers(-1000, 1000), min_size=3, max_size=30, unique=True),
    st.floats(0.01, 100),
    st.floats(-100, 100),
)
def test_what_leaves_a_correlation_unchanged(values, scale, shift):
    x = np.array(values, float)
    assert srcc(np.exp(x / 1000), x) == pytest.approx(1)
    assert krcc(-(x**3), x) == pytest.approx(-1)
    # The shift may be 1e4 times the scale of x, which loses precision.
    assert plcc(scale * x + shift, x) == pytest.approx(1, abs=1e-8)
    assert rmse(x + shift, x) == pytest.approx(abs(shift), abs=1e-9)


def test_small_and_large_scales():
    x, y = sample(50, 3, False)
    assert plcc(1e-200 * x, 1e-200 * y) == pytest.approx(plcc(x, y), abs=1e-10)
    assert plcc(1e150 * x, y) == pytest.approx(plcc(x, y), abs=1e-10)


@pytest.mark.parametrize("metric", CORRELATIONS)
def test_what_has_no_value_is_nan(metric):
    assert np.isnan(metric([1, 1, 1], [1, 2, 3]))
    assert np.isnan(metric([1, 2, 3], [0.1, 0.1, 0.1]))
    assert np.isnan(metric([1], [1]))
    assert np.isnan(metric([], []))


def test_rmse_of_little():
    assert rmse([3, 3], [1, 1]) == 2.0
    assert rmse([3], [1]) == 2.0
    assert np.isnan(rmse([], []))


@pytest.mark.parametrize("metric", [*CORRELATIONS, rmse])
def test_bad_input(metric):
    with pytest.raises(ValueError, match=r"predictions\[1\] is nan \(1 of 3 are not finite\)"):
        metric([1, np.nan, 3], [1, 2, 3])
    with pytest.raises(ValueError, match=r"mos\[2\] is inf"):
        metric([1, 2, 3], [1, 2, np.inf])
    with pytest.raises(ValueError, match="two lists of one length"):
        metric([1, 2], [1, 2, 3])
    with pytest.raises(ValueError, match="two lists of one length"):
        metric([[1, 2]], [[1, 2]])


def test_bootstrap_draws_contents_not_videos():
    # With two contents, two of the four equally likely draws have one content twice. The metric
    # shows which videos were drawn, so that every value is known.
    contents = ["a", "a", "a", "b"]
    seen = []

    def metric(x, _):
        seen.append(sorted(x.tolist()))
        return float(x.mean())

    low, high = bootstrap(metric, [1, 2, 3, 10], [0, 0, 0, 0], contents, n=400, seed=0)
    draws = {tuple(row) for row in seen}
    assert draws == {(1, 1, 2, 2, 3, 3), (1, 2, 3, 10), (10, 10)}
    share = sum(row == [1, 2, 3, 10] for row in seen) / 400
    assert share == pytest.approx(0.5, abs=0.1)  # four standard errors of 1/2 in 400
    assert (low, high) == (2.0, 10.0)


def test_bootstrap_covers_and_repeats():
    rng = np.random.default_rng(5)
    x = rng.standard_normal(200)
    y = x + rng.standard_normal(200)
    contents = np.arange(200)
    low, high = bootstrap(plcc, x, y, contents, n=500, seed=1)
    assert (low, high) == bootstrap(plcc, x, y, contents, n=500, seed=1)
    assert (low, high) != bootstrap(plcc, x, y, contents, n=500, seed=2)
    # Fisher's interval for the same correlation; the noise of the bootstrap is about 0.01.
    z, half = np.arctanh(plcc(x, y)), 1.96 / np.sqrt(197)
    assert low == pytest.approx(np.tanh(z - half), abs=0.03)
    assert high == pytest.approx(np.tanh(z + half), abs=0.03)
    inner = bootstrap(plcc, x, y, contents, n=500, seed=1, level=0.5)
    assert low < inner[0] < plcc(x, y) < inner[1] < high


def test_bootstrap_is_wider_when_contents_are_shared():
    rng = np.random.default_rng(6)
    x = np.repeat(rng.standard_normal(20), 10) + 0.1 * rng.standard_normal(200)
    y = np.repeat(rng.standard_normal(20), 10) + 0.1 * rng.standard_normal(200)
    apart = bootstrap(srcc, x, y, np.arange(200), n=300, seed=0)
    together = bootstrap(srcc, x, y, np.repeat(np.arange(20), 10), n=300, seed=0)
    assert together[1] - together[0] > 2 * (apart[1] - apart[0])


def test_bootstrap_without_a_value():
    assert np.isnan(bootstrap(srcc, [1, 2, 3], [1, 2, 3], ["a"] * 3)).all()
    assert np.isnan(bootstrap(srcc, [1, 1, 1], [1, 2, 3], ["a", "b", "c"], n=10)).all()
    # A draw of only one content has two videos with equal MOS: nan, left out.
    low, high = bootstrap(plcc, [1, 1, 2, 2], [1, 1, 2, 2], ["a", "a", "b", "b"], n=50)
    assert (low, high) == (pytest.approx(1), pytest.approx(1))


@pytest.mark.parametrize("count", [6, 12, 200])
def test_intervals_of_few_contents_cover_as_often_as_they_say(count):
    """95 % intervals of the mean of normal values; the plain percentiles cover 86 % for six."""
    rng, hits = np.random.default_rng(5), 0
    for _ in range(1000):
        x = rng.normal(size=count)
        weights = rng.multinomial(count, np.full(count, 1 / count), size=300)
        low, high = interval(weights @ x / count, np.arange(count))
        hits += low <= 0 <= high
    assert hits / 1000 == pytest.approx(0.95, abs=0.04)


def test_bootstrap_bad_input():
    with pytest.raises(ValueError, match="give one label for each of 3"):
        bootstrap(srcc, [1, 2, 3], [1, 2, 3], ["a", "b"])
    with pytest.raises(ValueError, match="n=0: a bootstrap needs at least 1"):
        bootstrap(srcc, [1, 2], [1, 2], ["a", "b"], n=0)
    with pytest.raises(ValueError, match="coverage of an interval is between 0 and 1"):
        bootstrap(srcc, [1, 2], [1, 2], ["a", "b"], level=95)


def test_published_value_of_real_predictions():
    path = SHARED / "predictions" / "dover_live_vqc.csv"
    if not path.exists():
        pytest.skip("needs DOVER's predictions on LIVE-VQC")
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    mos, aesthetic, technical = (
        np.array([float(row[key]) for row in rows])
        for key in ("mos", "dover_aesthetic", "dover_technical")
    )
    fused = 0.428 * stats.zscore(aesthetic) + 0.572 * stats.zscore(technical)
    assert srcc(fused, mos) == pytest.approx(0.831, abs=5e-4)  # published to three digits
