"""The same programs in PyTorch (`bench.twin`), with the same weights."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np

from dagr_jax.bench.gpu import programs
from dagr_jax.bench.gpu.plan import Sizes
from dagr_jax.bench.gpu.timing import Side
from dagr_jax.bench.sides import torch_device, torch_net, torch_nets, torch_tf32

# Forms of PyTorch: {name: (type, whether torch.compile is used)}.
FORMS = {
    "float32": ("float32", False),
    "tf32": ("tf32", False),
    "bfloat16": ("bfloat16", False),
    "bfloat16 compiled": ("bfloat16", True),
}


def available() -> bool:
    """Returns whether PyTorch is installed and uses the same kind of device as JAX."""
    return torch_device() == ("cuda" if programs.accelerated() else "cpu")


def forms() -> list[str]:
    """Returns the forms to measure on this device. Only GPUs have TF32."""
    return [name for name in FORMS if programs.accelerated() or name != "tf32"]


def name_of(kind: str, form: str, batch: int) -> str:
    """Returns the name of a side in the results."""
    return f"torch {kind} {form}, batch {batch}"


def build(kind: str, form: str, batch: int, sizes: Sizes) -> Side:
    """Builds a network or a training step in PyTorch.

    Args:
        kind: Kind of program, as in `programs.Spec`.
        form: Name from FORMS. bfloat16 uses autocast and channels last.
        batch: Batch size in videos.
        sizes: Sizes of the network and inputs.
    """
    dtype, compiled = FORMS[form]
    half = dtype == "bfloat16"
    if kind.startswith("train "):
        call = _training(kind.removeprefix("train "), batch, sizes, half, compiled)
    else:
        call = _inference(kind, batch, sizes, half, compiled)
    return _side(call, {"dtype": dtype}, dtype)


def _inference(
    kind: str, batch: int, sizes: Sizes, half: bool, compiled: bool
) -> Callable[[], Any]:
    import torch

    device = torch_device()
    model, variables = programs.network(kind, sizes)
    variables = jax.device_get(variables)
    video = torch.from_numpy(programs.inputs(kind, batch, sizes)).to(device)
    if kind == "model":
        from dagr_jax.bench.table4 import torch_forward

        nets = torch_nets(model, variables, channels_last=half)
        forward = torch_forward(*nets, model.alpha)
        if compiled:
            forward = torch.compile(forward)
        call = partial(forward, video)
    else:
        # Inputs: saliency network (B, T, 3, H, W), quality network (B, 3, T, H, W).
        axes = (0, 1, 4, 2, 3) if kind == "saliency" else (0, 4, 1, 2, 3)
        frames = video.permute(axes).contiguous()
        net = torch_net(_NETS[kind], model, variables, channels_last=half).eval()
        if compiled:
            net = torch.compile(net)
        call = partial(net, frames)

    def run() -> Any:
        with torch.no_grad(), torch.autocast(device, torch.bfloat16, enabled=half):
            return call()

    return run


_NETS = {"saliency": "unet3d", "quality": "vqa"}


def _training(kind: str, batch: int, sizes: Sizes, half: bool, compiled: bool) -> Callable[[], Any]:
    import torch

    from dagr_jax.bench import train

    device = torch_device()
    model, variables = programs.network(kind, sizes)
    variables = jax.device_get(variables)
    if kind == "quality":
        model = model.clone(dropout=0.0)  # as on our side
    net = torch_net(_NETS[kind], model, variables, channels_last=half).train()
    if compiled:
        net = torch.compile(net)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-5)
    loss_of = train.torch_loss(kind)
    there = {
        name: torch.from_numpy(np.asarray(value)).to(device)
        for name, value in programs.training_batch(batch, sizes).items()
    }

    def run() -> Any:
        optimizer.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=half):
            loss = loss_of(net, there)
        loss.backward()
        optimizer.step()
        return loss

    return run


def _side(call: Callable[[], Any], facts: dict[str, Any], dtype: str) -> Side:
    import torch

    cuda = torch_device() == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()

    def run(calls: int) -> Any:
        torch_tf32(dtype == "tf32")  # other sides may have changed this process-wide setting
        for _ in range(calls):
            value = call()
        if cuda:
            torch.cuda.synchronize()
            facts.setdefault("peak_memory_mb", round(torch.cuda.max_memory_allocated() / 2**20, 1))
        return value

    # Memory in PyTorch's cache would not be available to JAX.
    return Side(run, facts, torch.cuda.empty_cache if cuda else lambda: None)
