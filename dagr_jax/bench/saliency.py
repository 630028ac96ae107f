"""`dagr bench saliency`: a window of the saliency network, beside PyTorch's where that is."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dagr_jax.bench.sides import random_variables, torch_device, torch_net
from dagr_jax.bench.timing import alternate, machine, matmul_peak, ratio, row
from dagr_jax.models import unet3d

WINDOW = (8, 224, 398)


def measure(rounds: int = 5, model_args: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Logits of one window in eval mode, by every form on both sides, with the same weights.

    Args:
        rounds: Timed rounds, after one that is not.
        model_args: Fields of `unet3d.Model`; none for the paper's.

    Returns:
        "machine", "rows" with the arithmetic that XLA counts and its rate, and "ratios" ours /
        PyTorch (below 1 is faster), keyed `saliency_<our dtype>/<their dtype>`. Without PyTorch
        the ratios are against our plain form, `saliency_float32/taps`.

    Raises:
        RuntimeError: Our float32 logits and PyTorch's differ by more than 1e-4 of their range.
    """
    model = unet3d.Model(preset="release", **(model_args or {}))
    video = np.random.default_rng(0).uniform(0, 1, (1, *WINDOW, 3)).astype(np.float32)
    variables = random_variables(model, jnp.zeros((1, 2, 16, 16, 3)))
    ours: dict[str, Callable[[], Any]] = {}
    gflop: dict[str, float] = {}
    for name, form, dtype in (
        ("float32", "auto", "float32"),
        ("float32 taps", "taps", "float32"),
        ("bfloat16", "auto", "bfloat16"),
    ):
        apply = jax.jit(model.clone(conv_form=form, dtype=dtype).apply)
        compiled = apply.lower(variables, video).compile()
        costs = compiled.cost_analysis()
        gflop[name] = costs["flops"] / 1e9 if costs else float("nan")
        # The weights lie on the device before the clock starts.
        there = jax.device_put((variables, video))
        ours[name] = functools.partial(_run, compiled, *there)
    theirs = _torch_sides(model, variables, video)
    if theirs:
        logits, wanted = np.asarray(ours["float32"]()), theirs["float32"]()
        off = np.abs(logits - wanted).max() / np.ptp(wanted)
        if off > 1e-4:
            raise RuntimeError(f"logits differ from PyTorch's by {off:.1e} of their range")
    sides = {**ours, **{f"torch {name}": side for name, side in theirs.items()}}
    seconds = alternate(sides, rounds)
    rows = []
    for name, times in seconds.items():
        work = gflop.get(name)
        done = {} if work is None else {"gflop": round(work, 3)}
        told = row(f"saliency {name}", times, **done)
        if work is not None:
            told["gflop_per_s"] = round(work / told["median_s"], 1)
        rows.append(told)
    rows.append({"what": "matrix product, float32", "gflop_per_s": matmul_peak("float32")})
    ratios = {
        f"saliency_float32/{name}": ratio(seconds["float32"], seconds[f"torch {name}"])
        for name in theirs
    }
    ratios |= {
        f"saliency_bfloat16/{name}": ratio(seconds["bfloat16"], seconds[f"torch {name}"])
        for name in theirs
    }
    ratios["saliency_float32/taps"] = ratio(seconds["float32"], seconds["float32 taps"])
    return {"machine": machine(), "rows": rows, "ratios": ratios}


def _run(compiled: Any, variables: Any, video: Any) -> Any:
    return jax.block_until_ready(compiled(variables, video))


def _torch_sides(
    model: unet3d.Model, variables: dict[str, Any], video: np.ndarray
) -> dict[str, Callable[[], np.ndarray]]:
    """PyTorch's forms of the same network; {} where it is not installed."""
    device = torch_device()
    if not device:
        return {}
    import torch

    frames = torch.from_numpy(video).permute(0, 1, 4, 2, 3).contiguous().to(device)

    def side(half: bool) -> Callable[[], np.ndarray]:
        net = torch_net("unet3d", model, variables, channels_last=half).eval()

        def run() -> np.ndarray:
            with torch.no_grad(), torch.autocast(device, torch.bfloat16, enabled=half):
                return net(frames).float().cpu().numpy()

        return run

    return {"float32": side(False), "bfloat16": side(True)}
