"""`dagr bench saliency`: a window of the saliency network, compared with PyTorch if installed."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dagr_jax.bench.inference import compare
from dagr_jax.bench.sides import random_variables
from dagr_jax.bench.timing import ratio
from dagr_jax.models.dagr import unet3d

WINDOW = (8, 224, 398)
# Minimum GFLOP of that window with the paper's sizes: no taps beyond the ends, upsampled halves
# convolved at low resolution.
NEEDED = 1380.0


def measure(rounds: int = 5, model_args: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Times the logits of one window in eval mode, for our forms and PyTorch's.

    On an accelerator, all forms are measured in both types.

    Args:
        rounds: Number of timed rounds, after one warm-up round.
        model_args: Fields of `unet3d.Model`; None: the paper's.

    Returns:
        The result of `inference.compare`. Its "ratios" also have `saliency_float32/taps`, our
        float32 against the form "taps".

    Raises:
        RuntimeError: Our float32 logits and PyTorch's differ by more than 1e-4 of their range.
    """
    model = unet3d.Model(preset="release", **(model_args or {}))
    video = np.random.default_rng(0).uniform(0, 1, (1, *WINDOW, 3)).astype(np.float32)
    variables = random_variables(model, jnp.zeros((1, 2, 16, 16, 3)))
    tried = [("auto", "float32"), ("taps", "float32"), ("auto", "bfloat16")]
    if jax.default_backend() != "cpu":
        tried += [("native", "float32"), ("winograd", "float32")]
        tried += [(form, "bfloat16") for form in ("native", "taps", "winograd")]
    forms = {
        dtype if form == "auto" else f"{dtype} {form}": model.clone(conv_form=form, dtype=dtype)
        for form, dtype in tried
    }
    needed = None if model_args else NEEDED
    result, seconds = compare("saliency", "unet3d", forms, variables, video, rounds, needed)
    result["ratios"]["saliency_float32/taps"] = ratio(seconds["float32"], seconds["float32 taps"])
    return result
