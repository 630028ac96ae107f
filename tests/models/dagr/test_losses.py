"""Losses: golden numbers of the release, formulas of the paper, gradients, constant inputs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from dagr_jax.layers import correlation
from dagr_jax.models.dagr import losses
from dagr_jax.runtime.errors import DagrError

# Compiled, because the many small cases take minutes without compilation.
saliency_loss = jax.jit(losses.saliency_loss, static_argnames=("preset", "gamma"))
quality_loss = jax.jit(losses.quality_loss, static_argnames="preset")


@pytest.fixture(scope="module")
def release(golden):
    return golden("losses")


@pytest.fixture
def maps():
    """Random logits and target, (2, 3, 6, 5)."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 3, 6, 5)).astype(np.float32)
    return logits, rng.uniform(size=logits.shape).astype(np.float32)


def test_release_saliency_terms(release):
    pred, true = release["pred"][:, :, 0], release["true"][:, :, 0]
    kl = losses.release_kl(pred, true, np.ones(2, bool))
    np.testing.assert_allclose(kl, release["release_kl"], rtol=2e-5)
    cc = losses.release_cc(pred, true)
    np.testing.assert_allclose(cc, release["release_cc"], atol=2e-5 * 0.25)
    np.testing.assert_allclose(0.01 * kl + cc.mean(), release["release_total_001"], rtol=2e-5)


def test_release_spearman(release):
    """The golden number is the term of the loss, 1 − ρ."""
    rho = correlation.spearman(release["rank_pred"], release["rank_true"])
    np.testing.assert_allclose(1 - rho, release["release_spearman"], rtol=2e-5)
    loss, terms = quality_loss(release["rank_pred"], release["rank_true"], preset="release")
    l1 = np.abs(release["rank_pred"] - release["rank_true"]).mean()
    np.testing.assert_allclose(loss, l1 + 0.1 * release["release_spearman"], rtol=2e-5)
    np.testing.assert_allclose(terms["l1"], l1, rtol=2e-5)


def squeezed(logits):
    s = 1 / (1 + np.exp(-logits.astype(np.float64)))
    return (s - s.min()) / (s.max() - s.min())


def test_paper_saliency_loss_by_hand(maps):
    logits, target = maps
    loss, terms = saliency_loss(logits, target, gamma=0.1)
    s = squeezed(logits)
    kl, cc = [], []
    for p, t in zip(s.reshape(6, -1), target.reshape(6, -1).astype(np.float64), strict=True):
        p_sum, t_sum = (p + 1e-4) / (p + 1e-4).sum(), t / t.sum()
        kl.append((t_sum * np.log(t_sum / p_sum)).sum())
        cc.append(np.corrcoef(p, t)[0, 1])
    np.testing.assert_allclose(terms["kl"], np.mean(kl), rtol=1e-4)
    np.testing.assert_allclose(terms["cc"], -np.mean(cc), atol=1e-5)
    np.testing.assert_allclose(loss, 0.1 * np.mean(kl) - np.mean(cc), rtol=1e-4)


def test_perfect_saliency_scores_best():
    target = np.random.default_rng(1).uniform(0.01, 0.99, (1, 2, 8, 8)).astype(np.float32)
    target = (target - target.min()) / (target.max() - target.min())
    logits = np.log(target.clip(1e-6)) - np.log1p(-target.clip(1e-6, 1 - 1e-6))
    _, terms = saliency_loss(logits.astype(np.float32), target)
    assert terms["cc"] == pytest.approx(-1, abs=1e-4)
    assert terms["kl"] == pytest.approx(0, abs=1e-3)  # the 1e-4 in the logarithm remains


