"""The logistic fit that maps predictions onto the MOS scale."""

import csv
from pathlib import Path

import numpy as np
import pytest

from dagr_jax.metrics import bootstrap, fit_logistic, plcc, rmse

SHARED = Path(__file__).resolve().parents[2] / "shared"


def four(x, b1, b2, b3, b4):
    return b2 + (b1 - b2) / (1 + np.exp(-(x - b3) / b4))


def five(x, b1, b2, b3, b4, b5):
    return b1 * (0.5 - 1 / (1 + np.exp(b2 * (x - b3)))) + b4 * x + b5


def test_four_parameters_are_recovered_from_points_on_the_curve():
    x = np.linspace(-2, 3, 60)
    true = (4.5, 1.2, 0.7, 0.6)
    fit = fit_logistic(x, four(x, *true))
    assert fit.converged and fit.reason == ""
    # The simplex stops at 1e-5 of a half range.
    np.testing.assert_allclose(fit.parameters, true, rtol=1e-4)
    assert fit.scores(four(x, *true)) == (pytest.approx(1, abs=1e-9), pytest.approx(0, abs=1e-4))


def test_five_parameters_are_recovered_from_points_on_the_curve():
    x = np.linspace(10, 90, 80)
    true = (30.0, 0.15, 40.0, 0.2, 25.0)
    fit = fit_logistic(x, five(x, *true), 5)
    assert fit.converged
    np.testing.assert_allclose(fit.parameters, true, rtol=1e-3)


@pytest.mark.parametrize("parameters", [4, 5])
def test_the_curve_is_the_one_that_the_parameters_say(parameters):
    rng = np.random.default_rng(0)
    x = rng.normal(50, 10, 200)
    y = four(x, 1, 5, 48, 4) + rng.normal(0, 0.3, 200)  # falls with x
    fit = fit_logistic(x, y, parameters)
    curve = (four if parameters == 4 else five)(x, *fit.parameters)
    np.testing.assert_allclose(fit.fitted, curve, atol=1e-9)
    correlation, error = fit.scores(y)
    assert correlation == plcc(fit.fitted, y) > -plcc(x, y)
    assert error == rmse(fit.fitted, y) == pytest.approx(0.3, abs=0.04)  # the noise, of 200 videos


def synthetic(seed):
    """MOS behind a logistic: any scale, either direction, noise, an outlier, few or many videos."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 9) if seed % 4 == 0 else rng.integers(9, 300))
    quality = rng.standard_normal(n)
    mos = four(quality * rng.uniform(0.3, 3), 5, 1, rng.uniform(-2, 2), 1)
    mos += rng.normal(0, rng.uniform(0, 0.5), n)
    predictions = quality * 10 ** rng.uniform(-3, 3) * rng.choice([-1, 1]) + rng.uniform(-5, 5)
    if seed % 3 == 0:
        predictions[rng.integers(n)] *= 50
    return predictions, mos


@pytest.mark.parametrize("parameters", [4, 5])
def test_a_hundred_sets_converge_or_say_why_and_never_lose_correlation(parameters):
    for seed in range(100):
        x, y = synthetic(seed)
        fit = fit_logistic(x, y, parameters)
        assert fit.converged == (fit.reason == "") == (len(fit.parameters) == parameters)
        if len(x) <= parameters:
            assert fit.reason == f"{len(x)} videos do not determine {parameters} parameters"
        elif len(x) > 2 * parameters:  # with fewer the best curve may not be one point
            assert fit.converged, (seed, fit.reason)
        # Rounding of the least squares alone.
        assert fit.scores(y)[0] >= abs(plcc(x, y)) - 1e-12
        assert fit.scores(y)[1] <= np.std(y) + 1e-12


@pytest.mark.parametrize("parameters", [4, 5])
def test_scales_of_either_side_change_nothing(parameters):
    x, y = synthetic(5)
    here = fit_logistic(x, y, parameters).scores(y)
    there = fit_logistic(-1000 * x + 7, 20 * y - 3, parameters).scores(20 * y - 3)
    # A mirrored simplex ends in another corner of the same minimum.
    assert there == (pytest.approx(here[0], abs=1e-7), pytest.approx(20 * here[1], rel=1e-6))


def test_a_straight_line_is_said_to_determine_no_curve():
    x = np.linspace(0, 1, 50)
    fit = fit_logistic(x, 3 - 2 * x)
    assert not fit.converged and "straight line" in fit.reason
    np.testing.assert_allclose(fit.fitted, 3 - 2 * x, atol=1e-12)


def test_what_cannot_be_fitted_is_nan():
    for x, y in (([1, 1, 1], [1, 2, 3]), ([1, 2, 3], [2, 2, 2]), ([1], [2]), ([], [])):
        fit = fit_logistic(x, y)
        assert not fit.converged and "constant" in fit.reason
        assert np.isnan(fit.fitted).all() and len(fit.fitted) == len(x)
        assert np.isnan(fit.scores(y)).all()


def test_bad_input():
    with pytest.raises(ValueError, match="parameters=3: the logistic has 4 or 5"):
        fit_logistic([1, 2], [1, 2], 3)
    with pytest.raises(ValueError, match=r"predictions\[0\] is nan"):
        fit_logistic([np.nan, 2], [1, 2])


def test_several_metrics_share_the_draws_of_one_bootstrap():
    x, y = synthetic(7)
    contents = np.arange(len(x)) // 3

    def both(a, b):
        return plcc(a, b), fit_logistic(a, b).scores(b)[0]

    low, high = bootstrap(both, x, y, contents, n=40, seed=3)
    alone = bootstrap(plcc, x, y, contents, n=40, seed=3)
    assert (low[0], high[0]) == alone
    assert low.shape == (2,) and abs(low[0]) < low[1] < high[1] <= 1


@pytest.mark.parametrize("parameters", [4, 5])
@pytest.mark.parametrize("name", ["dover_cvd2014", "dover_live_vqc"])
def test_real_predictions(name, parameters):
    path = SHARED / "predictions" / f"{name}.csv"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    with open(path, newline="") as stream:
        rows = list(csv.DictReader(stream))
    mos = np.array([float(row["mos"]) for row in rows])
    for branch in ("dover_aesthetic", "dover_technical"):
        x = np.array([float(row[branch]) for row in rows])
        fit = fit_logistic(x, mos, parameters)
        assert fit.converged
        assert fit.scores(mos)[0] > plcc(x, mos)
