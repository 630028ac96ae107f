"""State_dicts: conversion of the five networks in both directions, and all kinds of errors."""

import re

import numpy as np
import pytest

from dagr_jax import convert
from dagr_jax.models.dagr import quality_net, unet3d
from tests.convert.small import arrays_of, small_unet_shapes


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
    with pytest.raises(convert.StateDictError, match=re.escape("none of the known networks")):
        convert.from_state_dict(arrays)


def test_temporal_only_net(golden_weights):
    weights = golden_weights("temporal_only")
    model, variables = convert.from_state_dict(weights)
    assert isinstance(model, quality_net.Model)
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


@pytest.mark.parametrize("registers", [True, False])
def test_there_and_back_is_exact(registers):
    arrays = arrays_of(small_unet_shapes(registers))
    network = convert.read_network({f"module.{key}": value for key, value in arrays.items()})
    back = convert.to_state_dict(network.name, network.model, network.variables, network.counters)
    same_arrays(back, arrays)


@pytest.mark.parametrize(
    "name",
    [pytest.param("simple_fusion", marks=pytest.mark.slow), "spatial_only", "temporal_only"],
)
def test_there_and_back_of_the_quality_nets(golden_weights, name):
    arrays = golden_weights(name)
    network = convert.read_network(arrays)
    back = convert.to_state_dict(network.name, network.model, network.variables, network.counters)
    same_arrays(back, arrays)


def same_arrays(a, b):
    assert a.keys() == b.keys()
    for key in a:
        assert (a[key].dtype, a[key].shape) == (b[key].dtype, b[key].shape), key
        assert a[key].tobytes() == b[key].tobytes(), key


def test_counters_come_back_as_they_were_and_as_zero_where_nothing_counted(arrays):
    network = convert.read_network(arrays)
    key = "encoder2.4.num_batches_tracked"
    assert network.counters[key] == int(arrays[key]) > 0
    fresh = convert.to_state_dict(network.name, network.model, network.variables)
    assert fresh[key] == 0 and fresh[key].dtype == np.int64
    assert fresh.keys() == arrays.keys()


@pytest.mark.parametrize("container", ["model_state_dict", "state_dict"])
def test_containers_of_training_scripts(arrays, container):
    expected, _ = convert.from_state_dict(arrays)
    model, _ = convert.from_state_dict({"epoch": 3, container: arrays})
    assert model == expected


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("final_conv.bias", np.zeros(1), "final_conv.bias float64 instead of float32"),
        ("final_conv.bias", np.zeros(1, np.float16), "final_conv.bias float16 instead"),
        ("encoder1.0.bias", np.zeros(4, np.int32), "encoder1.0.bias int32 instead of float32"),
        (
            "encoder1.1.num_batches_tracked",
            np.array(0.5, np.float32),
            "encoder1.1.num_batches_tracked float32 instead of int64",
        ),
    ],
)
def test_a_wrong_type_is_named(arrays, key, value, said):
    arrays[key] = value
    with pytest.raises(convert.StateDictError, match=f"wrong type: {re.escape(said)}"):
        convert.from_state_dict(arrays)


def test_a_counter_of_no_batchnorm_is_unexpected(arrays):
    arrays["encoder1.0.num_batches_tracked"] = np.array(0)
    arrays["encoder1.1.num_batches_tracked"] = np.zeros(2, np.int64)
    with pytest.raises(convert.StateDictError) as error:
        convert.from_state_dict(arrays)
    assert "unexpected: encoder1.0.num_batches_tracked" in str(error.value)
    assert "encoder1.1.num_batches_tracked (2,) instead of ()" in str(error.value)


def test_what_is_no_array_is_named():
    with pytest.raises(convert.StateDictError, match="encoder1.note is of type str"):
        convert.from_state_dict({"encoder1.note": "hello"})
