from pathlib import Path

import numpy as np
import pytest
from scipy.stats import entropy
from sklearn.metrics import roc_auc_score

from dagr_jax.metrics.saliency import (
    auc_borji,
    auc_judd,
    auc_shuffled,
    cc,
    centre_bias,
    kld,
    nss,
    sim,
    temporal_consistency,
)

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "losses.npz"


def test_values_of_the_release():
    with np.load(GOLDEN) as golden:
        # The release computes in float32.
        assert cc(golden["sal"], golden["gt"]) == pytest.approx(float(golden["cc"]), abs=1e-6)
        assert nss(golden["sal"], golden["fix"]) == pytest.approx(float(golden["nss"]), abs=1e-6)


def test_known_values():
    prediction = np.array([[0.0, 0.0], [0.0, 1.0]])  # mean 1/4, standard deviation sqrt(3)/4
    fixations = np.array([[0, 0], [0, 255]])
    assert nss(prediction, fixations) == pytest.approx(np.sqrt(3))
    assert nss(prediction, 1 - fixations / 255) == pytest.approx(-1 / np.sqrt(3))
    assert cc(prediction, fixations) == pytest.approx(1)
    assert cc(prediction, [[1, 1], [1, 0]]) == pytest.approx(-1)
    # Covariance 1/4 * 1 - 1/4 * 1/2 over sqrt(3)/4 * 1/2.
    assert cc(prediction, [[0, 1], [0, 1]]) == pytest.approx(1 / np.sqrt(3))


def test_scale_of_the_maps_does_not_matter():
    rng = np.random.default_rng(0)
    x, y = rng.uniform(size=(2, 9, 12))
    fixations = rng.uniform(size=(9, 12)) < 0.1
    expected = np.corrcoef(x.ravel(), y.ravel())[0, 1]
    assert cc(x, y) == pytest.approx(expected, abs=1e-10)
    assert cc(255 * x + 3, 0.01 * y) == pytest.approx(expected, abs=1e-10)
    assert nss(255 * x + 3, fixations) == pytest.approx(nss(x, fixations), abs=1e-10)


def test_the_prediction_is_resized_never_the_fixations():
    # Doubling with half-pixel centres: rows sample at 0, 1/4, 3/4, 1, computed by hand.
    small = np.array([[0.0, 1.0]])
    large = np.array([[0.0, 0.25, 0.75, 1.0], [0.0, 0.25, 0.75, 1.0]])
    fixations = np.zeros((2, 4))
    fixations[1, 2] = 1
    assert nss(small, fixations) == pytest.approx((0.75 - 0.5) / large.std())
    density = np.array([[0, 0, 0, 1], [0, 0, 0, 1.0]])
    assert cc(small, density) == pytest.approx(np.corrcoef(large.ravel(), density.ravel())[0, 1])


def test_a_frame_without_ground_truth_is_nan_and_a_constant_prediction_0():
    varied, nothing = np.arange(12.0).reshape(3, 4), np.zeros((3, 4))
    assert np.isnan(nss(varied, nothing))
    assert np.isnan(cc(varied, nothing))
    assert np.isnan(cc(varied, np.full((3, 4), 0.3)))
    one = np.eye(3, 4)
    assert nss(np.full((3, 4), 0.3), one) == 0.0
    assert cc(np.full((3, 4), 0.3), one) == 0.0
    assert cc(nothing, one) == 0.0
    # Resizing must not turn rounding errors of a constant into a pattern.
    assert cc(np.full((2, 3), 0.3), np.eye(7, 11)) == 0.0
    assert nss(np.full((2, 3), 0.3), np.eye(7, 11)) == 0.0


def test_bad_input():
    with pytest.raises(ValueError, match=r"prediction has shape \(2, 3, 4\); give one map"):
        cc(np.zeros((2, 3, 4)), np.zeros((3, 4)))
    with pytest.raises(ValueError, match="density holds values that are not finite"):
        cc(np.zeros((3, 4)), np.full((3, 4), np.nan))
    with pytest.raises(ValueError, match="prediction holds values that are not finite"):
        nss(np.full((3, 4), np.inf), np.eye(3, 4))


