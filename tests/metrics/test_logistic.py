"""The logistic fit that maps predictions onto the MOS scale."""

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import optimize, special, stats

from dagr_jax.metrics.agreement import fit_logistic, plcc, rmse
from dagr_jax.metrics.resampling import bootstrap

SHARED = Path(__file__).resolve().parents[3] / "shared"
seeds = st.integers(0, 2**32 - 1)
both = pytest.mark.parametrize("parameters", [4, 5])


def four(x, b1, b2, b3, b4):
    return b2 + (b1 - b2) * special.expit((x - b3) / b4)


def five(x, b1, b2, b3, b4, b5):
    return b1 * (0.5 - special.expit(-b2 * (x - b3))) + b4 * x + b5


CURVES = {4: four, 5: five}


def test_four_parameters_are_recovered_from_points_on_the_curve():
    x = np.linspace(-2, 3, 60)
    true = (4.5, 1.2, 0.7, 0.6)
    fit = fit_logistic(x, four(x, *true))
    assert fit.converged and fit.reason == ""
    # The search stops where the squared error is 1e-18 of the variance.
    np.testing.assert_allclose(fit.parameters, true, rtol=1e-7)
    assert fit.scores(four(x, *true)) == (pytest.approx(1, abs=1e-9), pytest.approx(0, abs=1e-7))


def test_five_parameters_are_recovered_from_points_on_the_curve():
    x = np.linspace(10, 90, 80)
    true = (30.0, 0.15, 40.0, 0.2, 25.0)
    fit = fit_logistic(x, five(x, *true), 5)
    assert fit.converged
    np.testing.assert_allclose(fit.parameters, true, rtol=1e-6)


@both
def test_the_curve_is_the_one_that_the_parameters_say(parameters):
    rng = np.random.default_rng(0)
    x = rng.normal(50, 10, 200)
    y = four(x, 1, 5, 48, 4) + rng.normal(0, 0.3, 200)  # falls with x
    fit = fit_logistic(x, y, parameters)
    np.testing.assert_allclose(fit.fitted, CURVES[parameters](x, *fit.parameters), atol=1e-9)
    correlation, error = fit.scores(y)
    assert correlation == plcc(fit.fitted, y) > -plcc(x, y)
    assert error == rmse(fit.fitted, y) == pytest.approx(0.3, abs=0.04)  # noise of 200 videos


@both
def test_the_squared_error_is_the_least_where_the_data_determines_a_curve(parameters):
    for seed in range(10):
        rng = np.random.default_rng(seed)
        x = rng.normal(0, 1, 300)
        y = four(x, 5, 1, 0.3, 0.5) + rng.normal(0, 0.2, 300)
        fit = fit_logistic(x, y, parameters)
        least = optimize.least_squares(
            lambda b, x=x, y=y: CURVES[parameters](x, *b) - y, fit.parameters, x_scale="jac"
        )
        # The two terms besides the error are flat to 1e-3 here: second order in the error.
        assert np.sum((fit.fitted - y) ** 2) <= 2 * least.cost * (1 + 1e-5)


