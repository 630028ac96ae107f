"""Conversion: the five networks, and every way a state_dict can be wrong."""

import re

import numpy as np
import pytest

from dagr_jax import convert
from dagr_jax.models import unet3d, vqa

SMALL = {"encoder1": (7, 4), "encoder2": (4, 8), "bottleneck": (8, 16)}
SMALL |= {"decoder2": (24, 8), "decoder1": (12, 4)}


def small_unet_shapes(registers: bool = True) -> dict[str, tuple[int, ...]]:
    """Shapes of a saliency net of two levels, written out as PyTorch would name them."""
    shapes: dict[str, tuple[int, ...]] = {}
    if registers:
        shapes |= {"register_tokens": (1, 4, 5, 1, 1), "token_proj.weight": (4, 5, 1, 1, 1)}
        shapes["token_proj.bias"] = (4,)
    for block, (cin, cout) in SMALL.items():
        cin = 3 if block == "encoder1" and not registers else cin
        for conv, norm, c in ((0, 1, cin), (3, 4, cout)):
            shapes[f"{block}.{conv}.weight"] = (cout, c, 3, 3, 3)
            shapes[f"{block}.{conv}.bias"] = (cout,)
            for name in ("weight", "bias", "running_mean", "running_var"):
                shapes[f"{block}.{norm}.{name}"] = (cout,)
            shapes[f"{block}.{norm}.num_batches_tracked"] = ()
    for i in (0, 2):
        shapes |= {f"attention.{i}.weight": (16, 16, 1, 1, 1), f"attention.{i}.bias": (16,)}
    return shapes | {"final_conv.weight": (1, 4, 1, 1, 1), "final_conv.bias": (1,)}


def arrays_of(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {key: rng.standard_normal(shape).astype(np.float32) for key, shape in shapes.items()}


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    return arrays_of(small_unet_shapes())


def test_sizes_are_read_from_the_arrays(arrays):
    model, variables = convert.from_state_dict(arrays)
    assert isinstance(model, unet3d.Model)
    assert (model.widths, model.bottleneck) == ((4, 8), 16)
    assert (model.num_registers, model.register_dim, model.preset) == (4, 5, "release")
    assert set(variables) == {"params", "batch_stats"}


def test_layout_follows_the_layer_type(arrays):
    _, variables = convert.from_state_dict(arrays)
    params, stats = variables["params"], variables["batch_stats"]
    conv = arrays["decoder2.0.weight"]
    kernel = params["decoder2"]["conv1"]["kernel"]
    assert kernel[2, 0, 1, 20, 3] == conv[3, 20, 2, 0, 1]
    proj = arrays["token_proj.weight"]
    assert params["registers"]["proj"]["kernel"][4, 1] == proj[1, 4, 0, 0, 0]
    assert params["registers"]["tokens"][3, 2] == arrays["register_tokens"][0, 3, 2, 0, 0]
    np.testing.assert_array_equal(stats["encoder2"]["bn2"]["var"], arrays["encoder2.4.running_var"])
    np.testing.assert_array_equal(params["encoder2"]["bn2"]["scale"], arrays["encoder2.4.weight"])


def test_plain_network_is_told_by_its_keys():
    model, _ = convert.from_state_dict(arrays_of(small_unet_shapes(registers=False)))
    assert model.num_registers == 0


def test_prefix_and_counters_do_not_matter(arrays):
    _, expected = convert.from_state_dict(arrays)
    wrapped = {f"module.{key}": value for key, value in arrays.items() if "num_batches" not in key}
    _, variables = convert.from_state_dict(wrapped)
    np.testing.assert_array_equal(
        variables["params"]["bottleneck"]["conv2"]["kernel"],
        expected["params"]["bottleneck"]["conv2"]["kernel"],
    )


def test_all_problems_come_in_one_error(arrays):
    del arrays["encoder2.3.bias"], arrays["final_conv.weight"]
    arrays["head.weight"] = np.zeros(3, np.float32)
    arrays["attention.0.bias"] = np.zeros(7, np.float32)
    with pytest.raises(convert.StateDictError) as error:
        convert.from_state_dict(arrays)
    message = str(error.value)
    assert "\n" not in message
    assert "the saliency net with 4 registers" in message
    assert "missing: encoder2.3.bias, final_conv.weight" in message
    assert "unexpected: head.weight" in message
    assert "wrong shape: attention.0.bias (7,) instead of (16,)" in message


def test_same_key_twice_is_refused(arrays):
    arrays["module.final_conv.bias"] = arrays["final_conv.bias"]
    with pytest.raises(convert.StateDictError, match="final_conv.bias twice"):
        convert.from_state_dict(arrays)


@pytest.mark.parametrize("arrays", [{}, {"model_state_dict": np.zeros(1)}])
def test_unknown_network_says_what_it_looked_for(arrays):
    with pytest.raises(convert.StateDictError, match=re.escape("none of the five networks")):
        convert.from_state_dict(arrays)


def test_temporal_only_net(golden_weights):
    weights = golden_weights("temporal_only")
    model, variables = convert.from_state_dict(weights)
    assert isinstance(model, vqa.Model)
    assert (model.head, model.num_heads, model.temporal_dim) == ("temporal", 1, 1024)
    assert "batch_stats" not in variables
    kernel = variables["params"]["temporal"]["layer1"]["self_attn"]["in_proj"]["kernel"]
    key = "temporal_analyzer.transformer_encoder.layers.1.self_attn.in_proj_weight"
    np.testing.assert_array_equal(kernel, weights[key].T)


@pytest.mark.parametrize("lost", ["regressor.regressor.3.weight", "temporal_analyzer.proj.bias"])
def test_one_lost_key_of_a_quality_net(golden_weights, lost):
    weights = golden_weights("temporal_only")
    del weights[lost]
    with pytest.raises(convert.StateDictError, match=f"'temporal': missing: {lost}$"):
        convert.from_state_dict(weights)