@pytest.mark.parametrize("preset", ["paper", "release"])
def test_masked_samples_do_not_count(maps, preset):
    logits, target = maps
    want, _ = saliency_loss(logits, target, preset=preset)
    padded = np.concatenate([logits, 100 * logits[:1]])
    got, _ = saliency_loss(
        padded,
        np.concatenate([target, 1 - target[:1]]),
        preset=preset,
        mask=np.array([True, True, False]),
    )
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_maps_without_ground_truth_do_not_count(maps):
    logits, target = maps
    target = target.copy()
    target[1, 2] = 0
    _, terms = saliency_loss(logits, target)
    s = squeezed(logits).reshape(6, -1)
    cc = [np.corrcoef(a, b)[0, 1] for a, b in zip(s[:5], target.reshape(6, -1)[:5], strict=True)]
    np.testing.assert_allclose(terms["cc"], -np.mean(cc), atol=1e-5)


@pytest.mark.parametrize("preset", ["paper", "release"])
@pytest.mark.parametrize("logit", [0.0, 3.0, -200.0])
@pytest.mark.parametrize("target", [0.0, 0.5])
def test_constant_maps_give_finite_loss_and_gradient(preset, logit, target):
    x, y = np.full((2, 2, 4, 4), logit, np.float32), np.full((2, 2, 4, 4), target, np.float32)
    loss, grad = jax.value_and_grad(lambda x: saliency_loss(x, y, preset=preset)[0])(x)
    assert np.isfinite(grad).all()
    # Two constant maps: no divergence, no correlation.
    assert loss == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("preset", ["paper", "release"])
def test_descent_on_the_saliency_loss_raises_the_correlation(maps, preset):
    logits, target = maps
    step = jax.jit(jax.value_and_grad(lambda x: saliency_loss(x, target, preset=preset)[0]))
    before, grad = step(logits)
    x = jnp.asarray(logits)
    for _ in range(50):
        x = x - 2.0 * step(x)[1]
    assert step(x)[0] < before - 0.2
    assert np.abs(grad).max() > 0


@pytest.mark.parametrize("function", [correlation.hard_rank, correlation.soft_rank])
def test_ranks_sum_to_those_of_one_to_n(function):
    x = np.random.default_rng(2).normal(size=9).astype(np.float32)
    assert float(function(x).sum()) == pytest.approx(45, rel=1e-5)
    np.testing.assert_allclose(function(np.full(4, 0.3, np.float32)), [2.5] * 4)


def test_hard_rank_is_scipys():
    x = np.array([0.3, -1.0, 0.3, 2.0, 0.3, -1.0], np.float32)
    np.testing.assert_array_equal(correlation.hard_rank(x), stats.rankdata(x))


def test_soft_rank_goes_to_the_ranks_and_ignores_scale():
    x = np.random.default_rng(3).normal(size=8).astype(np.float32)
    np.testing.assert_allclose(correlation.soft_rank(x, 1e-4), stats.rankdata(x), atol=1e-3)
    np.testing.assert_allclose(
        correlation.soft_rank(5 * x + 2), correlation.soft_rank(x), rtol=1e-4
    )
    # With a high temperature the soft rank is linear: Spearman becomes Pearson.
    r = correlation.soft_rank(x, 1e3)
    assert np.corrcoef(r, x)[0, 1] == pytest.approx(1, abs=1e-3)


def test_soft_spearman_is_near_the_hard_one():
    rng = np.random.default_rng(4)
    x = rng.normal(size=64).astype(np.float32)
    y = (x + rng.normal(size=64)).astype(np.float32)
    want = stats.spearmanr(x, y).statistic
    assert correlation.spearman(x, y) == pytest.approx(want, abs=1e-5)
    assert correlation.spearman_soft(x, y, 1e-4) == pytest.approx(want, abs=1e-3)
    assert correlation.spearman_soft(x, y) == pytest.approx(want, abs=0.05)


# Labels: even, near one another, on steps of 1/20 with ties, and skewed.
LABELS = [
    lambda rng, n: rng.uniform(size=n),
    lambda rng, n: 0.5 + 0.01 * rng.normal(size=n),
    lambda rng, n: np.append(rng.integers(0, 21, n - 2), [0, 20]) / 20,
    lambda rng, n: rng.beta(5, 1, n),
]


