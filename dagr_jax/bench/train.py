"""`dagr bench train`: a training step of each network, compared with PyTorch if installed."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dagr_jax.bench.sides import (
    dtypes,
    precision,
    random_variables,
    torch_device,
    torch_net,
    torch_tf32,
)
from dagr_jax.bench.timing import alternate, ratios, row
from dagr_jax.models import dagr
from dagr_jax.models.dagr import unet3d
from dagr_jax.models.dagr.tasks import QualityTask, SaliencyTask
from dagr_jax.runtime.machine import machine
from dagr_jax.train.mesh import jit_train_step, make_mesh, put_batch, replicate
from dagr_jax.train.state import create_state
from dagr_jax.train.steps import make_train_step

# (videos, frames, height, width) of a training step.
SALIENCY = (1, 8, 224, 398)
QUALITY = (4, 8, 224, 398)
RATE = 1e-5
Side = Callable[[], float]  # runs a step and returns its loss


def measure(
    rounds: int = 3,
    saliency_args: Mapping[str, Any] | None = None,
    vqa_args: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Times a training step: forward pass, loss, gradient and Adam update of one batch.

    Both sides start from the same weights, with preset 'paper'. There is no augmentation and no
    dropout, so that both sides compute the same. With float32, TF32 is off on both sides. Our
    bfloat16 is measured only on accelerators.

    Args:
        rounds: Number of timed steps of each side; an untimed step runs before each of them.
        saliency_args: Fields of `unet3d.Model`; None: the paper's.
        vqa_args: Fields of `quality_net.Model`; None: the paper's.

    Returns:
        "machine", "rows", and "ratios" ours / PyTorch (below 1 is faster), with the keys
        `train_<network>_<our dtype>/<their dtype>`; no ratios without PyTorch.

    Raises:
        RuntimeError: The first float32 losses have a relative difference above 1e-3.
    """
    rows: list[dict[str, Any]] = []
    found: dict[str, float] = {}
    for name, sides_of, args in (
        ("saliency", _saliency_sides, saliency_args or {}),
        ("vqa", _quality_sides, {"dropout": 0.0, **(vqa_args or {})}),
    ):
        ours, theirs = sides_of(args, dtypes())
        if theirs:
            mine = ours["float32"]()
            other = theirs["float32"]()
            if abs(mine - other) > 1e-3 * abs(other):
                raise RuntimeError(f"losses of the {name} step differ: {mine}, {other}")
        sides = {**ours, **{f"torch {dtype}": side for dtype, side in theirs.items()}}
        seconds = alternate(sides, rounds, warmup=0, steady=True)
        rows += [row(f"train {name} {side}", times) for side, times in seconds.items()]
        found |= ratios(f"train_{name}", seconds, list(ours))
    return {"machine": machine(), "rows": rows, "ratios": found}


def _saliency_sides(
    args: Mapping[str, Any], tried: list[str]
) -> tuple[dict[str, Side], dict[str, Side]]:
    model = unet3d.Model(**args)
    variables = random_variables(model, jnp.zeros((1, 2, 16, 16, 3)))
    batch = _batch(SALIENCY)
    tasks = {dtype: SaliencyTask(model.clone(dtype=dtype)) for dtype in tried}
    ours = {dtype: _our_side(task, variables, batch, dtype) for dtype, task in tasks.items()}
    return ours, _torch_sides("unet3d", model, variables, batch, torch_loss("saliency"))


def _quality_sides(
    args: Mapping[str, Any], tried: list[str]
) -> tuple[dict[str, Side], dict[str, Side]]:
    models = {dtype: dagr.Model(None, args, dtype=dtype) for dtype in tried}
    model = models["float32"]
    example = {"frames": jnp.zeros((1, 2, 32, 32, 3)), "maps": jnp.zeros((1, 2, 32, 32))}
    variables = random_variables(model, example)
    batch = _batch(QUALITY)
    tasks = {dtype: QualityTask(model) for dtype, model in models.items()}
    ours = {dtype: _our_side(task, variables, batch, dtype) for dtype, task in tasks.items()}

    own = {kind: tree["vqa"] for kind, tree in variables.items()}
    loss_of = torch_loss("quality", model.alpha)
    return ours, _torch_sides("vqa", model.vqa, own, batch, loss_of)


def torch_loss(network: str, alpha: float = 0.5) -> Callable[[Any, Any], Any]:
    """Returns a function: (PyTorch's network, batch of tensors) → loss of a training step.

    Args:
        network: "saliency" or "quality".
        alpha: Weight of the saliency in the fused frames of the quality network.
    """

    def saliency(net: Any, batch: Any) -> Any:
        from dagr_jax.bench import twin_losses

        logits = net(batch["frames"].permute(0, 1, 4, 2, 3) / 255)
        return twin_losses.saliency_loss(logits[:, 0].float(), batch["maps"] / 255)

    def quality(net: Any, batch: Any) -> Any:
        from dagr_jax.bench import twin_losses

        frames, maps = batch["frames"] / 255, batch["maps"] / 255
        fused = (1 - alpha) * frames + alpha * frames * maps[..., None]
        scores = net(fused.permute(0, 4, 1, 2, 3))
        return twin_losses.quality_loss(scores.float(), batch["target"])

    return {"saliency": saliency, "quality": quality}[network]


def _batch(shape: tuple[int, int, int, int]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "frames": rng.integers(0, 256, (*shape, 3), np.uint8),
        "maps": rng.integers(0, 256, shape, np.uint8),
        "target": rng.uniform(0, 1, shape[0]).astype(np.float32),
        "index": np.arange(shape[0], dtype=np.int32),
    }


def _our_side(task: Any, variables: Any, batch: Mapping[str, np.ndarray], dtype: str) -> Side:
    mesh = make_mesh(jax.devices()[:1])
    tx = optax.adam(RATE)
    state = replicate(create_state(variables, tx, task.trained), mesh)
    there = put_batch(batch, mesh)
    step = jit_train_step(make_train_step(task.loss, tx), mesh)
    key = replicate(jax.random.key(0), mesh)

    def run() -> float:
        nonlocal state
        with precision(dtype):  # the first call traces the step
            state, metrics = step(state, there, key)
        jax.block_until_ready(state)
        return float(metrics["loss"])

    return run


def _torch_sides(
    kind: str, model: Any, variables: Any, batch: Mapping[str, np.ndarray], loss_of: Any
) -> dict[str, Side]:
    """Returns PyTorch's sides of the step; {} if it is not installed."""
    device = torch_device()
    if not device:
        return {}
    import torch

    there = {key: torch.from_numpy(value).to(device) for key, value in batch.items()}

    def side(half: bool) -> Side:
        net = torch_net(kind, model, variables, channels_last=half).train()
        optimizer = torch.optim.Adam(net.parameters(), lr=RATE)

        def run() -> float:
            torch_tf32(False)
            optimizer.zero_grad()
            with torch.autocast(device, torch.bfloat16, enabled=half):
                loss = loss_of(net, there)
            loss.backward()
            optimizer.step()
            return loss.item()

        return run

    return {"float32": side(False), "bfloat16": side(True)}
