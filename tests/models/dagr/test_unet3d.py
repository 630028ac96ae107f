"""Saliency network: golden numbers of the release, registers, presets, training, bfloat16."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dagr_jax import convert
from dagr_jax.models.dagr import losses, unet3d
from dagr_jax.runtime.errors import DagrError

SMALL = {"widths": (4,), "bottleneck": 8, "num_registers": 2, "register_dim": 5}


def to_video(x: np.ndarray) -> np.ndarray:
    """(B, T, C, H, W) → (B, T, H, W, C)."""
    return np.moveaxis(x, 2, -1)


@pytest.fixture(scope="module")
def net(golden_weights):
    return convert.from_state_dict(golden_weights("unet_registers"))


@pytest.fixture(scope="module")
def video(golden_data):
    return to_video(golden_data([7, 1], 2, 8, 3, 40, 56))


@pytest.mark.parametrize(
    ("registers", "count"), [(4, 96_243_333), (0, 96_235_905)], ids=["registers", "plain"]
)
def test_parameter_count_at_paper_size(registers, count):
    model = unet3d.Model(num_registers=registers)
    video = jax.ShapeDtypeStruct((1, 8, 32, 32, 3), jnp.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), video)
    assert sum(x.size for x in jax.tree.leaves(shapes["params"])) == count
    assert {x.dtype for x in jax.tree.leaves(shapes)} == {np.dtype("float32")}


def test_logits_with_registers(net, video, golden):
    model, variables = net
    expected = golden("unet_registers")["logits"][:, 0]
    logits = jax.jit(model.apply)(variables, video)
    # Rounding of sums of up to 41,000 float32 products, in a different order than PyTorch's.
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4 * expected.std())


@pytest.mark.slow
def test_logits_without_registers(golden_weights, video, golden):
    model, variables = convert.from_state_dict(golden_weights("unet_plain"))
    expected = golden("unet_plain")["logits"][:, 0]
    logits = jax.jit(model.apply)(variables, video)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4 * expected.std())


def test_register_values_are_the_projected_tokens(net, golden):
    model, variables = net
    registers = unet3d.Registers(model.num_registers, model.register_dim)
    values = registers.apply({"params": variables["params"]["registers"]}, 4)  # (depth, channel)
    for tokens in golden("unet_registers")["tokens"]:  # (channel, depth), one for each video
        np.testing.assert_allclose(values.T, tokens, atol=1e-6)


@pytest.mark.slow
def test_training_step(net, video, golden, golden_data, gradient_errors):
    """Loss, all gradients and running statistics of one training step of the release."""
    model, variables = net
    expected = golden("unet_registers")
    target = golden_data([7, 2], 2, 8, 1, 40, 56)[:, :, 0]

    def loss_fn(params):
        logits, updates = model.apply(
            {**variables, "params": params}, video, train=True, mutable=["batch_stats"]
        )
        loss, _ = losses.saliency_loss(logits, target, preset="release")
        return loss, (logits, updates["batch_stats"])

    step = jax.jit(jax.value_and_grad(loss_fn, has_aux=True))
    (loss, (logits, stats)), grads = step(variables["params"])
    train_logits = expected["train_logits"][:, 0]
    np.testing.assert_allclose(logits, train_logits, rtol=0, atol=1e-4 * train_logits.std())
    np.testing.assert_allclose(loss, expected["train_loss"], rtol=2e-5)

    # Gradients and statistics under PyTorch's names and in its layout.
    stepped = convert.to_state_dict("unet3d", model, {"params": grads, "batch_stats": stats})
    for name, want in expected.items():
        if name.startswith("stat/"):
            key = name.removeprefix("stat/")
            np.testing.assert_allclose(stepped[key], want, rtol=1e-4, atol=1e-6, err_msg=key)
    off = gradient_errors(expected, stepped)
    assert len(off) > 60
    # The golden gradients are float32. The float64 gradients of the first encoder level and of the
    # registers (sums over all positions that nearly cancel) differ from them by up to 9e-3.
    assert sorted(off.values())[int(0.9 * len(off))] < 1
    assert max(off.values()) < 9


def test_release_reshapes_where_paper_transposes(fill, golden_data):
    """`release` on a video equals `paper` on the video with manually mixed frames and channels."""
    video = golden_data([0], 1, 4, 16, 16, 3)
    paper, release = unet3d.Model(**SMALL), unet3d.Model(**SMALL, preset="release")
    variables = fill(paper, video)
    mixed = np.moveaxis(np.moveaxis(video, -1, 2).reshape(1, 3, 4, 16, 16), 1, -1)
    want = jax.jit(paper.apply)(variables, mixed)
    np.testing.assert_allclose(jax.jit(release.apply)(variables, video), want, atol=1e-5)
    assert np.abs(want - jax.jit(paper.apply)(variables, video)).max() > 0.01


def test_the_paper_s_layout_gives_each_token_one_channel_at_all_frames(fill, golden_data):
    model = unet3d.Model(**SMALL, register_layout="channels")
    variables = fill(model, golden_data([1], 1, 4, 16, 16, 3))
    own = {"params": variables["params"]["registers"]}
    tokens, proj = own["params"]["tokens"], own["params"]["proj"]
    values = unet3d.Registers(2, 5, "channels").apply(own, 7)
    assert values.shape == (7, 2)
    for k in range(2):
        want = tokens[k] @ proj["kernel"][:, k] + proj["bias"][k]
        np.testing.assert_allclose(values[:, k], want, rtol=1e-6)
    with pytest.raises(DagrError, match="no counterpart in the PyTorch release"):
        convert.to_state_dict("unet3d", model, variables)
    with pytest.raises(DagrError, match="register_layout 'depth' is unknown; use one of time, ch"):
        unet3d.Registers(2, 5, "depth").apply(own, 7)


@pytest.mark.parametrize("layout", ["time", "channels"])
def test_every_token_is_used_if_there_are_frames_enough(fill, golden_data, layout):
    """With more tokens than frames, the layout of the release leaves tokens without gradient."""
    video = golden_data([1], 1, 4, 16, 16, 3)
    for count, used in ((4, 4), (8, 8 if layout == "channels" else 4)):
        model = unet3d.Model(**{**SMALL, "num_registers": count}, register_layout=layout)
        variables = fill(model, video)

        def total(tokens, model=model, variables=variables):
            params = dict(variables["params"])
            params["registers"] = {**params["registers"], "tokens": tokens}
            return jnp.square(model.apply({**variables, "params": params}, video)).sum()

        grad = jax.jit(jax.grad(total))(variables["params"]["registers"]["tokens"])
        assert (np.abs(grad) > 0).any(axis=1).sum() == used


def test_the_scale_changes_only_the_first_projection():
    """With 0, training starts as without registers, and the projection still has a gradient."""
    video = np.random.default_rng(3).random((1, 4, 16, 16, 3), np.float32)
    made = {}
    for scale in (1.0, 0.5, 0.0):
        model = unet3d.Model(**SMALL, register_scale=scale)
        made[scale] = jax.jit(model.init)(jax.random.key(4), video)
    default = jax.jit(unet3d.Model(**SMALL).init)(jax.random.key(4), video)
    jax.tree.map(np.testing.assert_array_equal, made[1.0], default)
    for scale, variables in made.items():
        for leaf, whole in zip(
            jax.tree.leaves(variables["params"]["registers"].pop("proj")),
            jax.tree.leaves(default["params"]["registers"]["proj"]),
            strict=True,
        ):
            np.testing.assert_allclose(leaf, scale * whole, rtol=1e-6)
        rest = {**default["params"], "registers": dict(default["params"]["registers"])}
        del rest["registers"]["proj"]
        jax.tree.map(np.testing.assert_array_equal, variables["params"], rest)
    model = unet3d.Model(**SMALL, register_scale=0.0)
    start = jax.jit(model.init)(jax.random.key(4), video)
    loss = lambda params: jnp.square(model.apply({**start, "params": params}, video)).sum()  # noqa: E731
    grad = jax.jit(jax.grad(loss))(start["params"])["registers"]
    assert np.abs(grad["proj"]["kernel"]).max() > 0
    np.testing.assert_array_equal(grad["tokens"], 0)


def test_register_channels_come_before_colour_and_change_over_time(fill, golden_data):
    """A network without registers gives the same logits if it gets their field as input."""
    video = golden_data([1], 1, 4, 16, 16, 3)
    model = unet3d.Model(**SMALL)
    variables = fill(model, video)
    values = unet3d.Registers(2, 5).apply({"params": variables["params"]["registers"]}, 4)
    # With 2 tokens and 4 frames, each token covers two frames.
    np.testing.assert_array_equal(values[0], values[1])
    np.testing.assert_array_equal(values[2], values[3])
    assert np.abs(values[0] - values[2]).max() > 0.01
    # Zero weights for the first two input channels turn the tokens off.
    kernel = np.array(variables["params"]["encoder1"]["conv1"]["kernel"])
    kernel[:, :, :, :2] = 0
    variables["params"]["encoder1"]["conv1"]["kernel"] = kernel
    plain = unet3d.Model(**{**SMALL, "num_registers": 0})
    without = {**variables, "params": {**variables["params"]}}
    del without["params"]["registers"]
    without["params"]["encoder1"] = {
        **variables["params"]["encoder1"],
        "conv1": {
            "kernel": kernel[:, :, :, 2:],
            "bias": variables["params"]["encoder1"]["conv1"]["bias"],
        },
    }
    np.testing.assert_allclose(
        jax.jit(model.apply)(variables, video), jax.jit(plain.apply)(without, video), atol=1e-5
    )


def test_bfloat16_is_near_float32_and_keeps_float32_parameters(fill, golden_data):
    video = golden_data([2], 1, 4, 16, 24, 3)
    model = unet3d.Model(**SMALL)
    half = unet3d.Model(**SMALL, dtype="bfloat16")
    variables = fill(model, video)
    shapes = jax.eval_shape(half.init, jax.random.key(0), video)
    assert {x.dtype for x in jax.tree.leaves(shapes)} == {np.dtype("float32")}
    want = jax.jit(model.apply)(variables, video)
    logits = jax.jit(half.apply)(variables, video)
    assert logits.dtype == jnp.float32
    error = np.abs(logits - want).max() / np.std(want)
    # bfloat16 has 8 bits: 0.4 % per rounding, over a dozen layers. No difference would mean that
    # bfloat16 is not used.
    assert 1e-5 < error < 0.15


def test_native_convolution_gives_the_same(fill, golden_data):
    video = golden_data([3], 1, 3, 8, 8, 3)
    model = unet3d.Model(**SMALL)
    variables = fill(model, video)
    native = jax.jit(unet3d.Model(**SMALL, conv_form="native").apply)(variables, video)
    np.testing.assert_allclose(jax.jit(model.apply)(variables, video), native, atol=1e-5)


@pytest.mark.parametrize("remat", ["norms", "blocks"])
def test_what_is_computed_again_changes_no_gradient(remat, fill, golden_data):
    video = golden_data([9], 1, 3, 9, 12, 3)
    sizes = {"widths": (2,), "bottleneck": 3, "num_registers": 2, "register_dim": 3}
    plain = unet3d.Model(**sizes, conv_form="native")  # compiles fastest
    variables = fill(plain, video)

    def gradients(model):
        def loss(params):
            logits, _ = model.apply(
                {**variables, "params": params}, video, train=True, mutable=["batch_stats"]
            )
            return jnp.sin(logits).sum()

        return jax.jit(jax.grad(loss))(variables["params"])

    # The same float32 sums over 324 pixels, possibly in a different order.
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
        gradients(plain.clone(remat=remat)),
        gradients(plain),
    )


def test_an_unknown_remat_is_refused():
    with pytest.raises(DagrError, match="remat 'all' is unknown; use one of none, norms, blocks"):
        unet3d.Model(remat="all").init(jax.random.key(0), np.zeros((1, 1, 8, 8, 3), np.float32))
