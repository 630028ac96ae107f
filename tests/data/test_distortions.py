"""Distortions of the embedded corpus."""

import numpy as np
import pytest

from dagr_jax.data import distortions
from dagr_jax.data.distortions import Distortion, distort, plan, repeated_fraction, shown_frames
from dagr_jax.runtime.errors import DagrError

RNG = np.random.default_rng(0)
CLIP = RNG.integers(40, 200, (20, 32, 48, 3)).astype(np.uint8)


def delivered(kind, level):
    return Distortion(kind, level, None, None, 12)


def test_plan_spreads_codecs_and_kinds():
    plans = [plan(np.random.default_rng(seed)) for seed in range(200)]
    assert all(len(p) == 5 for p in plans)
    assert {d.codec for p in plans for d in p} == {"h264", "hevc", "vp9", "av1", None}
    assert {d.kind for p in plans for d in p} == {
        "compress", "blur", "noise", "rescale", "exposure", "freeze", "drop",
    }  # fmt: skip
    for d in (d for p in plans for d in p if d.kind == "compress"):
        low, high = distortions.CRF_RANGE[d.codec]
        assert low <= d.crf <= high
        assert d.crf == round(low + d.level * (high - low))
    # 400 draws with probability 1/2: 0.1 is four standard deviations.
    others = [d for p in plans for d in p if d.kind != "compress"]
    assert 0.4 < np.mean([d.codec is None for d in others]) < 0.6
    assert {d.delivery_crf for p in plans for d in p} == set(range(4, 13))


@pytest.mark.parametrize("kind", ["blur", "noise", "rescale", "exposure"])
def test_a_higher_level_changes_the_frames_more(kind):
    def change(level):
        out, shown = distort(CLIP, delivered(kind, level), np.random.default_rng(1))
        np.testing.assert_array_equal(shown, np.arange(20))
        return np.abs(out.astype(float) - CLIP).mean()

    assert 0.5 < change(0.0) < change(0.5) < change(1.0)


def test_noise_has_the_stated_deviation():
    grey = np.full((4, 64, 64, 3), 128, np.uint8)
    out, _ = distort(grey, delivered("noise", 0.0), np.random.default_rng(2))
    # 49,152 samples: the estimated deviation has an error of 0.3 %; rounding to integers adds 0.01.
    assert (out.astype(float) - 128).std() == pytest.approx(4.0, rel=0.02)


def test_freeze_holds_one_frame():
    shown = shown_frames(delivered("freeze", 0.5), 20, np.random.default_rng(3))
    # 0.2 + 0.4 · 0.5 = 2/5 of 20 frames; the first of them is not a repetition.
    assert (np.diff(shown) == 0).sum() == 7
    out, _ = distort(CLIP, delivered("freeze", 0.5), np.random.default_rng(3))
    np.testing.assert_array_equal(out, CLIP[shown])


def test_drop_shows_every_nth_frame():
    shown = shown_frames(delivered("drop", 0.0), 6, RNG)
    np.testing.assert_array_equal(shown, [0, 0, 2, 2, 4, 4])
    assert repeated_fraction(shown) == pytest.approx(3 / 5)


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="'ghost' is unknown"):
        distort(CLIP, delivered("ghost", 0.5), RNG)


def test_plan_of_a_camera():
    plans = [plan(np.random.default_rng(seed), "capture") for seed in range(200)]
    # No codecs of the other plan, and no temporal distortions.
    assert {d.codec for p in plans for d in p} == {"vp9", "av1", None}
    for made in plans:
        kinds = [d.kind for d in made]
        assert kinds[:4] == ["exposure", "noise", "blur", "rescale"] and len(kinds) == 5
        assert kinds[4] in ("noise", "blur")
    coded = np.mean([d.codec is not None for p in plans for d in p])
    assert 0.4 < coded < 0.6  # 1000 draws with probability 1/2: 0.5 ± 0.016
    with pytest.raises(DagrError, match="'phone' are unknown; one of delivery, capture"):
        plan(np.random.default_rng(0), "phone")
