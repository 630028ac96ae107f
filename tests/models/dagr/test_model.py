"""DAGR: fusion, maps, trained and frozen parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dagr_jax.models import dagr
from dagr_jax.models.dagr import quality_net, unet3d
from dagr_jax.runtime.errors import DagrError

SALIENCY = {
    "widths": (4,),
    "bottleneck": 8,
    "num_registers": 2,
    "register_dim": 4,
    "conv_form": "native",  # compiles fastest
}
VQA = {
    "stage_sizes": (1,),
    "width": 4,
    "num_heads": 2,
    "mlp_dim": 8,
    "projection_dim": 8,
    "regressor": (16, 8),
}


def build(**fields) -> dagr.Model:
    return dagr.Model(**{"saliency": SALIENCY, "vqa": VQA, **fields})


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (2, 4, 32, 32, 3), np.uint8)


@pytest.fixture(scope="module")
def variables(fill, frames) -> dict:
    return fill(build(), frames)


def maps_of(model, variables, frames):
    return jax.jit(lambda v, x: dagr.saliency_maps(model, v, x))(variables, frames)


def score_of(model, variables, frames, maps):
    return jax.jit(model.apply)(variables, {"frames": frames, "maps": maps}).score


def test_variables_lie_under_saliency_and_vqa(variables):
    assert set(variables["params"]) == set(variables["batch_stats"]) == {"saliency", "vqa"}
    alone = jax.eval_shape(
        unet3d.Model(**SALIENCY).init, jax.random.key(0), np.zeros((1, 4, 8, 8, 3), np.float32)
    )
    assert jax.tree.map(jnp.shape, alone["params"]) == jax.tree.map(
        jnp.shape, variables["params"]["saliency"]
    )


def test_fusion_is_equation_14():
    rng = np.random.default_rng(1)
    frames, maps = rng.uniform(size=(1, 2, 3, 4, 3)), rng.uniform(size=(1, 2, 3, 4))
    frames, maps = frames.astype(np.float32), maps.astype(np.float32)
    got = np.asarray(dagr.fuse(frames, maps, 0.3))
    want = 0.7 * frames[0, 1, 2, 3] + 0.3 * frames[0, 1, 2, 3] * maps[0, 1, 2, 3]
    np.testing.assert_allclose(got[0, 1, 2, 3], want, rtol=1e-5)
    np.testing.assert_array_equal(dagr.fuse(frames, maps, 0.0), frames)
    np.testing.assert_allclose(dagr.fuse(frames, np.ones_like(maps), 0.6), frames, rtol=1e-6)


def test_maps_span_zero_to_one_each_on_its_own():
    logits = np.random.default_rng(2).normal(size=(2, 3, 5, 6)).astype(np.float32)
    logits[0, 0] *= 0.01  # a map of low contrast is scaled like any other
    maps = np.asarray(dagr.normalize_maps(logits))
    np.testing.assert_array_equal(maps.min((2, 3)), np.zeros((2, 3)))
    np.testing.assert_array_equal(maps.max((2, 3)), np.ones((2, 3)))
    s = 1 / (1 + np.exp(-logits[1, 2]))
    np.testing.assert_allclose(maps[1, 2], (s - s.min()) / (s.max() - s.min()), atol=1e-6)


@pytest.mark.parametrize("value", [-50.0, 0.0, 2.5, 100.0])
def test_a_constant_map_is_ones(value):
    logits = np.full((1, 2, 4, 4), value, np.float32)
    logits[0, 1, 0, 0] += 3e-7  # rounding noise does not count as a map
    np.testing.assert_array_equal(dagr.normalize_maps(logits), np.ones((1, 2, 4, 4)))


def test_release_loads_maps_with_its_quirks():
    maps = np.zeros((3, 2, 2), np.uint8)
    maps[0] = [[0, 255], [204, 128]]  # 2s−1: −1, 1, 0.6, 0.0039 → the lowest two become 0.1
    maps[1] = [[0, 153], [204, 0]]  # maximum 0.6: 0.2/0.6 and 1
    want = np.array([[[0.1, 1], [0.6, 0.1]], [[0.1, 1 / 3], [1, 0.1]], [[1, 1], [1, 1]]])
    np.testing.assert_allclose(dagr.release_maps(maps), want, atol=1e-6)
    floats = maps.astype(np.float32) / 255
    np.testing.assert_allclose(dagr.release_maps(floats), want, atol=1e-6)


def test_maps_of_the_model(variables, frames):
    model = build(saliency_size=(16, 24))
    maps = np.asarray(maps_of(model, variables, frames))
    assert maps.shape == (2, 4, 16, 24)
    np.testing.assert_array_equal(maps.min((2, 3)), 0)
    np.testing.assert_array_equal(maps.max((2, 3)), 1)
    small = jax.image.resize(frames.astype(np.float32) / 255, (2, 4, 16, 24, 3), "bilinear")
    net = {k: v["saliency"] for k, v in variables.items()}
    want = dagr.normalize_maps(jax.jit(unet3d.Model(**SALIENCY).apply)(net, small))
    np.testing.assert_allclose(maps, want, atol=1e-5)


def test_release_maps_are_stored_bytes(variables, frames):
    maps = np.asarray(maps_of(build(preset="release"), variables, frames)) * 255
    np.testing.assert_allclose(maps, np.round(maps), atol=1e-4)
    assert len(np.unique(np.round(maps))) > 50


def test_call_is_maps_then_fusion_then_quality(variables, frames):
    model = build()
    maps = maps_of(model, variables, frames)
    want = score_of(model, variables, frames, maps)
    outputs = jax.jit(model.apply)(variables, frames)
    np.testing.assert_allclose(outputs.score, want, rtol=1e-5)
    assert set(outputs.maps) == {"saliency"} and outputs.frame_scores is None
    np.testing.assert_allclose(outputs.maps["saliency"], maps, atol=1e-5)
    named = jax.jit(model.apply)(variables, {"frames": frames})
    np.testing.assert_array_equal(named.score, outputs.score)
    fused = dagr.fuse(jnp.asarray(frames) / 255.0, maps, 0.5)
    net = {k: v["vqa"] for k, v in variables.items()}
    np.testing.assert_allclose(jax.jit(quality_net.Model(**VQA).apply)(net, fused), want, rtol=1e-5)
    # Float frames in [0, 255] are equivalent; stored maps are rounded to half a level.
    floats = score_of(model, variables, frames.astype(np.float32), maps)
    np.testing.assert_allclose(floats, want, rtol=1e-5)
    stored = np.round(np.asarray(maps) * 255).astype(np.uint8)
    near = score_of(model, variables, frames, stored)
    np.testing.assert_allclose(near, want, atol=0.02 * np.abs(want).max())


def test_maps_of_another_size_are_resized_to_the_frames(variables, frames):
    model = build()
    maps = np.random.default_rng(3).uniform(size=(2, 4, 8, 16)).astype(np.float32)
    large = jax.image.resize(maps, (2, 4, 32, 32), "bilinear")
    np.testing.assert_allclose(
        score_of(model, variables, frames, maps),
        score_of(model, variables, frames, large),
        rtol=1e-5,
    )


def test_alpha_zero_ignores_maps(variables, frames):
    plain = build(alpha=0.0)
    outputs = jax.jit(plain.apply)(variables, frames)
    want = outputs.score
    assert outputs.maps == {}  # none was used, and an untrained network's would mislead
    for maps in (np.zeros((2, 4, 32, 32), np.float32), np.ones((2, 4, 32, 32), np.float32)):
        np.testing.assert_array_equal(score_of(plain, variables, frames, maps), want)
    # A model without saliency network has only 'vqa', and gives the same scores.
    alone = build(alpha=0.0, saliency=None)
    only_vqa = {k: {"vqa": v["vqa"]} for k, v in variables.items()}
    np.testing.assert_array_equal(jax.jit(alone.apply)(only_vqa, frames).score, want)
    shapes = jax.eval_shape(alone.init, jax.random.key(0), frames)
    assert set(shapes["params"]) == {"vqa"}
    # With a saliency network, init makes its parameters even if α = 0.
    shapes = jax.eval_shape(plain.init, jax.random.key(0), frames)
    assert set(shapes["params"]) == {"saliency", "vqa"}


def test_saliency_is_frozen_in_training(variables, frames):
    model = build(alpha=0.7)

    @jax.jit
    def grads_and_updates(params):
        def loss(params):
            outputs, updates = model.apply(
                {**variables, "params": params},
                frames,
                train=True,
                mutable=["batch_stats"],
                rngs={"dropout": jax.random.key(0)},
            )
            return outputs.score.sum(), updates["batch_stats"]

        return jax.grad(loss, has_aux=True)(params)

    grads, stats = grads_and_updates(variables["params"])
    assert all(not g.any() for g in jax.tree.leaves(grads["saliency"]))
    assert any(g.any() for g in jax.tree.leaves(grads["vqa"]))
    same = jax.tree.map(np.array_equal, stats["saliency"], variables["batch_stats"]["saliency"])
    assert all(jax.tree.leaves(same))
    moved = (
        stats["vqa"]["resnet"]["bn1"]["mean"]
        - variables["batch_stats"]["vqa"]["resnet"]["bn1"]["mean"]
    )
    assert np.abs(moved).max() > 1e-4


def test_preset_and_dtype_reach_both_networks_unless_they_name_their_own():
    model = build(preset="release", dtype="bfloat16", vqa={**VQA, "dtype": "float32"})
    assert (model.saliency.preset, model.saliency.dtype) == ("release", "bfloat16")
    assert (model.vqa.preset, model.vqa.dtype) == ("release", "float32")


def test_bad_fields_are_refused(variables, frames):
    with pytest.raises(DagrError, match=r"alpha must be in \[0, 1\], got 1.5"):
        build(alpha=1.5)
    with pytest.raises(DagrError, match="preset 'torch' is unknown"):
        build(preset="torch")
    with pytest.raises(DagrError, match="needs saliency maps, and the model has no saliency net"):
        jax.eval_shape(build(saliency=None).init, jax.random.key(0), frames)
    with pytest.raises(DagrError, match="the model has no saliency network; set the field"):
        dagr.saliency_maps(build(saliency=None), variables, frames)


def test_maps_that_are_given_need_no_saliency_network(variables, frames):
    maps = np.random.default_rng(4).integers(0, 256, (2, 4, 32, 32), np.uint8)
    only_vqa = {k: {"vqa": v["vqa"]} for k, v in variables.items()}
    got = score_of(build(saliency=None), only_vqa, frames, maps)
    np.testing.assert_array_equal(got, score_of(build(), variables, frames, maps))
