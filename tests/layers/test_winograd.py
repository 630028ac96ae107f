"""Minimal filtering: the linear maps are exact, and the tiles cover an axis."""

import numpy as np
import pytest

from dagr_jax.layers import winograd


@pytest.mark.parametrize("m", [1, 2, 3, 4, 5])
def test_the_maps_filter(m):
    rng = np.random.default_rng(m)
    x, taps = rng.standard_normal(m + 2), rng.standard_normal(3)
    a, g, b = winograd.matrices(m)
    direct = [taps @ x[i : i + 3] for i in range(m)]
    np.testing.assert_allclose(a @ ((g @ taps) * (b @ x)), direct, atol=1e-13)


@pytest.mark.parametrize("length", range(1, 70))
def test_tiles_cover_the_axis(length):
    sizes = winograd.tiles(length)
    assert sum(sizes) == length
    assert length < 3 or min(sizes) >= 3 and max(sizes) <= 5
