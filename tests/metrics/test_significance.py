"""Significance tests, compared with scipy if it has them, else with the literature."""

import csv
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from dagr_jax.metrics import agreement, resampling, significance
from dagr_jax.metrics.significance import compare, meng, paired_t, steiger, verdict, wilcoxon

PREDICTIONS = Path(__file__).resolve().parents[3] / "shared" / "predictions"


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_paired_tests_are_scipys(rng):
    a, b = rng.normal(size=(2, 40))
    b += 0.3
    assert paired_t(a, b).p == stats.ttest_rel(a, b).pvalue
    assert paired_t(a, b).statistic == stats.ttest_rel(a, b).statistic
    assert wilcoxon(a, b).p == stats.wilcoxon(a, b).pvalue
    assert wilcoxon(a, b).statistic == stats.wilcoxon(a, b).statistic


def test_where_there_is_no_test():
    same = np.arange(5.0)
    assert math.isnan(paired_t(same, same).p) and math.isnan(paired_t(same, same + 1).p)
    assert math.isnan(wilcoxon(same, same).p)
    assert math.isnan(meng(0.5, 0.4, 0.3, 3).p) and math.isnan(meng(0.5, 0.5, 1.0, 50).p)
    assert math.isnan(steiger(1.0, 0.5, 0.5, 50).p) and math.isnan(meng(math.nan, 0, 0, 9).p)


def test_meng_of_its_paper():
    """Meng, Rosenthal & Rubin (1992), p. 173: r = .63 and -.03, r_x = -.19, n = 15 give 1.68."""
    found = meng(0.63, -0.03, -0.19, 15)
    assert found.statistic == pytest.approx(1.68, abs=0.005)
    assert found.p == pytest.approx(2 * stats.norm.sf(1.68), abs=2e-3)


@pytest.mark.parametrize("test", [meng, steiger])
def test_the_level_is_kept_where_nothing_differs(test, rng):
    """Among 2,000 pairs of equally good models, 5 % differ at level 5 %, within 4 std. errors."""
    n, hits = 100, 0
    for _ in range(2000):
        truth = rng.normal(size=n)
        common = rng.normal(size=n)
        a, b = (truth + common + rng.normal(size=n) for _ in range(2))
        r = agreement.plcc(a, truth), agreement.plcc(b, truth), agreement.plcc(a, b)
        hits += test(*r, n).p < 0.05
    assert abs(hits / 2000 - 0.05) < 4 * math.sqrt(0.05 * 0.95 / 2000)


def test_signs_follow_the_order(rng):
    truth = rng.normal(size=200)
    good, poor = truth + 0.3 * rng.normal(size=200), truth + 3 * rng.normal(size=200)
    one = compare(good, poor, truth, np.arange(200), n=200)
    other = compare(poor, good, truth, np.arange(200), n=200)
    assert one.difference == -other.difference > 0
    assert (one.low, one.high) == pytest.approx((-other.high, -other.low))
    for name in ("meng", "steiger", "meng_plcc", "steiger_plcc", "t_errors"):
        a, b = getattr(one, name), getattr(other, name)
        assert a.statistic == pytest.approx(-b.statistic) and a.p == pytest.approx(b.p)
    assert one.low > 0 and one.meng.p < 1e-6 and one.t_errors.statistic < 0
    assert verdict(one, ("good", "poor")).startswith("good ranks better than poor: SRCC differs by")
    assert verdict(other, ("poor", "good")).startswith("good ranks better than poor")


def test_a_constant_fools_the_papers_tests_and_no_other(rng):
    truth = rng.normal(size=100)
    a = truth + rng.normal(size=100)
    b = a + 1 + 1e-3 * rng.normal(size=100)
    found = compare(a, b, truth, np.arange(100), n=100)
    assert found.t.p < 1e-100 and found.signed_rank.p < 1e-15
    assert found.meng.p > 0.05 and found.t_errors.p > 1e-3
    assert verdict(found, ("a", "b")).startswith("No significant difference")


def test_a_resample_takes_the_same_videos_of_both(rng):
    """For the same model twice, the difference is 0 in every resample."""
    truth, a = rng.normal(size=(2, 30))
    found = compare(a, 2 * a + 1, truth, np.arange(30), n=50)
    assert (found.difference, found.low, found.high) == (0, 0, 0)
    assert verdict(found, ("a", "b")) == "a and b rank the 30 videos identically."


