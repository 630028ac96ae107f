"""`dagr bench table4`: the paper's speed table, from file to score, against PyAV and PyTorch.

The paper reports 6.19 s for ten 1080p videos of 240 frames on an RTX A5000. It counts all 2,400
frames, although the model uses only eight per video: 387.7 frames/s.
"""

import functools
import importlib.util
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dagr_jax.bench.sides import (
    dtypes,
    precision,
    random_variables,
    torch_device,
    torch_nets,
    torch_tf32,
)
from dagr_jax.bench.timing import ratios, row
from dagr_jax.models import dagr
from dagr_jax.runtime.machine import machine
from dagr_jax.video.resize import resize_bilinear
from dagr_jax.video.sampling import sample_indices

CLIPS, LENGTH, FRAMES, SIZE = 10, 240, 8, (224, 398)
PAPER = 387.7
Read = Callable[[Path], np.ndarray]  # a clip → its sampled frames (8, 224, 398, 3) uint8


def measure(
    model_args: Mapping[str, Any] | None = None,
    decoded: tuple[int, tuple[int, int]] | None = None,
) -> dict[str, Any]:
    """Times ten clips. Every side scores a clip before the next clip starts. Random weights.

    Our side decodes as the scorer does. The other side decodes in order with PyAV, which chooses
    the number of threads, converts the sampled frames, resizes them as we do and runs the networks
    in PyTorch. Without PyAV, or with `decoded`, both sides start from decoded frames, and the rows
    have no "decoding". With float32, TF32 is off.

    Args:
        model_args: Fields of `dagr.Model`; None: the paper's.
        decoded: (frames, (height, width)) of decoded random clips; None: decode files.

    Returns:
        "machine"; "rows" of the sides and of the parts of our time, where `frames_per_s` counts all
        frames as the paper does, and `looked_at_per_s` counts the frames that the networks see; and
        "ratios" ours / PyTorch (below 1 is faster), with the keys
        `table4_<our dtype>/<their dtype>`.

    Raises:
        RuntimeError: The float32 scores of both sides have a relative difference above 1e-3.
    """
    args = {"saliency": {}, "vqa": {}, **(model_args or {})}
    model = dagr.Model(**args)
    variables = random_variables(model, jnp.zeros((1, 2, 32, 32, 3)))
    tried = dtypes()
    frames, size = decoded or (FRAMES, SIZE)
    with tempfile.TemporaryDirectory() as folder:
        paths, read, read_in_order = _clips(Path(folder), in_memory=decoded is not None)
        in_memory = functools.cache(functools.partial(_random_clip, frames=frames, size=size))
        parts: dict[str, dict[str, list[float]]] = {dtype: {} for dtype in tried}
        sides: dict[str, Callable[[Path], float]] = {
            dtype: _our_side(args, dtype, variables, read, in_memory, parts[dtype])
            for dtype in tried
        }
        sides |= _torch_sides(model, variables, read_in_order or in_memory)
        scores = {name: side(paths[0]) for name, side in sides.items()}
        theirs = scores.get("torch float32", scores["float32"])
        if abs(scores["float32"] - theirs) > 1e-3 * abs(theirs):
            raise RuntimeError(f"scores differ: {scores}")
        for its in parts.values():
            its.clear()
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        for path in paths:
            for name, side in sides.items():
                begin = time.perf_counter()
                side(path)
                seconds[name].append(time.perf_counter() - begin)
    rows = []
    for name, times in seconds.items():
        rate = len(times) / sum(times)
        told = {"frames_per_s": round(rate * LENGTH, 1), "looked_at_per_s": round(rate * frames, 1)}
        rows.append(row(f"table4 {name}", times, **told))
        rows += [
            row(f"  {part}", its, share=round(sum(its) / sum(times), 3))
            for part, its in parts.get(name, {}).items()
        ]
    rows.append({"what": "table4 of the paper, published, another machine", "frames_per_s": PAPER})
    found = ratios("table4", seconds, tried)
    return {"machine": machine(), "rows": rows, "ratios": found}


def _clips(folder: Path, *, in_memory: bool) -> tuple[list[Path], Read | None, Read | None]:
    """Makes the clips; returns their paths, our reader and PyAV's (None: frames in memory)."""
    paths = [folder / f"{number}.mp4" for number in range(CLIPS)]
    if in_memory or importlib.util.find_spec("av") is None:
        return paths, None, None
    from dagr_jax.bench.decode import FPS, write_clip
    from dagr_jax.video.decode import read_clip

    for number, path in enumerate(paths):
        write_clip(path, FPS, seed=number)
    return (
        paths,
        lambda path: read_clip(path, FRAMES, size=SIZE)[0],
        lambda path: read_plainly(path, LENGTH, FRAMES, SIZE),
    )


