"""Speed of one network in eval mode, in several forms of ours and of PyTorch, same weights."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from dagr_jax.bench.sides import precision, torch_device, torch_net, torch_tf32
from dagr_jax.bench.timing import alternate, matmul_peak, ratios, row
from dagr_jax.runtime.machine import machine


def compare(
    what: str,
    kind: str,
    forms: Mapping[str, Any],
    variables: Mapping[str, Any],
    video: np.ndarray,
    rounds: int,
    needed: float | None = None,
) -> tuple[dict[str, Any], dict[str, list[float]]]:
    """Times forms of a network against PyTorch's float32, bfloat16 and compiled bfloat16.

    With float32, TF32 is off on both sides.

    Args:
        what: Name of the measurement.
        kind: "unet3d" or "vqa".
        forms: {name: our module}; ratios are computed for "float32" and "bfloat16".
        variables: Variables of all forms.
        video: (B, T, H, W, 3) float32 input.
        rounds: Number of timed rounds, after one warm-up round.
        needed: Minimum number of GFLOP of the network, if known. The share of the matrix peak is
            computed from it, else from the FLOP that XLA counts.

    Returns:
        A result and the seconds of every side. The result has "machine"; "rows" with the FLOP that
        XLA counts, the FLOP rate, and its share of this machine's rate for a matrix product of the
        same type; and "ratios" ours / PyTorch (below 1 is faster), with the keys
        `<what>_<our dtype>/<their form>`.

    Raises:
        RuntimeError: Our float32 output and PyTorch's differ by more than 1e-4 of their range (of
            their value, if the output is one number).
    """
    ours: dict[str, Callable[[], Any]] = {}
    gflop: dict[str, float] = {}
    for name, model in forms.items():
        with precision(np.dtype(model.dtype).name):
            compiled = jax.jit(model.apply).lower(variables, video).compile()
        costs = compiled.cost_analysis()
        gflop[name] = costs["flops"] / 1e9 if costs else float("nan")
        # The weights are on the device before the timing starts.
        there = jax.device_put((variables, video))
        ours[name] = functools.partial(_run, compiled, *there)
    theirs, failures = _torch_sides(kind, forms["float32"], variables, video)
    if theirs:
        output, wanted = np.asarray(ours["float32"]()), theirs["float32"]()
        spread = np.ptp(wanted) if wanted.size > 1 else np.abs(wanted).max()
        off = np.abs(output - wanted.reshape(output.shape)).max() / spread
        if off > 1e-4:
            raise RuntimeError(f"{what}: differs from PyTorch's by {off:.1e} of its range")
    seconds = alternate({**ours, **{f"torch {name}": s for name, s in theirs.items()}}, rounds)
    peaks = {dtype: matmul_peak(dtype) for dtype in ("float32", "bfloat16")}
    rows = []
    for name, times in seconds.items():
        told = row(f"{what} {name}", times)
        if name in ours:
            told["gflop"] = round(gflop[name], 3)
            told["gflop_per_s"] = round(gflop[name] / told["median_s"], 1)
            peak = peaks[np.dtype(forms[name].dtype).name]
            told["of_peak"] = round((needed or gflop[name]) / told["median_s"] / peak, 3)
        rows.append(told)
    rows += [{"what": f"{what} torch {name}", "error": why} for name, why in failures.items()]
    rows += [
        {"what": f"matrix product, {dtype}", "gflop_per_s": peak} for dtype, peak in peaks.items()
    ]
    found = ratios(what, seconds, ("float32", "bfloat16"))
    return {"machine": machine(), "rows": rows, "ratios": found}, seconds


def _run(compiled: Any, variables: Any, video: Any) -> Any:
    return jax.block_until_ready(compiled(variables, video))


def _torch_sides(
    kind: str, model: Any, variables: Mapping[str, Any], video: np.ndarray
) -> tuple[dict[str, Callable[[], np.ndarray]], dict[str, str]]:
    """Returns PyTorch's forms, and {form: reason} of forms that do not run; empty without torch."""
    device = torch_device()
    if not device:
        return {}, {}
    import torch

    # Inputs: saliency network (B, T, 3, H, W), quality network (B, 3, T, H, W).
    axes = (0, 1, 4, 2, 3) if kind == "unet3d" else (0, 4, 1, 2, 3)
    frames = torch.from_numpy(video).permute(axes).contiguous().to(device)

    def side(half: bool, compiled: bool = False) -> Callable[[], np.ndarray]:
        net = torch_net(kind, model, variables, channels_last=half).eval()
        if compiled:
            net = torch.compile(net)

        def run() -> np.ndarray:
            torch_tf32(False)
            with torch.no_grad(), torch.autocast(device, torch.bfloat16, enabled=half):
                return net(frames).float().cpu().numpy()

        return run

    sides = {"float32": side(False), "bfloat16": side(True)}
    try:
        compiled = side(True, compiled=True)
        compiled()
    except Exception as error:  # torch.compile can raise any exception
        return sides, {"bfloat16 compiled": str(error).strip().partition("\n")[0][:120]}
    return {**sides, "bfloat16 compiled": compiled}, {}
