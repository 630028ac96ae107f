"""The two tasks on real, tiny networks."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dagr_jax.layers.augment import Augment
from dagr_jax.models import dagr
from dagr_jax.models.dagr import unet3d
from dagr_jax.models.dagr.losses import saliency_loss
from dagr_jax.models.dagr.tasks import QualityTask, SaliencyTask
from dagr_jax.runtime.errors import DagrError
from dagr_jax.train import mesh as meshes
from dagr_jax.train.state import create_state, make_optimizer
from dagr_jax.train.steps import make_train_step

from .tiny import TinyTask, optim, same_bits, tiny_variables

UNET = {
    "widths": (2,),
    "bottleneck": 2,
    "num_registers": 2,
    "register_dim": 3,
    "conv_form": "native",  # compiles fastest
}
VQA = {
    "head": "spatial",
    "stage_sizes": (1,),
    "width": 4,
    "projection_dim": 8,
    "regressor": (8, 4),
    "dropout": 0.3,
}
DRAWS = [(0, 0), (0, 0), (1, 0), (0, 1)]  # (step, seed)
CONSTANT = optim(schedule="constant", warmup_steps=0)


QUALITY = dagr.Model(saliency=UNET, vqa=VQA, saliency_size=(8, 8))


@pytest.fixture(scope="module", autouse=True)
def quick_compile():
    """Reduces compilation, which takes nearly all of the time of these tests."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def variables(fill):
    return fill(QUALITY, batch()["frames"])


@pytest.fixture(scope="module")
def run_step(variables):
    """(devices, step, seed) → (state before, state after, metrics) on the host."""
    task = QualityTask(QUALITY, augment=Augment(flip=True, jitter=0.2))
    tx = make_optimizer(CONSTANT, 10)

    @functools.cache
    def compiled(mesh):
        return meshes.jit_train_step(make_train_step(task.loss, tx), mesh)

    def run(devices=1, at=0, seed=3):
        mesh = meshes.make_mesh(jax.devices()[:devices])
        state = create_state(variables, tx, task.trained).replace(step=jnp.int32(at))
        state = meshes.replicate(state, mesh)
        before = jax.device_get(state)
        put = meshes.put_batch(batch(), mesh)
        return before, *jax.device_get(compiled(mesh)(state, put, jax.random.key(seed)))

    return run


def batch(size=8):
    rng = np.random.default_rng(1)
    return {
        "frames": rng.integers(0, 256, (size, 2, 16, 16, 3), np.uint8),
        "maps": rng.integers(0, 256, (size, 2, 8, 8), np.uint8),
        "target": rng.uniform(0, 1, size).astype(np.float32),
        "index": np.arange(size, dtype=np.int32),
    }


def test_quality_step_trains_the_quality_network_and_nothing_else(run_step, variables):
    before, after, metrics = run_step()
    assert set(after.params) == set(after.batch_stats) == {"vqa"}
    assert same_bits(before.frozen, after.frozen)
    assert same_bits(after.frozen["params"]["saliency"], variables["params"]["saliency"])
    # Adam's first update moves every parameter with a gradient by the learning rate. Biases before
    # BatchNorm have no gradient, so only weights are checked.
    moved = jax.tree_util.tree_map_with_path(
        lambda path, a, b: "kernel" not in str(path[-1]) or bool((a != b).any()),
        before.params,
        after.params,
    )
    assert jax.tree.all(moved)
    assert not same_bits(before.batch_stats, after.batch_stats)
    assert metrics["loss"] == pytest.approx(metrics["l1"] + 0.1 * metrics["rank"], rel=1e-5)
    complete = after.variables()
    assert jax.tree.structure(complete) == jax.tree.structure(dict(variables))


def saliency_batch():
    data = batch(4)
    frames = data["frames"][:, :, :8, :8]
    return {**data, "frames": frames, "maps": frames[..., 0]}


def test_saliency_steps_learn(fill):
    model = unet3d.Model(**UNET)
    task = SaliencyTask(model, augment=Augment(flip=True))
    variables = fill(model, jnp.zeros((1, 2, 8, 8, 3)))
    tx = make_optimizer(CONSTANT, 10)
    mesh = meshes.make_mesh(jax.devices()[:1])
    step = meshes.jit_train_step(make_train_step(task.loss, tx), mesh)
    data, losses = meshes.put_batch(saliency_batch(), mesh), []
    state = meshes.replicate(create_state(variables, tx, task.trained), mesh)
    for _ in range(40):
        state, metrics = step(state, data, jax.random.key(0))
        metrics = jax.device_get(metrics)
        losses.append(metrics["loss"])
    # The target is the red channel, so copying it gives the minimum of -1.
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.2
    assert metrics["loss"] == pytest.approx(0.01 * metrics["kl"] + metrics["cc"], rel=1e-5)
    maps = jax.jit(task.predict)(state.variables(), data)
    np.testing.assert_array_equal(maps.min(axis=(2, 3)), np.zeros((4, 2)))
    np.testing.assert_allclose(maps.max(axis=(2, 3)), np.ones((4, 2)), atol=1e-6)


def test_the_preset_reaches_the_saliency_loss():
    class Copies(nn.Module):  # logits = red channel
        @nn.compact
        def __call__(self, video, *, train):
            return video[..., 0]

    data = jax.tree.map(jnp.asarray, saliency_batch())
    logits = data["maps"] / 255
    for preset in ("paper", "release"):
        task = SaliencyTask(Copies(), preset=preset, gamma=0.5)
        loss, (stats, _) = jax.jit(task.loss)({"params": {}}, data, jax.random.key(0))
        wanted, _ = saliency_loss(logits, logits, preset=preset, gamma=0.5)
        assert (loss, stats) == (pytest.approx(float(wanted), rel=1e-6), {})


