"""Training losses of both networks, in both presets (REFERENCE sections 2, 3 and 6).

All are pure functions, differentiable wherever their mathematics is, and finite with a finite
gradient on constant input: under every root and in every quotient stands a small constant.
Losses that couple samples (the min-max over the batch, the rank) see the batch they are given: the
global one under jit, the micro-batch with gradient accumulation.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from dagr_jax.runtime.errors import DagrError

# What the functions take; they return JAX arrays.
Arrays = Array | np.ndarray

# Added to predicted saliency before it is normalised to sum one, so that the logarithm is finite.
# It lies well below 1/255, the resolution of the ground truth, and bounds the gradient of the log.
_KL_EPSILON = 1e-4
# The release's constant in its correlation (REFERENCE section 2).
_RELEASE_EPSILON = 1e-6
# For variances of ranks, of predictions and of maps in [0, 1]: far below any that carries signal.
_VARIANCE_EPSILON = 1e-12


def saliency_loss(
    pred: Float[Arrays, "b t h w"],
    target: Float[Arrays, "b t h w"],
    *,
    preset: str = "paper",
    gamma: float = 0.01,
    mask: Bool[Arrays, " b"] | None = None,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """γ·KL + CC of predicted saliency, after sigmoid and min-max over the whole batch tensor.

    `paper` (eqs. 8–12): `kl_divergence` and −`pearson_maps`, averaged over the maps. Maps whose
    target is all zero have no saliency to predict and are left out of the average.
    `release`: `release_kl` and `release_cc`.

    Args:
      pred: logits, (B, T, H, W).
      target: ground-truth density in [0, 1], (B, T, H, W).
      preset: 'paper' or 'release'.
      gamma: γ, weight of the KL term.
      mask: (B,), False for samples that only pad the batch; None counts all.

    Returns:
      The loss and its two terms, {'kl', 'cc'}; cc is negative where the maps agree.

    Raises:
      DagrError: unknown preset.
    """
    _check_preset(preset)
    valid = jnp.ones(pred.shape[0], bool) if mask is None else mask
    s = batch_min_max(jax.nn.sigmoid(pred), valid)
    if preset == "release":
        kl, cc = release_kl(s, target, valid), release_cc(s, target).mean(axis=1)
        cc = _masked_mean(cc, valid)
    else:
        shown = valid[:, None] & (target > 0).any(axis=(2, 3))  # (B, T)
        kl = _masked_mean(kl_divergence(s, target), shown)
        cc = -_masked_mean(pearson_maps(s, target), shown)
    return gamma * kl + cc, {"kl": kl, "cc": cc}


def quality_loss(
    pred: Float[Arrays, " b"],
    target: Float[Arrays, " b"],
    *,
    preset: str = "paper",
    weight: float = 0.1,
    temperature: float = 0.3,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """L1 + weight·(1 − Spearman), eq. 19.

    `paper` takes `spearman_soft`. `release` takes the hard `spearman`, which has no gradient, so
    that only L1 trains.

    Args:
      pred, target: (B,), the target in [0, 1].
      preset: 'paper' or 'release'.
      weight: of the rank term.
      temperature: of the soft rank ('paper').

    Returns:
      The loss and its two terms, {'l1', 'rank'}, rank = 1 − Spearman, unweighted.

    Raises:
      DagrError: unknown preset.
    """
    _check_preset(preset)
    l1 = jnp.abs(pred - target).mean()
    if preset == "release":
        rho = spearman(pred, target)
    else:
        rho = spearman_soft(pred, target, temperature)
    rank = 1.0 - rho
    return l1 + weight * rank, {"l1": l1, "rank": rank}


def batch_min_max(
    x: Float[Arrays, "b t h w"], valid: Bool[Arrays, " b"]
) -> Float[Array, "b t h w"]:
    """x from 0 to 1 over all valid samples together; all zeros if those are constant."""
    keep = valid[:, None, None, None]
    low = jnp.where(keep, x, jnp.inf).min()
    span = jnp.where(keep, x, -jnp.inf).max() - low
    # Samples that only pad may lie outside; clipped, so that they stay harmless.
    return jnp.clip((x - low) / jnp.where(span > 0, span, 1.0), 0.0, 1.0)


def kl_divergence(
    pred: Float[Arrays, "*b h w"], target: Float[Arrays, "*b h w"]
) -> Float[Array, "*b"]:
    """KL(S ‖ Ŝ) = Σ S log(S / Ŝ) of each map, both normalised to sum one (eq. 10).

    1e-4 is added to Ŝ before it is normalised; 0·log 0 = 0; an all-zero target gives 0.

    Args:
      pred: Ŝ, non-negative, (..., H, W).
      target: S, non-negative, (..., H, W).
    """
    axes = (-2, -1)
    q = pred + _KL_EPSILON
    q = q / q.sum(axes, keepdims=True)
    target = jnp.asarray(target)
    total = target.sum(axes, keepdims=True)
    p = target / jnp.where(total > 0, total, 1.0)
    log_ratio = jnp.log(jnp.where(p > 0, p, 1.0)) - jnp.log(q)
    return (p * log_ratio).sum(axes)


def pearson_maps(
    pred: Float[Arrays, "*b h w"], target: Float[Arrays, "*b h w"]
) -> Float[Array, "*b"]:
    """Pearson's correlation over the pixels of each map (eq. 11); 0 if either is constant."""
    shape = (*pred.shape[:-2], -1)
    return _pearson(jnp.reshape(pred, shape), jnp.reshape(target, shape))


