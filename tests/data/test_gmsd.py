"""GMSD, the metric for the labels of the embedded corpus."""

import numpy as np

from dagr_jax.data import gmsd


def test_luminance_is_bt601():
    frame = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]]], np.uint8)
    np.testing.assert_allclose(
        gmsd.luminance(frame)[0], [0.299 * 255, 0.587 * 255, 0.114 * 255, 255], rtol=1e-6
    )


def test_gradient_of_a_ramp_is_its_slope():
    # 3 grey levels per pixel are 6 per half-resolution pixel; Prewitt spans two of these pixels.
    ramp = np.tile(np.arange(16, dtype=np.float32) * 3, (16, 1))
    inner = gmsd.gradient_magnitude(ramp)[1:-1, 1:-1]
    np.testing.assert_allclose(inner, 12.0, rtol=1e-6)


def test_equal_frames_have_none_and_blur_has_more_the_stronger_it_is():
    rng = np.random.default_rng(0)
    frame = rng.integers(0, 256, (64, 64)).astype(np.float32)
    reference = gmsd.gradient_magnitude(frame)
    assert gmsd.gmsd(reference, reference) == 0.0
    light = gmsd.gmsd(reference, gmsd.gradient_magnitude(frame * 0.7))
    heavy = gmsd.gmsd(reference, gmsd.gradient_magnitude(frame * 0.2))
    assert 0 < light < heavy < 0.5


def test_hand_computed_value():
    # The similarities of (1, 0) and (1, 1) are 1 and 170 / 171; their deviation is half the gap.
    value = gmsd.gmsd(np.array([1.0, 0.0]), np.array([1.0, 1.0]))
    np.testing.assert_allclose(value, (1 - 170 / 171) / 2, rtol=1e-12)