def test_centre_bias():
    bias = centre_bias(5, 9)
    assert bias.shape == (5, 9)
    assert bias[2, 4] == 1.0 == bias.max()
    np.testing.assert_array_equal(bias, bias[::-1])
    np.testing.assert_array_equal(bias, bias[:, ::-1])
    # Two of nine columns from the centre: 2/9 of the width, with a sigma of 1/4.
    assert bias[2, 6] == pytest.approx(np.exp(-((2 / 9 / 0.25) ** 2) / 2))
    assert bias[1, 4] == pytest.approx(np.exp(-((1 / 5 / 0.25) ** 2) / 2))
    assert centre_bias(5, 9, sigma=0.5)[2, 6] == pytest.approx(np.exp(-((2 / 9 / 0.5) ** 2) / 2))
    # Central fixations score above 0, peripheral ones below.
    central, corner = np.zeros((2, 40, 60))
    central[18:22, 28:32] = 1
    corner[:3, :3] = 1
    assert nss(centre_bias(40, 60), central) > 1 and nss(centre_bias(40, 60), corner) < 0
    with pytest.raises(ValueError, match="all must be above 0"):
        centre_bias(0, 4)
    with pytest.raises(ValueError, match="all must be above 0"):
        centre_bias(4, 4, sigma=0)


def maps_and_fixations(seed=0):
    rng = np.random.default_rng(seed)
    fixations = rng.uniform(size=(20, 30)) < 0.05
    return rng.uniform(size=(20, 30)) + 0.3 * fixations, fixations


def test_auc_judd_is_the_area_under_the_curve_of_scikit_learn():
    prediction, fixations = maps_and_fixations()
    for x in (prediction, np.round(prediction, 1), -prediction):  # the second has ties
        expected = roc_auc_score(fixations.ravel(), x.ravel())
        assert auc_judd(x, fixations) == pytest.approx(expected, abs=1e-10)
    # Of 2 x 2 pairs (0.5 or 0.9 against 0.1 or 0.5), three are won and one is a tie.
    assert auc_judd([[0.1, 0.5], [0.5, 0.9]], [[0, 0], [1, 1]]) == pytest.approx(3.5 / 4)


def test_auc_lies_at_most_half_a_fixation_below_the_benchmark_code():
    # Thresholds only at the fixations, joined by straight lines.
    prediction, fixations = maps_and_fixations(1)
    values = np.sort(prediction[fixations])[::-1]
    n, pixels = len(values), prediction.size
    above = np.array([(prediction >= v).sum() for v in values])
    hits = np.arange(1, n + 1) / n
    alarms = (above - np.arange(1, n + 1)) / (pixels - n)
    area = np.trapezoid([0, *hits, 1], [0, *alarms, 1])
    assert 0 < area - auc_judd(prediction, fixations) <= 1 / (2 * n)


def test_auc_borji_draws_all_pixels_evenly():
    prediction, fixations = maps_and_fixations(2)
    value = auc_borji(prediction, fixations, seed=0, splits=400)
    assert value == auc_borji(prediction, fixations, seed=0, splits=400)
    assert value != auc_borji(prediction, fixations, seed=1, splits=400)
    # The mean over draws is the AUC against all pixels; 400 draws of 30 pixels: error about 0.003.
    hit = prediction[fixations][:, None]
    expected = ((hit > prediction.ravel()) + 0.5 * (hit == prediction.ravel())).mean()
    assert value == pytest.approx(expected, abs=0.01)


def test_shuffled_auc_gives_the_centre_nothing():
    rng = np.random.default_rng(3)
    central = centre_bias(20, 30)
    chance = central / central.sum()
    here = np.zeros(600)
    here[rng.choice(600, 40, replace=False, p=chance.ravel())] = 1
    others = rng.multinomial(20000, chance.ravel()).reshape(20, 30)
    fixations = here.reshape(20, 30)
    assert auc_judd(central, fixations) > 0.65
    # 40 fixations: a standard error of about 0.05.
    assert auc_shuffled(central, fixations, others, seed=0) == pytest.approx(0.5, abs=0.1)
    assert auc_shuffled(fixations, fixations, others, seed=0) > 0.9
    # All other fixations are at one pixel, so its value is the only threshold.
    single = np.zeros((20, 30))
    single[0, 0] = 5
    expected = (central[fixations > 0] > central[0, 0]).mean()
    assert auc_shuffled(central, fixations, single, seed=0) == pytest.approx(expected)


