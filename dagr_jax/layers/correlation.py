"""Differentiable correlations of predictions and targets, for losses over a batch.

All are finite, with finite gradients, on constant input, because every root and every quotient
contains a small constant.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

# Array types of the arguments. The functions return JAX arrays.
Arrays = Array | np.ndarray

# For variances of ranks, predictions and maps in [0, 1]: far below any variance with information.
_VARIANCE_EPSILON = 1e-12


def soft_rank(
    x: Float[Arrays, " b"], temperature: float = 0.3, mask: Bool[Arrays, " b"] | None = None
) -> Float[Array, " b"]:
    """Computes differentiable ranks: 1 + Σ_{j≠i} sigmoid((x_i − x_j) / (temperature · std(x))).

    The ranks do not change with a shift or positive scale of x. As the temperature goes to 0, they
    become the ranks 1…B (ties get their mean rank); as it goes to infinity, a linear function of x.
    With the default, soft and hard ranks of normally distributed x correlate at 0.99, and a wrongly
    ordered pair three standard deviations apart still has a gradient. Constant x gives equal ranks.

    Args:
        x: (B,) values.
        temperature: Width of the sigmoid, in standard deviations of x.
        mask: (B,) bool, False for values that do not count; None: all count.

    Returns:
        (B,) soft ranks among the values that count.
    """
    x = jnp.asarray(x)
    std = jnp.sqrt(jnp.var(x, where=mask) + _VARIANCE_EPSILON)
    wins = jax.nn.sigmoid((x[:, None] - x[None, :]) / (temperature * std))  # (B, B)
    return wins.sum(axis=1, where=mask) + 0.5  # the diagonal adds the other half


def spearman_soft(
    pred: Float[Arrays, " b"],
    target: Float[Arrays, " b"],
    temperature: float = 0.3,
    mask: Bool[Arrays, " b"] | None = None,
) -> Float[Array, ""]:
    """Computes Pearson's correlation of the soft ranks of both sides.

    Its maximum, 1, is at predictions that equal the targets up to shift and scale. Hard ranks of
    the targets would pull such predictions away from them, towards equal distances.

    Args:
        pred: (B,) predictions.
        target: (B,) targets.
        temperature: Temperature of the soft ranks (see `soft_rank`).
        mask: (B,) bool, False for videos that do not count; None: all count.

    Returns:
        Scalar in [−1, 1]; 0 if the predictions or the targets are constant.
    """
    wide = jnp.asarray(target, jnp.result_type(pred, target))
    return pearson(soft_rank(pred, temperature, mask), soft_rank(wide, temperature, mask), mask)


def spearman(pred: Float[Arrays, " b"], target: Float[Arrays, " b"]) -> Float[Array, ""]:
    """Computes the SRCC; 0 if one of the inputs is constant. Its gradient is zero.

    Args:
        pred: (B,) predictions.
        target: (B,) targets.
    """
    return pearson(hard_rank(pred), hard_rank(target))


def hard_rank(x: Float[Arrays, " b"]) -> Float[Array, " b"]:
    """Computes the ranks 1…B of (B,) values. Ties get their mean rank."""
    x = jnp.asarray(x)
    below = (x[:, None] > x[None, :]).sum(axis=1)
    equal = (x[:, None] == x[None, :]).sum(axis=1)
    return below + (equal + 1) / 2


def pearson(
    x: Float[Arrays, "*b n"],
    y: Float[Arrays, "*b n"],
    mask: Bool[Arrays, "*b n"] | None = None,
) -> Float[Array, "*b"]:
    """Computes Pearson's correlation over the last axis.

    It is 0, with a finite gradient, if an input is constant.

    Args:
        x: (..., N) values.
        y: (..., N) values.
        mask: (..., N) bool, False for pairs that do not count; None: all count.

    Returns:
        (...) in [−1, 1].
    """
    x, y = jnp.asarray(x), jnp.asarray(y)
    x = x - x.mean(axis=-1, keepdims=True, where=mask)
    y = y - y.mean(axis=-1, keepdims=True, where=mask)
    var_x, var_y = (jnp.square(one).mean(axis=-1, where=mask) for one in (x, y))
    scale = jnp.sqrt((var_x + _VARIANCE_EPSILON) * (var_y + _VARIANCE_EPSILON))
    return (x * y).mean(axis=-1, where=mask) / scale
