"""Training of the head of the starter model on stored features."""

import dataclasses
from collections.abc import Mapping
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from dagr_jax.layers.correlation import spearman_soft
from dagr_jax.models.contract import Batch, Metrics, Outputs, Tree
from dagr_jax.models.starter.model import Model

# Steepness of the ranking loss: a pair that is 0.05 apart in the right order costs 0.31.
_STEEPNESS = 20.0


@dataclasses.dataclass(frozen=True)
class HeadTask:
    """Training of the head; the backbone does not change.

    The loss is L1 + rank_weight · (1 − soft SRCC) over the videos whose targets are comparable with
    all others, and order_weight · `order_loss` over the pairs of one content.

    A batch holds the features "whole" and "details" (B, T, D), target (B,) float32 in [0, 1],
    content (B,) int32 and relative (B,) bool.

    Attributes:
        model: The model.
        rank_weight: Weight of the soft SRCC.
        order_weight: Weight of the order within contents.
    """

    model: Model
    rank_weight: float = 0.1
    order_weight: float = 0.0

    @property
    def trained(self) -> tuple[str, ...] | None:
        """Names of the top-level modules that are trained."""
        return ("head",)

    def loss(
        self, variables: dict[str, Tree], batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, tuple[Tree, Metrics]]:
        """Returns (loss, (batch_stats, {'l1', 'rank', 'order'})) of one batch in training mode."""
        outputs, new = self.model.apply(
            variables,
            batch,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": key},
        )
        score, target = outputs.score, batch["target"]
        known = ~batch["relative"]
        l1 = jnp.where(known, jnp.abs(score - target), 0).sum() / jnp.maximum(known.sum(), 1)
        rank = 1 - spearman_soft(score, target, mask=known)
        order = order_loss(score, target, batch["content"])
        loss = l1 + self.rank_weight * rank + self.order_weight * order
        stats = {**variables["batch_stats"], **new.get("batch_stats", {})}
        return loss, (stats, {"l1": l1, "rank": rank, "order": order})

    def predict(self, variables: Mapping[str, Tree], batch: Batch) -> Float[Array, " b"]:
        """Returns the scores (B,) of a batch, on the [0, 1] scale of the target, not clipped."""
        return cast(Outputs, self.model.apply(variables, batch, train=False)).score


def order_loss(
    score: Float[Array | np.ndarray, " b"],
    target: Float[Array | np.ndarray, " b"],
    content: Int[Array | np.ndarray, " b"],
) -> Float[Array, ""]:
    """Computes the cost of the wrong order of videos of one content.

    The mean of softplus(−20 · (s_i − s_j) · sign(y_i − y_j)) over all pairs i, j of one content,
    weighted by |y_i − y_j|.

    Args:
        score: s, (B,) predictions.
        target: y, (B,) targets.
        content: (B,) number of the content of each video.

    Returns:
        Scalar; 0 if no content has two videos with different targets.
    """
    score, target, content = map(jnp.asarray, (score, target, content))
    same: Bool[Array, "b b"] = content[:, None] == content
    apart = target[:, None] - target
    cost = jax.nn.softplus(-_STEEPNESS * (score[:, None] - score) * jnp.sign(apart))
    weight = jnp.where(same, jnp.abs(apart), 0)
    return (weight * cost).sum() / jnp.maximum(weight.sum(), 1e-6)
