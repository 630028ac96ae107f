"""Quality networks: golden numbers of the release, heads, presets, dropout, bfloat16."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dagr_jax import convert
from dagr_jax.layers.attention import TemporalTransformer
from dagr_jax.models.dagr import losses, quality_net
from dagr_jax.runtime.errors import DagrError

SMALL = {
    "stage_sizes": (1,),
    "width": 4,
    "num_heads": 2,
    "mlp_dim": 8,
    "projection_dim": 8,
    "temporal_dim": 8,
    "regressor": (8, 4),
}


def scores(model, variables, fused):
    """Compiles once per model, which is much faster than execution without compilation."""
    return _apply(model)(variables, fused)


@functools.cache
def _apply(model):
    return jax.jit(model.apply)


@pytest.fixture(scope="module")
def fused(golden_data):
    """(B, 3, T, H, W) of the release → (B, T, H, W, 3)."""
    return np.moveaxis(golden_data([7, 3], 3, 3, 8, 64, 96), 1, -1)


@pytest.fixture(scope="module")
def full(golden_weights):
    return convert.from_state_dict(golden_weights("simple_fusion"))


@pytest.fixture(scope="module")
def frame_features(full, fused):
    model, variables = full
    return jax.jit(lambda v, x: model.apply(v, x, method="frame_features"))(variables, fused)


@pytest.mark.parametrize(
    ("fields", "count"),
    [
        ({}, 67_096_385),
        ({"head": "spatial"}, 28_261_953),
        ({"head": "temporal", "num_heads": 1}, 9_231_105),
    ],
    ids=["full", "spatial", "temporal"],
)
def test_parameter_count_at_paper_size(fields, count):
    video = jax.ShapeDtypeStruct((1, 2, 64, 64, 3), jnp.float32)
    shapes = jax.eval_shape(quality_net.Model(**fields).init, jax.random.key(0), video)
    assert sum(x.size for x in jax.tree.leaves(shapes["params"])) == count


def test_resnet_features(frame_features, golden):
    want = golden("vqa")["resnet_features_mean"]
    # Float32 rounding through 53 convolutions, relative to the spread of the features.
    np.testing.assert_allclose(frame_features, want, rtol=0, atol=1e-4 * want.std())


def test_temporal_features(full, frame_features, golden):
    _, variables = full
    want = golden("vqa")["temporal_features"]
    params = {"params": variables["params"]["temporal"]}
    got = TemporalTransformer().apply(params, frame_features)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-4 * want.std())


@pytest.mark.slow
def test_full_score_loss_and_gradient(full, fused, golden, golden_data, gradient_errors):
    model, variables = full
    expected = golden("vqa")
    target = golden_data([7, 4], 3)

    def loss_fn(params):
        score = model.apply({**variables, "params": params}, fused)
        return losses.quality_loss(score, target, preset="release")[0], score

    (loss, score), grads = jax.jit(jax.value_and_grad(loss_fn, has_aux=True))(variables["params"])
    # float32 sums over 2048 to 8192 terms, in a different order than PyTorch's.
    np.testing.assert_allclose(score, expected["simple_fusion"], rtol=2e-5)
    np.testing.assert_allclose(loss, expected["loss"], rtol=2e-5)
    named = {"params": grads, "batch_stats": variables["batch_stats"]}
    off = gradient_errors(expected, convert.to_state_dict("vqa", model, named))
    assert len(off) == 191 and max(off.values()) < 1, max(off.items(), key=lambda item: item[1])


@pytest.mark.slow
@pytest.mark.parametrize("head", ["spatial", "temporal"])
def test_scores_of_the_ablation_heads(head, fused, golden, golden_weights):
    name = f"{head}_only"
    model, variables = convert.from_state_dict(golden_weights(name))
    assert model.head == head
    got = jax.jit(model.apply)(variables, fused)
    np.testing.assert_allclose(got, golden("vqa")[name], rtol=2e-5)


def test_release_reshapes_where_paper_transposes(fill, golden_data):
    fused = golden_data([0], 1, 4, 32, 32, 3)
    paper, release = quality_net.Model(**SMALL), quality_net.Model(**SMALL, preset="release")
    variables = fill(paper, fused)
    mixed = np.moveaxis(np.moveaxis(fused, -1, 1).reshape(1, 4, 3, 32, 32), 2, -1)
    want = scores(paper, variables, mixed)
    np.testing.assert_allclose(scores(release, variables, fused), want, rtol=1e-4)
    assert np.abs(want - scores(paper, variables, fused)).max() > 1e-4


def test_spatial_head_does_not_see_the_order_of_frames_but_the_full_one_does(fill, golden_data):
    fused = golden_data([1], 1, 4, 32, 32, 3)
    turned = fused[:, ::-1]
    spatial, full = quality_net.Model(**SMALL, head="spatial"), quality_net.Model(**SMALL)
    variables = fill(spatial, fused)
    np.testing.assert_allclose(
        scores(spatial, variables, fused), scores(spatial, variables, turned), rtol=1e-4
    )
    variables = fill(full, fused)
    difference = scores(full, variables, fused) - scores(full, variables, turned)
    assert np.abs(difference).max() > 1e-5


def test_the_transformer_head_is_the_temporal_branch_of_the_full_head(fill, golden_data):
    """The full head with zero weights for y_s has the same scores, from the same features."""
    fused = golden_data([1], 2, 4, 32, 32, 3)
    full, own = quality_net.Model(**SMALL), quality_net.Model(**SMALL, head="transformer")
    variables = fill(full, fused)
    params = dict(variables["params"])
    kernel = np.array(params["projector"]["kernel"])
    half = kernel.shape[0] // 2
    kernel[:half] = 0
    params["projector"] = {**params["projector"], "kernel": kernel}
    silent = {**variables, "params": params}
    params = {**params, "projector": {**params["projector"], "kernel": kernel[half:]}}
    np.testing.assert_allclose(
        scores(own, {**variables, "params": params}, fused), scores(full, silent, fused), rtol=1e-5
    )
    with pytest.raises(DagrError, match="head 'transformer' has no counterpart in the PyTorch"):
        convert.to_state_dict("vqa", own, {**variables, "params": params})


def test_temporal_head_sees_mean_colours_alone(fill, golden_data):
    fused = golden_data([2], 2, 4, 8, 8, 3)
    model = quality_net.Model(**SMALL, head="temporal")
    variables = fill(model, fused)
    flat = np.broadcast_to(fused.mean((2, 3), keepdims=True), fused.shape)
    np.testing.assert_allclose(
        scores(model, variables, fused), scores(model, variables, flat), rtol=1e-4
    )


def test_normalize_is_imagenets(fill, golden_data):
    fused = golden_data([3], 1, 2, 32, 32, 3)
    plain = quality_net.Model(**SMALL)
    variables = fill(plain, fused)
    by_hand = (fused - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    want = scores(plain, variables, by_hand.astype(np.float32))
    got = scores(quality_net.Model(**SMALL, normalize=True), variables, fused)
    np.testing.assert_allclose(got, want, rtol=1e-4)


def test_training_uses_dropout_and_updates_statistics(fill, golden_data):
    fused = golden_data([4], 2, 2, 32, 32, 3)
    model = quality_net.Model(**SMALL)
    variables = fill(model, fused)

    @jax.jit
    def run(key):
        return model.apply(
            variables, fused, train=True, mutable=["batch_stats"], rngs={"dropout": key}
        )

    (one, updates), (again, _), (other, _) = (run(jax.random.key(k)) for k in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - other).max() > 1e-4
    before = variables["batch_stats"]["resnet"]["bn1"]["mean"]
    assert np.abs(updates["batch_stats"]["resnet"]["bn1"]["mean"] - before).max() > 1e-4


def test_bfloat16_is_near_float32_and_the_score_is_float32(fill, golden_data):
    fused = golden_data([5], 3, 2, 32, 32, 3)
    variables = fill(quality_net.Model(**SMALL), fused)
    want = jax.jit(quality_net.Model(**SMALL).apply)(variables, fused)
    half = quality_net.Model(**SMALL, dtype="bfloat16")
    got = jax.jit(half.apply)(variables, fused)
    assert got.dtype == jnp.float32
    error = np.abs(got - want).max()
    # Scores of about 1 after ten bfloat16 layers (8 bits). No difference would mean that bfloat16
    # is not used.
    assert 1e-6 < error < 0.1
    shapes = jax.eval_shape(half.init, jax.random.key(0), fused)
    assert {x.dtype for x in jax.tree.leaves(shapes)} == {np.dtype("float32")}


def test_start_from_scratch_is_pytorchs(golden_data):
    """Xavier-uniform kernels and zero biases in the regressor, Kaiming kernels in the ResNet."""
    model = quality_net.Model(**{**SMALL, "regressor": (64, 32), "width": 16})
    key = jax.random.key(0, impl="rbg")
    params = jax.jit(model.init)(key, golden_data([6], 1, 1, 8, 8, 3))["params"]
    linear = params["regress"]["linear1"]
    bound = np.sqrt(6 / (64 + 32))
    assert 0.95 * bound < np.abs(linear["kernel"]).max() <= bound
    assert not linear["bias"].any()
    # 3×3, 16 channels out: standard deviation sqrt(2 / 144) of 2,304 draws, ±5 %.
    conv = np.asarray(params["resnet"]["layer1_0"]["conv2"]["kernel"])
    assert conv.std() == pytest.approx(np.sqrt(2 / (9 * 16)), rel=0.05)


def test_unknown_names_are_refused(golden_data):
    fused = golden_data([7], 1, 1, 8, 8, 3)
    for fields, message in (
        ({"head": "both"}, "head 'both' is unknown; use one of full, spatial, temporal"),
        ({"preset": "torch"}, "preset 'torch' is unknown; use one of paper, release"),
        ({"num_heads": 3}, "num_heads=3 does not divide the 16 channels"),
    ):
        model = quality_net.Model(**{**SMALL, **fields})
        with pytest.raises(DagrError, match=message):
            jax.eval_shape(model.init, jax.random.key(0), fused)