def test_sim_and_kld_by_hand():
    p, q = np.array([[0.0, 1.0, 3.0]]), np.array([[0.0, 2.0, 2.0]])
    assert sim(p, q) == pytest.approx(0.25 + 0.5)
    assert sim(7 * p + 3, q) == pytest.approx(0.75)
    p, q = np.array([[1.0, 1.0, 2.0]]), np.array([[1.0, 2.0, 1.0]])
    expected = entropy([0.25, 0.5, 0.25], [0.25, 0.25, 0.5])  # from scipy
    # The 2.2e-16 in the formula changes the value by less than the tolerance.
    assert kld(p, q) == pytest.approx(expected, abs=1e-10)
    assert kld(q, q) == pytest.approx(0, abs=1e-10)
    assert kld(np.full((1, 3), 9.0), q) == pytest.approx(
        entropy([0.25, 0.5, 0.25], [1 / 3] * 3), abs=1e-10
    )
    # If the map is 0 at a fixated pixel, the divergence is large but finite.
    assert 20 < kld([[1.0, 0.0]], [[0.0, 1.0]]) < 40


def test_frames_without_ground_truth_and_constant_maps_in_all_metrics():
    varied, nothing, one = np.arange(12.0).reshape(3, 4), np.zeros((3, 4)), np.eye(3, 4)
    flat = np.full((2, 3), 0.3)
    assert np.isnan([sim(varied, nothing), kld(varied, nothing)]).all()
    assert np.isnan(auc_judd(varied, nothing)) and np.isnan(auc_judd(varied, nothing + 1))
    assert np.isnan(auc_borji(varied, nothing, seed=0))
    assert np.isnan(auc_shuffled(varied, nothing, one, seed=0))
    assert np.isnan(auc_shuffled(varied, one, nothing, seed=0))
    assert sim(flat, one) == 0.0
    assert auc_judd(np.full((3, 4), 0.3), one) == 0.5
    assert auc_borji(np.full((3, 4), 0.3), one, seed=0) == 0.5
    assert auc_shuffled(np.full((3, 4), 0.3), one, one, seed=0) == 0.5
    with pytest.raises(ValueError, match="differ in size"):
        auc_shuffled(varied, one, np.ones((4, 4)), seed=0)
    with pytest.raises(ValueError, match="values below 0"):
        auc_shuffled(varied, one, -one, seed=0)
    with pytest.raises(ValueError, match="splits=0"):
        auc_borji(varied, one, seed=0, splits=0)


def test_temporal_consistency_counts_only_what_the_frames_do_not_explain():
    rng = np.random.default_rng(4)
    a, b = rng.uniform(size=(2, 6, 8))
    still = np.stack([a, a, a])
    moving = np.stack([a, b, a])
    assert temporal_consistency(still, still) == 1.0
    assert temporal_consistency(still, moving) == 1.0  # a map may be static while the frames change
    assert temporal_consistency(moving, moving) == pytest.approx(1.0)  # changes as much as frames
    # Static frames: all of the change counts, twice.
    assert temporal_consistency(moving, still) == pytest.approx(cc(a, b))
    assert temporal_consistency(np.stack([a, -a]), still[:2]) == pytest.approx(-1.0)
    # RGB frames of twice the size are reduced by averaging.
    large = np.repeat(np.repeat(moving, 2, 1), 2, 2)[..., None] * [0.5, 1.0, 1.5]
    assert temporal_consistency(moving, large) == pytest.approx(1.0)
    # From a constant to a non-constant picture, the change is 1.
    assert temporal_consistency(np.stack([a, 0 * a]), still[:2]) == pytest.approx(0.0)
    assert np.isnan(temporal_consistency(still[:1], still[:1]))
    with pytest.raises(ValueError, match="of the same frames"):
        temporal_consistency(still, still[:2])