def release_kl(
    pred: Float[Arrays, "b t h w"], target: Float[Arrays, "b t h w"], valid: Bool[Arrays, " b"]
) -> Float[Array, ""]:
    """The release's KL: softmax over time at every pixel, summed, divided by the batch size."""
    log_p = jax.nn.log_softmax(target, axis=1)
    log_q = jax.nn.log_softmax(pred, axis=1)
    kl = (jnp.exp(log_p) * (log_p - log_q)).sum(axis=(1, 2, 3))  # (B,)
    return _masked_mean(kl, valid)


def release_cc(
    pred: Float[Arrays, "b t h w"], target: Float[Arrays, "b t h w"]
) -> Float[Array, "b w"]:
    """The release's CC: −Pearson over time and height, one value for each image column."""
    x = pred - pred.mean(axis=(1, 2), keepdims=True)
    y = target - target.mean(axis=(1, 2), keepdims=True)
    norm_x = jnp.sqrt(jnp.square(x).sum(axis=(1, 2)) + _RELEASE_EPSILON)
    norm_y = jnp.sqrt(jnp.square(y).sum(axis=(1, 2)) + _RELEASE_EPSILON)
    return -(x * y).sum(axis=(1, 2)) / (norm_x * norm_y + _RELEASE_EPSILON)


def soft_rank(x: Float[Arrays, " b"], temperature: float = 0.3) -> Float[Array, " b"]:
    """Differentiable ranks: 1 + Σ over the others of sigmoid((x_i − x_j) / (temperature · std x)).

    Invariant to shift and positive scale of x. Towards temperature 0 these are the ranks 1…B (ties
    share their mean rank), towards infinity a linear map of x. With the default, normally
    distributed x correlate 0.99 with their hard ranks, and a wrongly ordered pair three standard
    deviations apart still has a gradient. Constant x give equal ranks.
    """
    x = jnp.asarray(x)
    std = jnp.sqrt(jnp.var(x) + _VARIANCE_EPSILON)
    wins = jax.nn.sigmoid((x[:, None] - x[None, :]) / (temperature * std))  # (B, B)
    return wins.sum(axis=1) + 0.5  # the diagonal adds the other half


def spearman_soft(
    pred: Float[Arrays, " b"], target: Float[Arrays, " b"], temperature: float = 0.3
) -> Float[Array, ""]:
    """Pearson's correlation of the soft ranks of pred and the hard ranks of target.

    In [−1, 1]; 0 if either is constant.
    """
    return _pearson(soft_rank(pred, temperature), hard_rank(target))


def spearman(pred: Float[Arrays, " b"], target: Float[Arrays, " b"]) -> Float[Array, ""]:
    """Spearman's correlation; 0 if either is constant. Has no gradient (it is zero)."""
    return _pearson(hard_rank(pred), hard_rank(target))


def hard_rank(x: Float[Arrays, " b"]) -> Float[Array, " b"]:
    """Ranks 1…B, ties share their mean rank."""
    x = jnp.asarray(x)
    below = (x[:, None] > x[None, :]).sum(axis=1)
    equal = (x[:, None] == x[None, :]).sum(axis=1)
    return below + (equal + 1) / 2


def _pearson(x: Arrays, y: Arrays) -> Array:
    """Pearson's correlation over the last axis; 0, with a finite gradient, on constants."""
    x = x - x.mean(axis=-1, keepdims=True)
    y = y - y.mean(axis=-1, keepdims=True)
    var_x, var_y = jnp.square(x).mean(axis=-1), jnp.square(y).mean(axis=-1)
    scale = jnp.sqrt((var_x + _VARIANCE_EPSILON) * (var_y + _VARIANCE_EPSILON))
    return (x * y).mean(axis=-1) / scale


def _masked_mean(x: Arrays, mask: Arrays) -> Array:
    """Mean of x where mask, 0 if it is nowhere true."""
    return jnp.where(mask, x, 0.0).sum() / jnp.maximum(mask.sum(), 1)


def _check_preset(preset: str) -> None:
    if preset not in ("paper", "release"):
        raise DagrError(f"preset {preset!r} is unknown; use one of paper, release")