def clustered(rng, contents, versions):
    """Two equally good models, whose errors are partly the same for all versions of a content."""
    content = np.repeat(np.arange(contents), versions)
    truth = 0.5 * rng.normal(size=contents)[content] + rng.normal(size=len(content))
    models = [
        truth + rng.normal(size=contents)[content] + 0.4 * rng.normal(size=len(content))
        for _ in range(2)
    ]
    return *models, truth, content


def centred_ranks(values):
    ranks = stats.rankdata(values, axis=-1)
    ranks -= ranks.mean(axis=-1, keepdims=True)
    return ranks / np.linalg.norm(ranks, axis=-1, keepdims=True)


@pytest.mark.slow
@pytest.mark.parametrize("contents", [8, 24, 60])
def test_repeated_contents_do_not_make_a_difference(contents, rng):
    """Where nothing differs, an interval leaves out 0 in 5 %, and Meng's test errs in a fifth.

    Of 1,500 comparisons of contents in five versions; a share of 5 % has a standard error of 0.6 %.
    The bootstrap is that of `compare`, with all resamples in one array.
    """
    better, meng_says = 0, 0
    for number in range(1500):
        a, b, truth, labels = clustered(rng, contents, 5)
        rows = np.stack(list(resampling.resamples(labels, 300, seed=0)))
        ranks = [centred_ranks(values[rows]) for values in (a, b, truth)]
        low, high = resampling.interval(((ranks[0] - ranks[1]) * ranks[2]).sum(-1), labels)
        if number == 0:
            found = compare(a, b, truth, labels, n=300)
            assert (found.low, found.high) == pytest.approx((float(low), float(high)))
        better += low > 0 or high < 0
        r = agreement.srcc(a, truth), agreement.srcc(b, truth), agreement.srcc(a, b)
        meng_says += meng(*r, len(truth)).p < 0.05
    assert better / 1500 <= 0.07 and meng_says / 1500 > 0.15


def test_the_verdict_says_where_contents_repeat(rng):
    found = compare(*clustered(rng, 6, 2), n=100)
    assert found.repeats and (found.n, found.contents) == (12, 6)
    told = verdict(found, ("a", "b"))
    assert "on 12 videos of 6 contents" in told and "Meng" not in told
    assert "all videos show one content" in verdict(
        compare(*clustered(rng, 1, 8), n=10), ("a", "b")
    )
    alone = compare(*clustered(rng, 9, 1), n=100)
    assert not alone.repeats and "Meng's test p" in verdict(alone, ("a", "b"))


def test_a_perfect_model_is_not_tested():
    truth = np.arange(6.0)
    other = truth[[0, 1, 2, 3, 5, 4]]
    found = compare(truth, other, truth, np.arange(6), n=50)
    assert math.isnan(found.meng.p) and math.isnan(found.steiger.p)
    assert "no test is possible" in verdict(found, ("a", "b"))


@pytest.mark.skipif(not PREDICTIONS.exists(), reason="the real predictions are not there")
@pytest.mark.parametrize(("name", "srcc"), [("dover_live_vqc", 0.831), ("dover_cvd2014", 0.833)])
def test_real_predictions(name, srcc):
    with open(PREDICTIONS / f"{name}.csv") as file:
        rows = list(csv.DictReader(file))
    columns = ("dover_aesthetic", "dover_technical", "mos")
    aesthetic, technical, mos = (np.array([float(row[c]) for row in rows]) for c in columns)
    fusion = 0.428 * stats.zscore(aesthetic) + 0.572 * stats.zscore(technical)
    assert agreement.srcc(fusion, mos) == pytest.approx(srcc, abs=5e-4)
    found = compare(fusion, aesthetic, mos, np.arange(len(mos)), n=200)
    wanted = stats.spearmanr(fusion, mos)[0] - stats.spearmanr(aesthetic, mos)[0]
    assert found.difference == pytest.approx(wanted, abs=1e-12)
    assert found.meng.p < 1e-3 and found.low > 0
    assert significance.verdict(found, ("fusion", "aesthetic")).startswith("fusion ranks better")
    for values in (aesthetic, technical, fusion):
        assert all(agreement.fit_logistic(values, mos, count).converged for count in (4, 5))