def test_eight_devices_give_the_step_of_one(run_step, eight_devices):
    """BatchNorm statistics and the rank loss are over the global batch."""
    one, eight = run_step(1), run_step(8)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        (one[1].batch_stats, one[2]),
        (eight[1].batch_stats, eight[2]),
    )
    # Compare Adam's first moment, 0.1 of the gradient. The parameters are not compared, because
    # Adam moves them by the full learning rate for any gradient, even for rounding noise.
    mean = [jax.tree.leaves(x[1].opt_state) for x in (one, eight)]
    for a, b in zip(*mean, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


def test_two_accumulated_batches_are_one_of_double_size():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(16, 4)).astype(np.float32), rng.normal(size=16).astype(np.float32)
    task = TinyTask()
    params = []
    for parts, accumulate in (([slice(0, 16)], 1), ([slice(0, 8), slice(8, 16)], 2)):
        # Clipping far below the gradient norm gives the same result only if it acts on the mean.
        config = optim(accumulate=accumulate, warmup_steps=0, clip_norm=0.01)
        tx = make_optimizer(config, 20)
        step = jax.jit(make_train_step(task.loss, tx))
        state = create_state(tiny_variables(), tx, task.trained)
        for part in parts:
            state, _ = step(state, {"x": x[part], "target": y[part]}, jax.random.key(0))
        params.append(state.params)
    # Tolerance for the order of float32 sums; the update itself is 0.02.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=2e-5), *params)


def test_draws_depend_on_the_step_and_the_seed_alone(run_step):
    losses = [float(run_step(at=at, seed=seed)[2]["loss"]) for at, seed in DRAWS]
    assert losses[0] == losses[1]
    assert len(set(losses)) == 3


def test_predict_uses_the_stored_maps_and_without_them_the_network(variables):
    data, task = batch(), QualityTask(QUALITY)
    own = jax.jit(lambda v, x: dagr.saliency_maps(QUALITY, v, x))(variables, data["frames"])
    predict = jax.jit(task.predict)
    stored = predict(variables, {**data, "maps": np.round(np.asarray(own) * 255).astype("u1")})
    whole = predict(variables, {k: v for k, v in data.items() if k != "maps"})
    # Stored maps are rounded to 1/255.
    np.testing.assert_allclose(stored, whole, atol=2e-3)
    assert np.abs(np.asarray(predict(variables, data)) - whole).max() > 2e-3


def test_a_model_without_saliency_needs_no_maps(variables):
    model = dagr.Model(saliency=None, vqa=VQA, alpha=0.0)
    task = QualityTask(model)
    data = {k: v for k, v in batch().items() if k != "maps"}
    part = {k: {"vqa": v["vqa"]} for k, v in variables.items()}
    state = create_state(part, make_optimizer(CONSTANT, 10), task.trained)
    assert state.frozen == {"params": {}, "batch_stats": {}}
    loss, (stats, parts) = jax.jit(task.loss)(state.variables(), data, jax.random.key(0))
    assert loss == pytest.approx(float(parts["l1"] + 0.1 * parts["rank"]), rel=1e-5)
    assert set(stats) == {"vqa"}


def test_the_saliency_network_learns_through_the_fused_frames(variables):
    """Without augmentation: loss of the whole model, and its gradient by finite differences."""
    from dagr_jax.models.dagr.losses import quality_loss

    task = QualityTask(QUALITY, train_saliency=True)
    data = {k: jnp.asarray(v) for k, v in batch().items() if k != "maps"}
    key = jax.random.key(0)

    @jax.jit
    def run(variables):
        return task.loss(variables, data, key)

    def loss(variables):
        return run(variables)[0]

    state = create_state(variables, make_optimizer(CONSTANT, 10), task.trained)
    assert set(state.params) == {"saliency", "vqa"} and not state.frozen["params"]
    _, (stats, _) = run(variables)
    assert same_bits(stats["saliency"], variables["batch_stats"]["saliency"])  # as they are

    # What the task computes, put together by hand, dropout by the same key.
    @jax.jit
    def parts(variables):
        maps = dagr.saliency_maps(QUALITY, variables, data["frames"])
        inputs = {"frames": data["frames"], "maps": maps}
        rngs = {"dropout": jax.random.split(key)[1]}
        return QUALITY.apply(variables, inputs, train=True, mutable=["batch_stats"], rngs=rngs)

    outputs, _ = parts(variables)
    by_hand, _ = quality_loss(outputs.score, data["target"], preset="paper", weight=0.1)
    np.testing.assert_allclose(loss(variables), by_hand, rtol=1e-5)

    gradient = jax.jit(jax.grad(loss))(variables)["params"]["saliency"]
    assert all(float(jnp.abs(leaf).max()) > 0 for leaf in jax.tree.leaves(gradient["decoder1"]))
    # Along the steepest direction of one layer, where differences exceed float32 noise.
    kernel = gradient["final_conv"]["kernel"]
    step = 1e-2 * kernel / jnp.linalg.norm(kernel)

    def moved(sign):
        params = jax.tree.map(lambda x: x, variables["params"])
        params["saliency"]["final_conv"]["kernel"] += sign * step
        return float(loss({**variables, "params": params}))

    measured = (moved(1) - moved(-1)) / 2e-2
    # Central differences of a loss with kinks (ReLU, soft ranks) have an error of about 1/10.
    np.testing.assert_allclose(measured, float(jnp.linalg.norm(kernel)), rtol=0.1)


def test_rounded_maps_let_no_gradient_pass():
    with pytest.raises(DagrError, match="the preset release rounds the maps"):
        QualityTask(QUALITY, "release", train_saliency=True)
