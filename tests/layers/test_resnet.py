"""Initialisation of the ResNet; test_quality_net compares its values with the release."""

import jax
import numpy as np
import pytest

from dagr_jax.layers.resnet import ResNet, gabor_stem
from dagr_jax.runtime.errors import DagrError


def test_gabor_stem_has_grey_edges_without_a_mean_and_coloured_blobs():
    kernel = np.asarray(gabor_stem(jax.random.key(0), (7, 7, 3, 16)))
    np.testing.assert_allclose((kernel**2).sum((0, 1, 2)), 1.0, rtol=1e-5)
    blobs = np.arange(16) % 4 == 3
    edges = kernel[..., ~blobs]
    # float32 sums of 49 numbers of up to 0.3
    np.testing.assert_allclose(edges.sum((0, 1)), 0.0, atol=1e-6)
    np.testing.assert_array_equal(edges[:, :, 0], edges[:, :, 2])
    assert (np.ptp(kernel[3, 3][:, blobs], axis=0) > 0.01).all()
    # No two filters are equal.
    flat = kernel.reshape(-1, 16)
    assert np.abs(flat.T @ flat - np.eye(16)).max() < 0.95


def test_the_start_is_a_field_and_an_unknown_one_is_refused():
    x = np.zeros((1, 16, 16, 3), np.float32)
    shape = (7, 7, 3, 4)
    key = jax.random.key(1)
    stems = {
        start: ResNet((1,), 4, stem_init=start).init(key, x)["params"]["conv1"]["kernel"]
        for start in ("kaiming", "gabor")
    }
    assert all(stem.shape == shape for stem in stems.values())
    assert np.abs(stems["gabor"] - stems["kaiming"]).max() > 0.05
    with pytest.raises(DagrError, match="'gauss' is unknown; use one of kaiming, gabor"):
        ResNet((1,), 4, stem_init="gauss").init(key, x)
