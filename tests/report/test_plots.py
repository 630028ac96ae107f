"""Pictures."""

import numpy as np

from dagr_jax.report import plots


def test_spread_goes_from_bad_to_good():
    values = np.array([5.0, 1.0, 3.0, 2.0, 4.0])
    chosen = plots.spread(values)
    assert [values[i] for i in chosen] == sorted(values[i] for i in chosen)
    assert len(set(chosen)) == 3


def test_overlay_keeps_the_frame_where_nothing_is_salient():
    frame = np.full((8, 12, 3), 90, np.uint8)
    cold = plots.overlay(frame, np.zeros((4, 6)))
    np.testing.assert_array_equal(cold, frame)
    saliency = np.zeros((4, 6))
    saliency[:, 4:] = 1
    hot = plots.overlay(frame, saliency)
    np.testing.assert_array_equal(hot[:, :6], frame[:, :6])
    # The warm end of the colour map: more red than blue.
    assert (hot[:, -1, 0].astype(int) > hot[:, -1, 2] + 30).all()
