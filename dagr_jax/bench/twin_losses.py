"""Losses of the PyTorch twin (`bench.twin`), which equal those of `models.dagr.losses`."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

# `dagr_jax.models.dagr.losses` explains these constants.
_KL_EPSILON = 1e-4
_RELEASE_EPSILON = 1e-6
_VARIANCE_EPSILON = 1e-12


def saliency_loss(
    logits: Float[Tensor, "b t h w"],
    target: Float[Tensor, "b t h w"],
    preset: str = "paper",
    gamma: float = 0.01,
) -> Float[Tensor, ""]:
    """γ·KL + CC after sigmoid and min-max over the batch (docs/reference.md, sections 2 and 6).

    The target is a density in [0, 1]. 'paper' averages over the maps that are not all-zero.
    """
    check_preset(preset)
    s = logits.sigmoid()
    low, high = s.aminmax()
    s = (s - low) / torch.where(high > low, high - low, 1.0)
    if preset == "release":
        return gamma * release_kl(s, target) + release_cc(s, target).mean()
    s, target = s.flatten(2), target.flatten(2)  # (B, T, H*W)
    total = target.sum(dim=2, keepdim=True)
    p = target / torch.where(total > 0, total, 1.0)
    q = s + _KL_EPSILON
    q = q / q.sum(dim=2, keepdim=True)
    kl = (torch.xlogy(p, p) - p * q.log()).sum(dim=2)
    shown = total.squeeze(2) > 0
    return ((gamma * kl - _pearson(s, target)) * shown).sum() / shown.sum().clamp(min=1)


def release_kl(
    pred: Float[Tensor, "b t h w"], target: Float[Tensor, "b t h w"]
) -> Float[Tensor, ""]:
    """KL of the release: softmax over time at every pixel, summed, divided by the batch size."""
    return F.kl_div(pred.log_softmax(dim=1), target.softmax(dim=1), reduction="batchmean")


def release_cc(
    pred: Float[Tensor, "b t h w"], target: Float[Tensor, "b t h w"]
) -> Float[Tensor, "b w"]:
    """CC of the release: −Pearson over time and height, one value per image column."""
    x = pred - pred.mean(dim=(1, 2), keepdim=True)
    y = target - target.mean(dim=(1, 2), keepdim=True)
    norm_x = (x.square().sum(dim=(1, 2)) + _RELEASE_EPSILON).sqrt()
    norm_y = (y.square().sum(dim=(1, 2)) + _RELEASE_EPSILON).sqrt()
    return -(x * y).sum(dim=(1, 2)) / (norm_x * norm_y + _RELEASE_EPSILON)


def quality_loss(
    prediction: Float[Tensor, " b"],
    target: Float[Tensor, " b"],
    preset: str = "paper",
    weight: float = 0.1,
    temperature: float = 0.3,
) -> Float[Tensor, ""]:
    """L1 + weight·(1 − Spearman) of values in [0, 1] (docs/reference.md, sections 3 and 6).

    The ranks are soft (`temperature`) in 'paper', hard in 'release' (no gradient).
    """
    check_preset(preset)
    both = prediction, target
    ranks = [_soft_rank(x, temperature) if preset == "paper" else _hard_rank(x) for x in both]
    return F.l1_loss(prediction, target) + weight * (1 - _pearson(*ranks))


def _soft_rank(x: Tensor, temperature: float) -> Tensor:
    """Returns differentiable ranks: 1 + Σ_{j≠i} sigmoid((x_i − x_j) / (temperature · std(x)))."""
    std = (x.var(correction=0) + _VARIANCE_EPSILON).sqrt()
    wins = ((x[:, None] - x) / (temperature * std)).sigmoid()  # (B, B)
    return wins.sum(dim=1) + 0.5


def _hard_rank(x: Tensor) -> Tensor:
    """Returns ranks 1…B; ties get their mean rank."""
    below = (x[:, None] > x).sum(dim=1).to(x.dtype)
    equal = (x[:, None] == x).sum(dim=1).to(x.dtype)
    return below + (equal + 1) / 2


def _pearson(x: Tensor, y: Tensor) -> Tensor:
    """Pearson's correlation over the last axis; 0 if either is constant."""
    x = x - x.mean(dim=-1, keepdim=True)
    y = y - y.mean(dim=-1, keepdim=True)
    var_x, var_y = x.square().mean(dim=-1), y.square().mean(dim=-1)
    scale = ((var_x + _VARIANCE_EPSILON) * (var_y + _VARIANCE_EPSILON)).sqrt()
    return (x * y).mean(dim=-1) / scale


def check_preset(preset: str) -> None:
    if preset not in ("paper", "release"):
        raise ValueError(f"preset {preset!r} is unknown; use one of paper, release")
