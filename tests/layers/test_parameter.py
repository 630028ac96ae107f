"""A parameter is the same as with Flax's own method, and a wrong shape is still an error."""

import flax.linen as nn
import jax
import numpy as np
import pytest
from flax.errors import ScopeCollectionNotFound, ScopeParamShapeError

from dagr_jax.layers.parameter import parameter


class Ours(nn.Module):
    shape: tuple[int, ...] = (2, 3)

    @nn.compact
    def __call__(self, x):
        return x @ parameter(self, "kernel", nn.initializers.normal(1.0), self.shape)


class Flaxs(nn.Module):
    @nn.compact
    def __call__(self, x):
        return x @ self.param("kernel", nn.initializers.normal(1.0), (2, 3))


def test_it_starts_and_applies_like_flaxs():
    x = np.ones((1, 2), np.float32)
    ours, flaxs = (net.init(jax.random.key(0), x) for net in (Ours(), Flaxs()))
    np.testing.assert_array_equal(ours["params"]["kernel"], flaxs["params"]["kernel"])
    np.testing.assert_array_equal(Ours().apply(ours, x), Flaxs().apply(flaxs, x))


def test_another_shape_is_refused():
    x = np.ones((1, 2), np.float32)
    variables = Ours().init(jax.random.key(0), x)
    with pytest.raises(ScopeParamShapeError, match=r"kernel.*\(2, 4\).*\(2, 3\)"):
        Ours((2, 4)).apply(variables, x)


def test_a_lost_one_is_an_error():
    with pytest.raises(ScopeCollectionNotFound, match="kernel"):
        Ours().apply({}, np.ones((1, 2), np.float32))
