"""One and many devices give the same numbers, for whole runs of the two real tasks.

Global batch size 8, float64, no dropout, 20 optimizer steps. In float64 only the order of sums
differs, so BatchNorm statistics, losses over the batch and gradients must all be global. Float32 is
compared step by step from the same state, because over many steps Adam turns rounding errors into
sign changes of tiny updates.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dagr_jax.layers.augment import Augment
from dagr_jax.models import dagr
from dagr_jax.models.dagr import unet3d
from dagr_jax.models.dagr.tasks import QualityTask, SaliencyTask
from dagr_jax.train import mesh as meshes
from dagr_jax.train.state import create_state, make_optimizer
from dagr_jax.train.steps import make_train_step

from .tiny import optim

STEPS = 20
UNET = {"widths": (2,), "bottleneck": 3, "num_registers": 2, "register_dim": 3}
VQA = {
    "stage_sizes": (1,),
    "width": 2,
    "num_layers": 1,
    "num_heads": 2,
    "mlp_dim": 8,
    "projection_dim": 8,
    "regressor": (8, 4),
    "dropout": 0.0,
}
AUGMENT = Augment(flip=True, jitter=0.2, crop=(14, 18))
OPTIM = optim(name="adamw", learning_rate=1e-3, weight_decay=0.01, ema=0.9)


@pytest.fixture(scope="module", autouse=True)
def quick_compile():
    """Reduces compilation, which takes most of the time of these tests."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def task_of(name, dtype):
    if name == "saliency":
        # Float32 in the form that users train with; float64 in the form that compiles faster.
        form = "auto" if dtype == "float32" else "native"
        model = unet3d.Model(**UNET, dtype=dtype, conv_form=form)
        return SaliencyTask(model, augment=Augment(flip=True))
    model = dagr.Model(saliency=UNET, vqa=VQA, saliency_size=(8, 8), dtype=dtype)
    return QualityTask(model, augment=AUGMENT)


def batch(name, step):
    rng = np.random.default_rng(step)
    size = (8, 8) if name == "saliency" else (16, 20)
    return {
        "frames": rng.integers(0, 256, (8, 2, *size, 3), np.uint8),
        "maps": rng.integers(0, 256, (8, 2, 8, 8), np.uint8),
        "target": rng.uniform(0, 1, 8).astype(np.float32),
        "index": rng.permutation(100)[:8].astype(np.int32),
    }


@functools.cache
def start(name, dtype, fill):
    task = task_of(name, dtype)
    variables = fill(task.model, batch(name, 0)["frames"].astype(np.float32))
    variables = jax.tree.map(lambda x: jnp.asarray(x, dtype), variables)
    return create_state(variables, make_optimizer(OPTIM, STEPS), task.trained).with_average()


@functools.cache
def compiled(name, dtype, devices):
    mesh = meshes.make_mesh(jax.devices()[:devices])
    step = make_train_step(task_of(name, dtype).loss, make_optimizer(OPTIM, STEPS), OPTIM.ema)
    return mesh, meshes.jit_train_step(step, mesh)


def run(name, dtype, devices, states):
    """Yields state and metrics after a step from each of `states`; None: from the last state."""
    mesh, step = compiled(name, dtype, devices)
    key, results, state = jax.random.key(0), [], None
    for number, given in enumerate(states):
        state = meshes.replicate(given, mesh) if given is not None else state
        state, metrics = step(state, meshes.put_batch(batch(name, number), mesh), key)
        results.append(jax.device_get((state, metrics)))
    return results


@pytest.mark.slow
@pytest.mark.parametrize("name", ["saliency", "quality"])
def test_twenty_steps_in_float64_agree_on_1_2_and_8_devices(name, fill, eight_devices):
    with jax.enable_x64(True):
        states = [start(name, "float64", fill)] + [None] * (STEPS - 1)
        runs = {n: run(name, "float64", n, states) for n in (1, 2, 8)}
    first, last = jax.device_get(states[0]), runs[1][-1][0]
    moved = [
        np.abs(a - b).max()
        for a, b in zip(*(jax.tree.leaves(s.params) for s in (first, last)), strict=True)
    ]
    assert np.median(moved) > 1e-3  # 20 steps of at most 1e-3
    for devices in (2, 8):
        state = runs[devices][-1][0]
        for part in ("params", "batch_stats", "average"):
            jax.tree.map(
                lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-8),
                getattr(state, part),
                getattr(last, part),
            )
        for (_, ours), (_, theirs) in zip(runs[devices], runs[1], strict=True):
            assert ours["loss"].dtype == np.float64
            assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["saliency", "quality"])
def test_each_step_in_float32_agrees_on_1_2_and_8_devices(name, fill, eight_devices):
    one = run(name, "float32", 1, [start(name, "float32", fill)] + [None] * (STEPS - 1))
    before = [start(name, "float32", fill)] + [state for state, _ in one[:-1]]
    for devices in (2, 8):
        for (ours, metrics), (theirs, wanted) in zip(
            run(name, "float32", devices, before), one, strict=True
        ):
            assert metrics["loss"] == pytest.approx(wanted["loss"], abs=1e-5)
            moments = [optax.tree.get(state.opt_state, "mu") for state in (ours, theirs)]
            jax.tree.map(
                lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-4),
                (ours.batch_stats, moments[0]),
                (theirs.batch_stats, moments[1]),
            )
            # Parameters with a true gradient of 0 (biases before BatchNorm, the bias of attention
            # keys) are left out: their gradient is rounding, and Adam makes a full step of it.
            jax.tree.map(assert_close_where_driven, ours.params, theirs.params, moments[1])


def assert_close_where_driven(ours, theirs, moment):
    driven = np.abs(moment) > 1e-5
    np.testing.assert_allclose(ours[driven], theirs[driven], rtol=0, atol=1e-4)