def read_plainly(path: Path, length: int, count: int, size: tuple[int, int]) -> np.ndarray:
    """Reads the sampled frames of a clip with PyAV: decodes in order, with all threads.

    Args:
        path: Video file.
        length: Number of frames of the clip.
        count: Number of sampled frames.
        size: (height, width) of the result.

    Returns:
        (count, height, width, 3) uint8.
    """
    from dagr_jax.bench.decode import read_in_order

    frames = read_in_order(path, sample_indices(length, count), every=False, threads=0)
    return resize_bilinear(frames, size, antialias=False)


def _score(model: Any, variables: Any, inputs: Mapping[str, Any]) -> Any:
    return model.apply(variables, inputs).score


def _random_clip(path: Path, frames: int, size: tuple[int, int]) -> np.ndarray:
    rng = np.random.default_rng(int(path.stem))
    return rng.integers(0, 256, (frames, *size, 3), np.uint8)


def _our_side(
    args: Mapping[str, Any],
    dtype: str,
    variables: Any,
    read: Read | None,
    in_memory: Read,
    parts: dict[str, list[float]],
) -> Callable[[Path], float]:
    model = dagr.Model(**args, dtype=dtype)
    there = jax.device_put(variables)
    maps_of = jax.jit(lambda v, frames: dagr.saliency_maps(model, v, frames))
    score_of = jax.jit(lambda v, frames, maps: _score(model, v, {"frames": frames, "maps": maps}))

    def timed(part: str, run: Callable[..., Any], *inputs: Any) -> Any:
        begin = time.perf_counter()
        value = jax.block_until_ready(run(*inputs))
        parts.setdefault(part, []).append(time.perf_counter() - begin)
        return value

    def run(path: Path) -> float:
        frames = timed("decoding", read, path) if read else in_memory(path)
        frames = timed("transfer", jax.device_put, frames[None])
        with precision(dtype):
            maps = timed("saliency", maps_of, there, frames)
            return float(timed("vqa", score_of, there, frames, maps)[0])

    return run


def _torch_sides(
    model: dagr.Model, variables: Any, read: Read
) -> dict[str, Callable[[Path], float]]:
    """Returns PyTorch's sides; {} if it is not installed."""
    device = torch_device()
    if not device:
        return {}

    def side(half: bool) -> Callable[[Path], float]:
        saliency, quality = torch_nets(model, variables, channels_last=half)
        score = torch_scorer(saliency, quality, model.alpha, device, half=half)
        return lambda path: score(read(path))

    return {"torch float32": side(False), "torch bfloat16": side(True)}


def torch_scorer(
    saliency: Any, quality: Any, alpha: float, device: str, *, half: bool
) -> Callable[[np.ndarray], float]:
    """Returns a function that scores (T, H, W, 3) uint8 frames in PyTorch, preset 'paper'.

    Args:
        saliency: Twin of the saliency network.
        quality: Twin of the quality network.
        alpha: Weight of the saliency in the fused frames.
        device: PyTorch device.
        half: Whether to use bfloat16 autocast.
    """
    import torch

    forward = torch_forward(saliency, quality, alpha)

    def score(frames: np.ndarray) -> float:
        torch_tf32(False)
        video = torch.from_numpy(frames[None]).to(device)
        with torch.no_grad(), torch.autocast(device, torch.bfloat16, enabled=half):
            return forward(video).item()

    return score


def torch_forward(saliency: Any, quality: Any, alpha: float) -> Callable[[Any], Any]:
    """Returns a function: (B, T, H, W, 3) uint8 tensor → (B,) scores, preset 'paper'.

    Args:
        saliency: Twin of the saliency network.
        quality: Twin of the quality network.
        alpha: Weight of the saliency in the fused frames.
    """

    def forward(frames: Any) -> Any:
        video = frames.float() / 255
        maps = saliency(video.permute(0, 1, 4, 2, 3))[:, 0].float().sigmoid()
        low, high = maps.amin((-2, -1), True), maps.amax((-2, -1), True)
        constant = high - low < 1e-6
        maps = ((maps - low) / (high - low).clamp(min=1e-6)).masked_fill(constant, 1.0)
        fused = (1 - alpha) * video + alpha * video * maps[..., None]
        return quality(fused.permute(0, 4, 1, 2, 3))

    return forward
