"""Trivial baselines."""

import numpy as np
import pytest

from dagr_jax.metrics import baselines


def record(frames, bit_rate=1000.0, mos=3.0):
    return {"frames": frames, "bit_rate": bit_rate, "mos": mos}


def test_features_of_plain_colours():
    grey = np.full((2, 8, 8, 3), 100, np.uint8)
    np.testing.assert_allclose(baselines.features(record(grey)), [3, 0, 100, 0], atol=1e-4)
    red = np.zeros((2, 8, 8, 3), np.uint8)
    red[..., 0] = 200
    # rg = 200, yb = 100, no spread: 0.3 · hypot(200, 100).
    expected = [3, 0, 0.299 * 200, 0.3 * np.hypot(200, 100)]
    np.testing.assert_allclose(baselines.features(record(red)), expected, rtol=1e-5, atol=1e-4)


def test_laplacian_variance_of_a_checkerboard():
    board = (np.indices((8, 8)).sum(0) % 2 * 100).astype(np.uint8)
    frames = np.repeat(board[None, :, :, None], 3, -1)
    # Inside, the Laplacian is ±400; its variance is 400², a little less at the mirrored border.
    assert 0.6 * 400**2 < baselines.features(record(frames))[1] <= 400**2


def test_a_label_that_follows_the_bitrate_is_found():
    rng = np.random.default_rng(0)

    def clips(count):
        rates = rng.uniform(1e4, 1e6, count)
        return [
            record(rng.integers(0, 255, (1, 8, 8, 3), np.uint8), r, mos=float(np.log(r)))
            for r in rates
        ]

    scores = baselines.evaluate(clips(40), clips(20))
    assert scores["bitrate"] == pytest.approx(1.0)
    assert scores["all_features"] > 0.9 and abs(scores["luminance"]) < 0.7
