"""`dagr bench scaling`: scoring time by resolution, frames, batch size and devices."""

import json
import os
import statistics
import sys
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dagr_jax.bench.sides import dtypes, random_variables
from dagr_jax.bench.timing import alternate, fresh_process, row
from dagr_jax.models import dagr
from dagr_jax.runtime.machine import machine
from dagr_jax.train.mesh import jit_predict, make_mesh, put_batch, replicate

# (videos, frames, height, width). The others are compared with the first.
SHAPES = {
    "8 frames of 224 x 398": (1, 8, 224, 398),
    "112 x 199": (1, 8, 112, 199),
    "336 x 597": (1, 8, 336, 597),
    "4 frames": (1, 4, 224, 398),
    "16 frames": (1, 16, 224, 398),
    "batch of 2": (2, 8, 224, 398),
    "batch of 4": (4, 8, 224, 398),
}
DEVICES = (1, 2, 4, 8)
# A small model and one small video per device, because simulated devices share the cores.
SMALL: dict[str, Any] = {
    "saliency": {"widths": (8, 16, 32, 64), "bottleneck": 64},
    "vqa": {"stage_sizes": (1, 1, 1), "width": 16, "projection_dim": 128},
}
SMALL_VIDEO = (8, 112, 199)


def measure(rounds: int = 3, model_args: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Times scoring in eval mode: float32 on a CPU, bfloat16 on accelerators, random weights.

    On a CPU the devices are simulated, in a new process for each number of devices. They share the
    cores, so the time per video shows only the overhead of more devices, not a speedup.

    Args:
        rounds: Number of timed rounds, after one warm-up round.
        model_args: Fields of `dagr.Model`; None: the paper's.

    Returns:
        "machine", "rows", and "ratios": time per pixel relative to the first shape,
        `scaling_<shape>/first`, and time per video with n devices relative to one device,
        `devices_<n>/1`; 1 is ideal.
    """
    model = dagr.Model(**{"saliency": {}, "vqa": {}, **(model_args or {})}, dtype=dtypes()[-1])
    variables = jax.device_put(random_variables(model, jnp.zeros((1, 2, 32, 32, 3))))
    apply = jax.jit(model.apply)

    def side(shape: tuple[int, ...]) -> Callable[[], Any]:
        frames = jax.device_put(np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8))
        return lambda: jax.block_until_ready(apply(variables, frames))

    seconds = alternate({name: side(shape) for name, shape in SHAPES.items()}, rounds)
    first, *others = SHAPES
    rows = [row(f"scaling {name}", times) for name, times in seconds.items()]
    ratios = {}
    for name in others:
        pixels = np.prod(SHAPES[name]) / np.prod(SHAPES[first])
        cost = statistics.median(
            a / b / pixels for a, b in zip(seconds[name], seconds[first], strict=True)
        )
        ratios[f"scaling_{name.replace(' ', '_')}/first"] = round(float(cost), 4)
    times = {count: _on_devices(count, rounds) for count in _counts()}
    for count, its in times.items():
        each = [second / count for second in its]
        rows.append(row(f"scaling {count} devices, a video", each))
        if count > 1:
            # These were not measured in alternation, so compare the fastest times, not rounds.
            ratios[f"devices_{count}/1"] = round(min(each) / min(times[1]), 4)
    return {"machine": machine(), "rows": rows, "ratios": ratios}


def _counts() -> list[int]:
    if jax.default_backend() == "cpu":
        return list(DEVICES)
    return [count for count in DEVICES if count <= jax.device_count()]


def _on_devices(count: int, rounds: int) -> list[float]:
    """Runs `weak_scaling` on `count` devices, which are simulated on a CPU."""
    if jax.default_backend() != "cpu":
        return weak_scaling(count, rounds)
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={count}"
    environment = {**os.environ, "XLA_FLAGS": flags.strip(), "JAX_PLATFORMS": "cpu"}
    arguments = ["-m", "dagr_jax.bench.scaling", str(count), str(rounds)]
    return json.loads(fresh_process(arguments, environment))


def weak_scaling(count: int, rounds: int) -> list[float]:
    """Times a batch with one video per device.

    Args:
        count: Number of devices.
        rounds: Number of timed rounds.

    Returns:
        Seconds of each round.
    """
    mesh = make_mesh(jax.devices()[:count])
    model: Any = dagr.Model(**SMALL)
    variables = replicate(random_variables(model, jnp.zeros((1, 2, 32, 32, 3))), mesh)
    frames = np.random.default_rng(0).integers(0, 256, (count, *SMALL_VIDEO, 3), np.uint8)
    batch = put_batch({"frames": frames}, mesh)
    predict = jit_predict(lambda v, batch: model.apply(v, batch["frames"]).score, mesh)
    return alternate({"": lambda: jax.block_until_ready(predict(variables, batch))}, rounds)[""]


if __name__ == "__main__":
    print(json.dumps(weak_scaling(int(sys.argv[1]), int(sys.argv[2]))))
