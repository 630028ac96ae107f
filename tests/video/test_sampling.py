import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagr_jax.runtime.errors import DagrError
from dagr_jax.video.sampling import (
    MAP_CHOICES,
    linspace_indices,
    map_indices,
    sample_indices,
    segments_indices,
    windows_of,
)

lengths = st.integers(1, 100_000)
counts = st.integers(1, 64)


def test_linspace_known_values():
    # floor(linspace(0, L - 1, n)), by hand.
    np.testing.assert_array_equal(linspace_indices(240, 8), [0, 34, 68, 102, 136, 170, 204, 239])
    np.testing.assert_array_equal(linspace_indices(8, 8), np.arange(8))
    np.testing.assert_array_equal(linspace_indices(3, 8), [0, 0, 0, 0, 1, 1, 1, 2])
    np.testing.assert_array_equal(linspace_indices(1, 8), np.zeros(8))
    np.testing.assert_array_equal(linspace_indices(50, 1), [0])


def test_segments_known_values():
    # The middle of ten segments of ten frames; of two segments of three frames (1.5 -> 1).
    np.testing.assert_array_equal(segments_indices(100, 10), np.arange(10) * 10 + 5)
    np.testing.assert_array_equal(segments_indices(6, 2), [1, 4])
    np.testing.assert_array_equal(segments_indices(9, 1), [4])
    np.testing.assert_array_equal(segments_indices(2, 4), [0, 0, 1, 1])


@given(lengths, counts)
def test_linspace_is_floor_of_numpy_linspace(length, n):
    got = linspace_indices(length, n)
    exact = [i * (length - 1) // (n - 1) for i in range(n)] if n > 1 else [0]
    assert got.tolist() == exact
    # numpy rounds in float64: if the quotient is an integer, the result may be just below it.
    assert np.abs(got - np.floor(np.linspace(0, length - 1, n))).max() <= 1


@given(lengths, counts, st.sampled_from(["linspace", "segments"]))
def test_indices_are_ordered_and_inside(length, n, rule):
    got = sample_indices(length, n, rule)
    assert got.shape == (n,) and got.dtype == np.int64
    assert (np.diff(got) >= 0).all() and got[0] >= 0 and got[-1] < length
    if rule == "linspace" and n > 1:
        assert got[0] == 0 and got[-1] == length - 1
    if n <= length:
        assert (np.diff(got) > 0).all()  # no frame twice if there are enough frames


@pytest.mark.parametrize("rule", ["linspace", "segments"])
def test_bad_input(rule):
    with pytest.raises(DagrError, match="needs at least 1"):
        sample_indices(0, 8, rule)
    with pytest.raises(DagrError, match="set at least 1"):
        sample_indices(8, 0, rule)
    with pytest.raises(DagrError, match="use one of: linspace, segments"):
        sample_indices(8, 8, "random")


def test_maps_that_go_with_the_frames():
    frames = sample_indices(20, 4)  # 0, 6, 12, 19
    assert map_indices(frames, 20, "matched").tolist() == [0, 6, 12, 19]
    assert map_indices(frames, 20, "linspace").tolist() == [0, 6, 12, 19]
    assert map_indices(frames, 20, "first").tolist() == [0, 1, 2, 3]
    # Fewer maps than frames.
    assert map_indices(frames, 10, "matched").tolist() == [0, 6, 9, 9]
    assert map_indices(frames, 10, "linspace").tolist() == [0, 3, 6, 9]
    assert map_indices(frames, 2, "first").tolist() == [0, 1, 1, 1]
    with pytest.raises(DagrError, match="choice of maps 'best' is unknown; use one of"):
        map_indices(frames, 20, "best")


@given(lengths, counts, st.integers(1, 9), st.sampled_from(MAP_CHOICES))
def test_windows_hold_the_chosen_frames_and_no_window_more(length, n, window, choice):
    chosen = map_indices(sample_indices(length, n), length, choice)
    frames, place = windows_of(chosen, length, window)
    np.testing.assert_array_equal(frames.reshape(-1)[place], chosen)
    assert len(frames) == len(set((chosen // window).tolist()))
    # Each is a window of the video: it starts at a multiple and is padded with the last frame.
    for row in frames.tolist():
        start = row[0]
        assert start % window == 0
        assert row == [min(start + i, length - 1) for i in range(window)]
