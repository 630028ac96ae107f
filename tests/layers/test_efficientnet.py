"""EfficientNet-Lite0: the depthwise convolution, the names, and the values of the PyTorch port."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dagr_jax.convert import layers
from dagr_jax.layers import efficientnet
from dagr_jax.layers.efficientnet import LEVELS, EfficientNetLite0, depthwise


@pytest.mark.parametrize("size", [3, 5])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("shape", [(7, 9), (8, 10)])
def test_depthwise_equals_xlas_grouped_convolution(size, stride, shape):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((2, *shape, 4), np.float32))
    kernel = jnp.asarray(rng.standard_normal((size, size, 4), np.float32))
    theirs = jax.lax.conv_general_dilated(
        x,
        kernel[:, :, None],
        (stride, stride),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=4,
    )
    # float32 sums of 25 products of up to 9
    np.testing.assert_allclose(depthwise(x, kernel, stride), theirs, atol=2e-5)


@pytest.fixture(scope="module")
def network():
    model = EfficientNetLite0()
    shapes = jax.eval_shape(
        model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    )
    return model, shapes


def random_state(shapes, seed=1):
    """A state_dict of the PyTorch port, with values that keep the maps in range."""
    rng = np.random.default_rng(seed)
    arrays = layers.to_torch(efficientnet.torch_layers(), shapes_to_zeros(shapes), None)
    for key, value in arrays.items():
        if key.endswith("running_var"):
            arrays[key] = rng.uniform(0.5, 2, value.shape).astype(np.float32)
        elif value.ndim == 4:
            fan = np.prod(value.shape[1:])
            arrays[key] = (rng.standard_normal(value.shape) * np.sqrt(2 / fan)).astype(np.float32)
        elif value.ndim == 1:
            arrays[key] = rng.uniform(0.2, 1, value.shape).astype(np.float32)
    return arrays


def shapes_to_zeros(shapes):
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)


def test_number_of_parameters_and_names(network):
    _, shapes = network
    count = sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(shapes["params"]))
    assert count == 3_371_008  # 4,652,008 of the published network less its classifier
    arrays = random_state(shapes)
    # 49 convolutions; weight, bias, mean and variance (and a counter) of 49 norms.
    assert sum(value.ndim == 4 for value in arrays.values()) == 49
    assert arrays["_blocks.0._depthwise_conv.weight"].shape == (32, 1, 3, 3)
    assert arrays["_blocks.15._project_conv.weight"].shape == (320, 1152, 1, 1)


def test_maps_have_the_sizes_of_their_levels(network):
    model, shapes = network
    variables = shapes_to_zeros(shapes)
    maps = jax.eval_shape(model.apply, variables, np.zeros((2, 33, 70, 3), np.float32))
    assert {name: one.shape[-1] for name, one in maps.items()} == LEVELS
    assert [maps[name].shape[1:3] for name in LEVELS] == [
        (17, 35), (17, 35), (9, 18), (5, 9), (3, 5), (2, 3),
    ]  # fmt: skip


@pytest.mark.torch
def test_values_of_a_plain_forward_pass_in_pytorch(network):
    torch = pytest.importorskip("torch", reason="compares with PyTorch; it is not installed")
    functional = torch.nn.functional
    model, shapes = network
    arrays = random_state(shapes)
    variables, _ = layers.to_flax(efficientnet.torch_layers(), shapes, arrays, "Lite0")
    images = np.random.default_rng(2).uniform(0, 1, (2, 50, 75, 3)).astype(np.float32)
    ours = model.apply(variables, images)

    state = {key: torch.from_numpy(np.asarray(value)) for key, value in arrays.items()}

    def conv(x, name, stride=1):
        kernel = state[f"{name}.weight"]
        size = kernel.shape[-1]
        pads = []
        for length in (x.shape[3], x.shape[2]):  # F.pad begins with the last axis
            total = max((-(-length // stride) - 1) * stride + size - length, 0)
            pads += [total // 2, total - total // 2]
        groups = x.shape[1] // kernel.shape[1]
        return functional.conv2d(functional.pad(x, pads), kernel, stride=stride, groups=groups)

    def norm(x, name):
        own = [state[f"{name}.{k}"] for k in ("running_mean", "running_var", "weight", "bias")]
        return functional.batch_norm(x, *own, eps=1e-3)

    x = (torch.from_numpy(images).permute(0, 3, 1, 2) * 255 - 127) / 128
    x = functional.relu6(norm(conv(x, "_conv_stem", 2), "_bn0"))
    strides = [1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1]
    ends = {0: "1", 2: "2", 4: "3", 10: "5"}
    for block, stride in enumerate(strides):
        there, y = f"_blocks.{block}", x
        if block:
            y = functional.relu6(norm(conv(y, f"{there}._expand_conv"), f"{there}._bn0"))
        y = functional.relu6(norm(conv(y, f"{there}._depthwise_conv", stride), f"{there}._bn1"))
        y = norm(conv(y, f"{there}._project_conv"), f"{there}._bn2")
        x = x + y if y.shape == x.shape else y
        if block in ends:
            _close(ours[ends[block]], x)
    _close(ours["head"], functional.relu6(norm(conv(x, "_conv_head"), "_bn1")))


def _close(ours, theirs):
    theirs = theirs.permute(0, 2, 3, 1).numpy()
    # float32 rounding through 16 blocks, relative to the largest value of the map
    np.testing.assert_allclose(ours, theirs, atol=2e-5 * np.abs(theirs).max())
