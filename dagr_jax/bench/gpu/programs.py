"""Our measured programs. Each is described by plain data, so that it can be built again."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dagr_jax.bench.gpu.plan import Sizes
from dagr_jax.bench.gpu.timing import Side, program_facts
from dagr_jax.bench.sides import precision, random_variables
from dagr_jax.models import dagr
from dagr_jax.models.dagr import quality_net, unet3d
from dagr_jax.models.dagr.tasks import QualityTask, SaliencyTask
from dagr_jax.train.mesh import jit_train_step, make_mesh, put_batch, replicate
from dagr_jax.train.state import create_state
from dagr_jax.train.steps import make_train_step

_RATE = 1e-5


@dataclasses.dataclass(frozen=True)
class Spec:
    """Description of a program.

    Attributes:
        kind: "saliency" (logits of windows), "quality" (scores of fused frames), "model" (scores
            of frames), "train saliency" or "train quality" (a training step).
        dtype: "float32" (TF32 off), "tf32" (float32 with TF32 products) or "bfloat16".
        form: Form of the saliency network's convolutions (`conv_form`).
        batch: Batch size in videos.
        remat: Field `remat` of the saliency network, in training.
    """

    kind: str
    dtype: str
    form: str = "auto"
    batch: int = 1
    remat: str = "none"

    @property
    def name(self) -> str:
        """Name of the program, unique among the sides of a measurement."""
        words = [self.kind, self.dtype]
        if self.kind not in ("quality", "train quality"):
            words.append(self.form)
        if self.remat != "none":
            words.append(f"remat {self.remat}")
        return f"{' '.join(words)}, batch {self.batch}"


def accelerated() -> bool:
    """Returns whether JAX uses a device other than a CPU."""
    return jax.default_backend() != "cpu"


def dtypes() -> tuple[str, ...]:
    """Returns the types to measure on this device, fastest first. Only GPUs have TF32."""
    return ("bfloat16", "tf32", "float32") if accelerated() else ("float32", "bfloat16")


def stored(dtype: str) -> str:
    """Returns the `dtype` field of the networks for a measured type."""
    return "bfloat16" if dtype == "bfloat16" else "float32"


def build(spec: Spec, sizes: Sizes) -> Side:
    """Compiles a program and puts its arguments on the device.

    Args:
        spec: Description of the program.
        sizes: Sizes of the networks and inputs.
    """
    kind = spec.kind.removeprefix("train ")
    facts: dict[str, Any] = {"program": dataclasses.asdict(spec), "dtype": spec.dtype}
    with precision(spec.dtype):
        if spec.kind.startswith("train "):
            return _training_side(spec, sizes, facts)
        model, variables = network(kind, sizes)
        model = _formed(model, spec)
        video = jax.device_put(inputs(kind, spec.batch, sizes))
        compiled = jax.jit(functools.partial(_values, model)).lower(variables, video).compile()
    if kind == "saliency" and sizes.saliency_gflop:
        facts["needed_gflop"] = spec.batch * sizes.saliency_gflop
    return Side.of_program(compiled, (variables, video), facts)


def _values(model: Any, variables: Any, video: Any) -> Any:
    """Logits or scores."""
    values = model.apply(variables, video)
    return values.score if isinstance(model, dagr.Model) else values


@functools.lru_cache(maxsize=4)
def _network(kind: str, key: str) -> tuple[Any, Any]:
    sizes = _SIZES[key]
    frames = jnp.zeros((1, 2, 32, 32, 3))
    model: Any
    if kind == "saliency":
        model = unet3d.Model(**sizes.saliency)
    elif kind == "quality":
        model = quality_net.Model(**sizes.quality)
    else:
        model = dagr.Model(dict(sizes.saliency), dict(sizes.quality))
    return model, jax.device_put(random_variables(model, frames))


_SIZES: dict[str, Sizes] = {}


def network(kind: str, sizes: Sizes) -> tuple[Any, Any]:
    """Returns the float32 network of a kind, and random variables on the device.

    Args:
        kind: "saliency", "quality" or "model".
        sizes: Sizes of the network.
    """
    key = repr(sizes)
    _SIZES[key] = sizes
    return _network(kind, key)


def inputs(kind: str, batch: int, sizes: Sizes) -> np.ndarray:
    """Makes a batch of random frames.

    Args:
        kind: "saliency", "quality" or "model".
        batch: Batch size in videos.
        sizes: Sizes of the inputs.

    Returns:
        (B, T, H, W, 3), uint8 for "model", else float32 in [0, 1].
    """
    shape = (batch, sizes.frames, sizes.height, sizes.width, 3)
    rng = np.random.default_rng(0)
    if kind == "model":
        return rng.integers(0, 256, shape, np.uint8)
    return rng.uniform(0, 1, shape).astype(np.float32)


def training_batch(batch: int, sizes: Sizes) -> dict[str, np.ndarray]:
    """Makes random frames, maps and targets of a training step, in the format of the loader.

    Args:
        batch: Batch size in videos.
        sizes: Sizes of the inputs.
    """
    rng = np.random.default_rng(0)
    shape = (batch, sizes.frames, sizes.height, sizes.width)
    return {
        "frames": rng.integers(0, 256, (*shape, 3), np.uint8),
        "maps": rng.integers(0, 256, shape, np.uint8),
        "target": rng.uniform(0, 1, batch).astype(np.float32),
        "index": np.arange(batch, dtype=np.int32),
    }


def _formed(model: Any, spec: Spec) -> Any:
    """Returns the network with the dtype, form and remat of a spec."""
    dtype = stored(spec.dtype)
    if isinstance(model, unet3d.Model):
        return model.clone(dtype=dtype, conv_form=spec.form, remat=spec.remat)
    if isinstance(model, quality_net.Model):
        return model.clone(dtype=dtype)
    saliency = model.saliency.clone(dtype=dtype, conv_form=spec.form)
    return model.clone(saliency=saliency, vqa=model.vqa.clone(dtype=dtype), dtype=dtype)


def _training_side(spec: Spec, sizes: Sizes, facts: dict[str, Any]) -> Side:
    """Makes a training step: forward pass, loss, gradient, Adam update; the state is donated."""
    task: Any
    if spec.kind == "train saliency":
        model, variables = network("saliency", sizes)
        task = SaliencyTask(_formed(model, spec))
    else:
        net, own = network("quality", sizes)
        # Without dropout, both sides compute the same.
        net = _formed(net, spec).clone(dropout=0.0)
        task = QualityTask(dagr.Model(None, net, dtype=stored(spec.dtype)))
        variables = {kind: {"vqa": tree} for kind, tree in own.items()}
    mesh = make_mesh(jax.devices()[:1])
    tx = optax.adam(_RATE)
    state = replicate(create_state(variables, tx, task.trained), mesh)
    batch = put_batch(training_batch(spec.batch, sizes), mesh)
    key = replicate(jax.random.key(0), mesh)
    jitted: Any = jit_train_step(make_train_step(task.loss, tx), mesh)
    step = jitted.lower(state, batch, key).compile()

    def run(calls: int) -> float:
        nonlocal state
        for _ in range(calls):
            state, metrics = step(state, batch, key)
        jax.block_until_ready(state)
        return float(metrics["loss"])

    return Side(run, {**facts, **program_facts(step)})
