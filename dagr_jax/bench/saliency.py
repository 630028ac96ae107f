"""`dagr bench saliency`: a window of the saliency network, beside PyTorch's where that is."""

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
# GFLOP of that window with the paper's sizes: no tap beyond the ends, upsampled halves mixed where
# they are small.
NEEDED = 1380.0


def measure(rounds: int = 5, model_args: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Logits of one window in eval mode, by our forms and PyTorch's.

    Args:
        rounds: Timed rounds, after one that is not.
        model_args: Fields of `unet3d.Model`; none for the paper's.

    Returns:
        The first of `inference.compare`, and the ratio of our float32 to its plain form,
        `saliency_float32/taps`. On an accelerator all forms are tried in both types.

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