@pytest.mark.parametrize("draw", LABELS)
@pytest.mark.parametrize("count", [2, 3, 5, 16, 96])
def test_the_rank_term_is_least_where_predictions_equal_the_targets(draw, count):
    """Also up to shift and scale; with hard ranks of the targets, 1 − ρ was 0.02 to 0.09 there."""
    target = draw(np.random.default_rng([6, count]), count).astype(np.float32)
    term = jax.jit(jax.value_and_grad(lambda p: 1 - correlation.spearman_soft(p, target)))
    value, grad = term(target)
    assert abs(value) <= 1e-6 and np.abs(grad).max() <= 1e-4
    # Float32 rounds the differences of shifted labels by up to 1e-5 of their spread.
    assert abs(term(3 * target + 1)[0]) <= 1e-6
    moved = target + 0.3 * np.std(target) * np.random.default_rng(7).normal(size=count)
    assert count == 2 or term(moved.astype(np.float32))[0] > 1e-5


def test_soft_ranks_keep_the_order():
    x = np.random.default_rng(8).normal(size=50).astype(np.float32)
    np.testing.assert_array_equal(np.argsort(correlation.soft_rank(x)), np.argsort(x))


def test_gradient_flows_through_the_soft_rank_alone():
    """The rank term alone sorts predictions; the hard rank of the release has no gradient."""
    rng = np.random.default_rng(5)
    target = rng.uniform(size=12).astype(np.float32)
    pred = rng.uniform(size=12).astype(np.float32)

    def term(p, preset):
        return quality_loss(p, target, preset=preset)[1]["rank"]

    step = jax.jit(jax.grad(term), static_argnums=1)
    np.testing.assert_array_equal(step(pred, "release"), np.zeros(12))
    before = correlation.spearman(pred, target)
    p = jnp.asarray(pred)
    for _ in range(200):
        p = p - 0.05 * step(p, "paper")
    assert before < 0.5
    assert correlation.spearman(p, target) > 0.95


@pytest.mark.parametrize("preset", ["paper", "release"])
@pytest.mark.parametrize("size", [1, 4])
def test_constant_scores_give_finite_loss_and_gradient(preset, size):
    pred = np.full(size, 0.25, np.float32)
    target = np.linspace(0, 1, size, dtype=np.float32)
    loss, grad = jax.value_and_grad(lambda p: quality_loss(p, target, preset=preset)[0])(pred)
    assert np.isfinite(grad).all()
    assert loss == pytest.approx(np.abs(pred - target).mean() + 0.1, abs=1e-5)  # ρ = 0


def test_unknown_preset_is_refused():
    x = np.zeros(2, np.float32)
    with pytest.raises(DagrError, match="preset 'both' is unknown; use one of paper, release"):
        quality_loss(x, x, preset="both")
    y = np.zeros((1, 1, 2, 2), np.float32)
    with pytest.raises(DagrError, match="preset 'both'"):
        saliency_loss(y, y, preset="both")


def test_masked_correlations_are_those_of_what_counts():
    rng = np.random.default_rng(5)
    pred, target = rng.normal(size=(2, 9)).astype(np.float32)
    mask = np.arange(9) % 3 != 1

    def masked(p):
        return correlation.spearman_soft(p, target, mask=mask)

    def alone(p):
        return correlation.spearman_soft(p, target[mask])

    value, gradient = jax.value_and_grad(masked)(pred)
    wanted, part = jax.value_and_grad(alone)(pred[mask])
    np.testing.assert_allclose(value, wanted, rtol=1e-5)
    np.testing.assert_allclose(gradient[mask], part, atol=1e-5)
    np.testing.assert_array_equal(gradient[~mask], 0)
