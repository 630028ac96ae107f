"""`dagr bench cold`: new processes from start to score, compared with PyTorch if installed."""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from dagr_jax.bench.decode import FPS, LENGTH, write_clip
from dagr_jax.bench.sides import random_variables, torch_device, torch_nets
from dagr_jax.bench.timing import alternate, fresh_process, ratio, row
from dagr_jax.models import dagr
from dagr_jax.runtime.machine import machine
from dagr_jax.train.checkpoints import write_variables
from dagr_jax.train.meta import make_meta
from dagr_jax.video.inputs import InputSpec, Resize, Stream

# The networks of the embedded recipe. Their arithmetic is negligible compared with process start.
FRAMES, SIZE = 8, (224, 398)
ARGS: dict[str, Any] = {
    "saliency": {"widths": (8, 16, 32, 64), "bottleneck": 64},
    "vqa": {
        "stage_sizes": (1, 1, 1),
        "width": 16,
        "mlp_dim": 64,
        "projection_dim": 128,
        "regressor": (64, 32),
    },
}


def measure(rounds: int = 5) -> dict[str, Any]:
    """Times `dagr score` of a 1080p clip with a small checkpoint: first run, later runs, PyTorch.

    The first run on a machine compiles; later runs use the compilation cache. The PyTorch process
    imports, loads the same weights, decodes and scores without compiling (`bench.torch_score`).

    Args:
        rounds: Number of processes of each side; the sides alternate.

    Returns:
        "machine", "rows", and "ratios" ours / PyTorch (below 1 is faster): `cold_float32/float32`
        for the first run and `warm_float32/float32` for later runs.

    Raises:
        RuntimeError: A process failed.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clip = folder / "clip.mp4"
        write_clip(clip, FPS)
        model = dagr.Model(**ARGS)
        variables = random_variables(model, jnp.zeros((1, 2, 32, 32, 3)))
        write_variables(folder / "checkpoint", variables, _meta())
        score = ["-m", "dagr_jax.cli", "score", str(clip), "--checkpoint"]
        score.append(str(folder / "checkpoint"))
        cold, warm = folder / "cold", folder / "warm"

        def first() -> None:
            shutil.rmtree(cold, ignore_errors=True)
            _run(score, cold)

        sides: dict[str, Callable[[], None]] = {"first": first, "later": lambda: _run(score, warm)}
        if torch_device():
            from dagr_jax.bench import torch_score

            saliency, quality = torch_nets(model, variables)
            nets = saliency.cpu(), quality.cpu()
            torch_score.write(folder, ARGS, nets, (LENGTH, FRAMES, *SIZE))
            theirs = ["-m", "dagr_jax.bench.torch_score", str(folder), str(clip)]
            sides["torch"] = lambda: _run(theirs, warm)
        # The untimed warm-up round fills the cache for the later runs.
        seconds = alternate(sides, rounds)
    ratios = {}
    if "torch" in seconds:
        ratios = {
            "cold_float32/float32": ratio(seconds["first"], seconds["torch"]),
            "warm_float32/float32": ratio(seconds["later"], seconds["torch"]),
        }
    rows = [row(f"cold {name}", times) for name, times in seconds.items()]
    return {"machine": machine(), "rows": rows, "ratios": ratios}


def _meta() -> dict[str, Any]:
    return make_meta(
        model="dagr",
        model_args={"alpha": 0.5, "preset": "paper", "dtype": "float32", **ARGS},
        preset="paper",
        dataset="none",
        mos_range=(0.0, 1.0),
        inputs=InputSpec({"frames": Stream("linspace", FRAMES, Resize(SIZE))}).to_json(),
        settings={"window": 0, "choice": "matched", "outside": False},
        config_digest="",
        worker_count=0,
    )


def _run(arguments: list[str], cache: Path) -> None:
    """Runs a new interpreter with its own cache folder and without GLIBC_TUNABLES."""
    ours = ("JAX_COMPILATION_CACHE_DIR", "GLIBC_TUNABLES")
    environment = {key: value for key, value in os.environ.items() if key not in ours}
    environment["XDG_CACHE_HOME"] = str(cache)
    fresh_process(arguments, environment)