def synthetic(seed):
    """MOS from a logistic: any scale and direction, noise, an outlier, few or many videos."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 9) if seed % 4 == 0 else rng.integers(9, 300))
    quality = rng.standard_normal(n)
    mos = four(quality * rng.uniform(0.3, 3), 5, 1, rng.uniform(-2, 2), 1)
    mos += rng.normal(0, rng.uniform(0, 0.5), n)
    predictions = quality * 10 ** rng.uniform(-3, 3) * rng.choice([-1, 1]) + rng.uniform(-5, 5)
    if seed % 3 == 0:
        predictions[rng.integers(n)] *= 50
    return predictions, mos


@both
def test_a_hundred_sets_converge_or_say_why_and_never_lose_correlation(parameters):
    for seed in range(100):
        x, y = synthetic(seed)
        fit = fit_logistic(x, y, parameters)
        assert fit.converged == (fit.reason == "") == (len(fit.parameters) == parameters)
        if len(x) <= parameters:
            assert "distinct predictions do not determine" in fit.reason
        elif len(x) > 8:  # with fewer videos the best curve is often a step
            assert fit.converged, (seed, fit.reason)
        # Only rounding of the least squares.
        assert fit.scores(y)[0] >= abs(plcc(x, y)) - 1e-12
        assert fit.scores(y)[1] <= np.std(y) + 1e-12


@both
@given(seed=seeds, exponents=st.lists(st.floats(0.5, 12), min_size=1, max_size=5), up=st.booleans())
@example(seed=0, exponents=[4.0], up=True)
@settings(max_examples=60, deadline=None)
def test_far_predictions_do_not_move_the_curve(parameters, seed, exponents, up):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(300)
    far = (1 if up else -1) * 10.0 ** np.array(exponents)
    x = np.concatenate([x, far])
    curve = four(x, 5, 1, 0.3, 0.6)
    y = curve + rng.normal(0, 0.06, len(x))
    fit = fit_logistic(x, y, parameters)
    assert fit.converged
    # Least squares follow the curve to within its error: 0.06 · √(5 / 300) = 0.008.
    assert np.std(fit.fitted[:300] - curve[:300]) < 0.02
    assert fit.scores(y)[0] >= plcc(curve, y) - 1e-6


@both
@given(seed=seeds, slope=st.floats(0.01, 100), shift=st.floats(-100, 100), mirrored=st.booleans())
@settings(max_examples=60, deadline=None)
def test_scales_of_either_side_change_nothing(parameters, seed, slope, shift, mirrored):
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 1, 80)
    y = four(x, 5, 1, 0.3, 0.5) + rng.normal(0, 0.3, 80)
    a = -slope if mirrored else slope
    here, there = (
        fit_logistic(x, y, parameters),
        fit_logistic(a * x + shift, 20 * y - 3, parameters),
    )
    assert here.converged == there.converged and here.reason == there.reason
    # A shift of 1e4 standard deviations loses four digits of the predictions.
    np.testing.assert_allclose(there.fitted, 20 * here.fitted - 3, atol=1e-5)
    if here.converged and parameters == 4:
        low, high, centre, width = here.parameters
        ends = (high, low) if mirrored else (low, high)
        expected = (20 * ends[0] - 3, 20 * ends[1] - 3, a * centre + shift, slope * width)
        np.testing.assert_allclose(there.parameters, expected, rtol=1e-3, atol=1e-3)


@both
@given(
    st.lists(st.tuples(st.integers(-9, 9), st.integers(0, 5)), min_size=2, max_size=40),
    st.sampled_from([1e-200, 1e-3, 1.0, 1e6]),
)
@example([(1, 1), (2, 2), (3, 2), (4, 1)], 1.0)
@settings(max_examples=200, deadline=None)
def test_the_correlation_is_never_below_that_of_the_predictions(parameters, pairs, unit):
    x, y = unit * np.array(pairs, float).T
    fit = fit_logistic(x, y, parameters)
    again = fit_logistic(x, y, parameters)
    np.testing.assert_array_equal(fit.fitted, again.fitted)
    assert fit.parameters == again.parameters
    before, after = plcc(x, y), fit.scores(y)[0]
    if np.isnan(before):
        assert np.isnan(after)
    else:
        assert after >= abs(before) - 1e-12
    if fit.converged:
        assert len(np.unique(x)) > parameters


def test_low_correlation_is_no_reason_to_give_up():
    # A simplex search from one start did not converge here and returned the line, with 0.007.
    rng = np.random.default_rng(1454)
    n = int(rng.integers(9, 60))
    x, y = rng.normal(size=n), rng.normal(size=n)
    fit = fit_logistic(x, y)
    assert fit.converged and plcc(x, y) < 0.01 and fit.scores(y)[0] > 0.42


T = np.linspace(0, 1, 100)


@both
@pytest.mark.parametrize(
    "y,reason",
    [
        (3 - 2 * T, "a straight line fits as well"),
        (np.exp(3 * T), "the centre diverges: the best curve is an exponential"),
        (5 - np.exp(-3 * T), "the centre diverges: the best curve is an exponential"),
        (1.0 * (T > 0.5), "the width goes to 0: the best curve is a step"),
        (2.0 - (T > 0.2), "the width goes to 0: the best curve is a step"),
    ],
)
def test_a_limit_of_the_curve_is_named_and_fitted(parameters, y, reason):
    fit = fit_logistic(T, y, parameters)
    assert not fit.converged and fit.parameters == () and fit.reason.startswith(reason)
    # The search stops on its way to the limit, but not far from it.
    assert fit.scores(y)[0] > 0.9995
    if "line" in reason:
        np.testing.assert_allclose(fit.fitted, y, atol=1e-12)


@pytest.mark.parametrize("y", [(T - 0.4) ** 2, (T - 0.4) ** 3 - 0.1 * T])
def test_a_polynomial_is_named_a_limit_of_five_parameters(y):
    fit = fit_logistic(T, y, 5)
    assert not fit.converged and fit.reason == "the width diverges: the best curve is a polynomial"
    assert fit.scores(y)[0] > 0.9999


def test_a_noisy_exponential_is_met_by_a_curve_with_a_centre():
    y = np.exp(3 * T) + np.random.default_rng(0).normal(0, 1, 100)
    limit = min(
        np.linalg.lstsq(np.stack([np.exp(k * T), np.ones(100)], 1), y, rcond=None)[1][0]
        for k in np.linspace(1, 6, 200)
    )
    fit = fit_logistic(T, y)
    assert fit.converged and fit.parameters[2] < 3  # within two ranges beyond the predictions
    assert np.sum((fit.fitted - y) ** 2) < 1.01 * limit


def test_the_noise_of_two_neighbours_makes_no_step():
    rng = np.random.default_rng(0)
    x = np.linspace(-3, 3, 200)
    y = four(x, 5, 1, 0, 1) + rng.normal(0, 0.5, 200)
    fit = fit_logistic(x, y, 5)
    rise = special.expit((x - fit.parameters[2]) * fit.parameters[1])
    assert fit.converged and np.sum(4 * rise * (1 - rise)) > 10


@both
def test_distinct_predictions_are_counted_not_videos(parameters):
    rng = np.random.default_rng(0)
    x = np.repeat([1.0, 2.0, 3.0], 30)
    y = np.repeat([1.0, 3.0, 4.0], 30) + rng.standard_normal(90)
    fit = fit_logistic(x, y, parameters)
    assert fit.reason == f"3 distinct predictions do not determine {parameters} parameters"
    assert not fit.converged and fit.scores(y)[0] == pytest.approx(plcc(x, y), abs=1e-12)
    more = np.arange(parameters + 1.0)  # one more than parameters is enough
    x = np.repeat(more, 30)
    y = four(x, 5, 1, 2, 1) + 0.01 * rng.standard_normal(len(x))
    assert fit_logistic(x, y, parameters).converged


def test_half_of_the_predictions_may_be_equal():
    rng = np.random.default_rng(0)
    x = np.concatenate([np.zeros(120), rng.normal(0, 1, 80)])
    y = four(x, 5, 1, 0.3, 0.5) + rng.normal(0, 0.1, 200)
    fit = fit_logistic(x, y)
    assert fit.converged
    np.testing.assert_allclose(fit.parameters, (5, 1, 0.3, 0.5), atol=0.15)


def test_a_level_line_has_correlation_zero():
    fit = fit_logistic([1, 2, 3, 4], [1, 2, 2, 1])
    assert not fit.converged
    np.testing.assert_array_equal(fit.fitted, 1.5)
    assert fit.scores([1, 2, 2, 1]) == (0.0, 0.5)
    assert np.isnan(fit.scores([2, 2, 2, 2])[0])


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


# Measured PLCC after the fit with four and with five parameters. Least squares without the other
# two terms give at most 5e-4 more (0.8162 for a step instead of 0.8157).
REAL = {
    ("dover_cvd2014", "aesthetic"): (0.80008, 0.81574),
    ("dover_cvd2014", "technical"): (0.82770, 0.83882),
    ("dover_cvd2014", "fused"): (0.83921, 0.84397),
    ("dover_live_vqc", "aesthetic"): (0.82876, 0.82966),
    ("dover_live_vqc", "technical"): (0.84351, 0.84383),
    ("dover_live_vqc", "fused"): (0.85466, 0.85489),
}


@both
@pytest.mark.parametrize("name,branch", REAL)
def test_real_predictions(name, branch, parameters):
    path = SHARED / "predictions" / f"{name}.csv"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    with open(path, newline="") as stream:
        rows = list(csv.DictReader(stream))
    table = {key: np.array([float(row[key]) for row in rows]) for key in rows[0] if key != "video"}
    mos, aesthetic, technical = (table[k] for k in ("mos", "dover_aesthetic", "dover_technical"))
    fused = 0.428 * stats.zscore(aesthetic) + 0.572 * stats.zscore(technical)
    x = {"aesthetic": aesthetic, "technical": technical, "fused": fused}[branch]
    fit = fit_logistic(x, mos, parameters)
    assert fit.converged
    np.testing.assert_allclose(fit.fitted, CURVES[parameters](x, *fit.parameters), atol=1e-7)
    after = fit.scores(mos)[0]
    assert after == pytest.approx(REAL[name, branch][parameters - 4], abs=2e-5)
    assert after > plcc(x, mos)
    if parameters == 4:  # with 5, the line would have to be constant
        wild, there = np.append(x, [1e4, 1e6]), np.append(mos, [fit.parameters[0]] * 2)
        assert fit_logistic(wild, there).scores(there)[0] > after - 1e-3
