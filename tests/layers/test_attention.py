"""Positions and the encoder layer, compared with the formulas in numpy."""

import numpy as np
import pytest

from dagr_jax.layers.attention import TemporalTransformer, positions
from dagr_jax.runtime.errors import DagrError


def test_positions():
    p = positions(5, 6)
    for t in range(5):
        for i in range(3):
            angle = t / 1e4 ** (2 * i / 6)
            assert p[t, 2 * i] == pytest.approx(np.sin(angle), abs=1e-6)
            assert p[t, 2 * i + 1] == pytest.approx(np.cos(angle), abs=1e-6)


def test_odd_dimension_is_refused():
    with pytest.raises(DagrError, match="even number of channels, got 7"):
        positions(3, 7)


def norm(x, p):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    return x * p["scale"] + p["bias"]


def linear(x, p):
    return x @ p["kernel"] + p["bias"]


def test_one_post_norm_layer(fill):
    """Attention with two heads, feed-forward, both norms after the residual sum, mean over time."""
    x = np.random.default_rng(0).standard_normal((2, 4, 6)).astype(np.float32)
    model = TemporalTransformer(num_layers=1, num_heads=2, mlp_dim=5)
    variables = fill(model, x)
    p = variables["params"]["layer0"]

    h = x + positions(4, 6)
    q, k, v = np.split(linear(h, p["self_attn"]["in_proj"]), 3, -1)
    heads = []
    for c in (slice(0, 3), slice(3, 6)):
        logits = q[..., c] @ k[..., c].transpose(0, 2, 1) / np.sqrt(3)
        weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        heads.append(weights @ v[..., c])
    h = norm(h + linear(np.concatenate(heads, -1), p["self_attn"]["out_proj"]), p["norm1"])
    h = norm(h + linear(np.maximum(linear(h, p["linear1"]), 0), p["linear2"]), p["norm2"])
    np.testing.assert_allclose(model.apply(variables, x), h.mean(1), atol=1e-5)
