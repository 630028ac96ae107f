from pathlib import Path

import numpy as np
import pytest

from dagr_jax.saliency_metrics import cc, centre_bias, nss

GOLDEN = Path(__file__).parent / "golden" / "losses.npz"


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
    # Doubling with half-pixel centres: rows read 0, 1/4, 3/4, 1 of the way, by hand.
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
    # Resizing must not turn the rounding of a constant into a pattern.
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
    # Two of nine columns off, 2/9 of the width, over sigma of a quarter.
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
