import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagr_jax.video.sampling import linspace_indices, sample_indices, segments_indices

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
    # numpy rounds in float64: where the quotient is an integer it may fall just below it.
    assert np.abs(got - np.floor(np.linspace(0, length - 1, n))).max() <= 1


@given(lengths, counts, st.sampled_from(["linspace", "segments"]))
def test_indices_are_ordered_and_inside(length, n, rule):
    got = sample_indices(length, n, rule)
    assert got.shape == (n,) and got.dtype == np.int64
    assert (np.diff(got) >= 0).all() and got[0] >= 0 and got[-1] < length
    if rule == "linspace" and n > 1:
        assert got[0] == 0 and got[-1] == length - 1
    if n <= length:
        assert (np.diff(got) > 0).all()  # no frame twice while there are enough


@pytest.mark.parametrize("rule", ["linspace", "segments"])
def test_bad_input(rule):
    with pytest.raises(ValueError, match="needs at least 1"):
        sample_indices(0, 8, rule)
    with pytest.raises(ValueError, match="ask for at least 1"):
        sample_indices(8, 0, rule)
    with pytest.raises(ValueError, match="use one of: linspace, segments"):
        sample_indices(8, 8, "random")
