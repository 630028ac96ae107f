"""`dagr bench vqa`: the quality network on fused frames, compared with PyTorch if installed."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from dagr_jax.bench.inference import compare
from dagr_jax.bench.sides import random_variables
from dagr_jax.models.dagr import quality_net

VIDEO = (8, 224, 398)


def measure(rounds: int = 5, model_args: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Times the score of one video in eval mode, for our forms and PyTorch's.

    Args:
        rounds: Number of timed rounds, after one warm-up round.
        model_args: Fields of `quality_net.Model`; None: the paper's.

    Returns:
        The result of `inference.compare`.

    Raises:
        RuntimeError: Our float32 score and PyTorch's differ by more than 1e-4 of it.
    """
    model = quality_net.Model(**(model_args or {}))
    video = np.random.default_rng(0).uniform(0, 1, (1, *VIDEO, 3)).astype(np.float32)
    variables = random_variables(model, jnp.zeros((1, 2, 32, 32, 3)))
    forms = {dtype: model.clone(dtype=dtype) for dtype in ("float32", "bfloat16")}
    return compare("vqa", "vqa", forms, variables, video, rounds)[0]
