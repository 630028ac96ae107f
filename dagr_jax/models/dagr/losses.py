"""Training losses of both networks, for both presets (docs/reference.md, sections 2, 3 and 6).

All losses are pure functions. They are differentiable wherever their formula is. On constant input
they and their gradients are finite, because every root and every quotient contains a small
constant. Losses that couple samples (min-max over the batch, rank) are computed over the batch that
they receive: the global batch under jit, the micro-batch with gradient accumulation.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from dagr_jax.layers.correlation import pearson, spearman, spearman_soft
from dagr_jax.runtime.errors import DagrError

# Array types of the arguments. The functions return JAX arrays.
Arrays = Array | np.ndarray

# Added to predicted saliency before it is normalised to sum 1, so that the logarithm is finite. It
# is well below 1/255, the resolution of the ground truth, and bounds the gradient of the logarithm.
_KL_EPSILON = 1e-4
# Constant in the correlation of the release (docs/reference.md, section 2).
_RELEASE_EPSILON = 1e-6


def saliency_loss(
    pred: Float[Arrays, "b t h w"],
    target: Float[Arrays, "b t h w"],
    *,
    preset: str = "paper",
    gamma: float = 0.01,
    mask: Bool[Arrays, " b"] | None = None,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Computes γ·KL + CC of predicted saliency, after sigmoid and min-max over the whole batch.

    With preset 'paper' (eqs. 8–12), the terms are `kl_divergence` and −`pearson_maps`, averaged
    over the maps. Maps with an all-zero target have no saliency to predict and are excluded from
    the average. With preset 'release', the terms are `release_kl` and `release_cc`.

    Args:
        pred: (B, T, H, W) logits.
        target: (B, T, H, W) ground-truth density in [0, 1].
        preset: 'paper' or 'release'.
        gamma: γ, weight of the KL term.
        mask: (B,) bool, False for samples that only pad the batch; None: all samples count.

    Returns:
        The loss and its two terms, {'kl', 'cc'}. 'cc' is negative if the maps agree.

    Raises:
        DagrError: The preset is unknown.
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
    """Computes L1 + weight·(1 − SRCC), eq. 19.

    The preset 'paper' uses `spearman_soft`. The preset 'release' uses the hard `spearman`, which
    has no gradient, so that only the L1 term trains the network.

    Args:
        pred: (B,) predicted scores.
        target: (B,) targets in [0, 1].
        preset: 'paper' or 'release'.
        weight: Weight of the rank term.
        temperature: Temperature of the soft rank (preset 'paper').

    Returns:
        The loss and its two unweighted terms, {'l1', 'rank'}; rank = 1 − SRCC.

    Raises:
        DagrError: The preset is unknown.
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
    """Min-max normalises x to [0, 1], over all valid samples together.

    Args:
        x: (B, T, H, W).
        valid: (B,) bool, False for samples that only pad the batch.

    Returns:
        (B, T, H, W) in [0, 1]; all zeros if the valid samples are constant.
    """
    keep = valid[:, None, None, None]
    low = jnp.where(keep, x, jnp.inf).min()
    span = jnp.where(keep, x, -jnp.inf).max() - low
    # Padding samples may be out of range. They are clipped, so that they cause no harm.
    return jnp.clip((x - low) / jnp.where(span > 0, span, 1.0), 0.0, 1.0)


def kl_divergence(
    pred: Float[Arrays, "*b h w"], target: Float[Arrays, "*b h w"]
) -> Float[Array, "*b"]:
    """Computes KL(S ‖ Ŝ) = Σ S log(S / Ŝ) of each map, with S and Ŝ normalised to sum 1 (eq. 10).

    1e-4 is added to Ŝ before it is normalised; 0·log 0 = 0; an all-zero target gives 0.

    Args:
        pred: Ŝ, (..., H, W), non-negative.
        target: S, (..., H, W), non-negative.

    Returns:
        (...) one value per map.
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
    """Computes Pearson's correlation (CC) over the pixels of each map (eq. 11).

    Args:
        pred: (..., H, W) predicted maps.
        target: (..., H, W) ground-truth maps.

    Returns:
        (...) in [−1, 1], one value per map; 0 if one of the two maps is constant.
    """
    shape = (*pred.shape[:-2], -1)
    return pearson(jnp.reshape(pred, shape), jnp.reshape(target, shape))


def release_kl(
    pred: Float[Arrays, "b t h w"], target: Float[Arrays, "b t h w"], valid: Bool[Arrays, " b"]
) -> Float[Array, ""]:
    """Computes the KL of the release: softmax over time at every pixel, sum, mean over the batch.

    Args:
        pred: (B, T, H, W) predicted maps.
        target: (B, T, H, W) ground-truth maps.
        valid: (B,) bool, False for samples that only pad the batch.

    Returns:
        Scalar, averaged over the valid samples.
    """
    log_p = jax.nn.log_softmax(target, axis=1)
    log_q = jax.nn.log_softmax(pred, axis=1)
    kl = (jnp.exp(log_p) * (log_p - log_q)).sum(axis=(1, 2, 3))  # (B,)
    return _masked_mean(kl, valid)


def release_cc(
    pred: Float[Arrays, "b t h w"], target: Float[Arrays, "b t h w"]
) -> Float[Array, "b w"]:
    """Computes the CC of the release: −Pearson over time and height, for each image column.

    Args:
        pred: (B, T, H, W) predicted maps.
        target: (B, T, H, W) ground-truth maps.

    Returns:
        (B, W), one value per image column.
    """
    x = pred - pred.mean(axis=(1, 2), keepdims=True)
    y = target - target.mean(axis=(1, 2), keepdims=True)
    norm_x = jnp.sqrt(jnp.square(x).sum(axis=(1, 2)) + _RELEASE_EPSILON)
    norm_y = jnp.sqrt(jnp.square(y).sum(axis=(1, 2)) + _RELEASE_EPSILON)
    return -(x * y).sum(axis=(1, 2)) / (norm_x * norm_y + _RELEASE_EPSILON)


def _masked_mean(x: Arrays, mask: Arrays) -> Array:
    """Computes the mean of x where the mask is True; 0 if the mask is nowhere True."""
    return jnp.where(mask, x, 0.0).sum() / jnp.maximum(mask.sum(), 1)


def _check_preset(preset: str) -> None:
    if preset not in ("paper", "release"):
        raise DagrError(f"preset {preset!r} is unknown; use one of paper, release")
