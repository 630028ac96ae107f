"""Reading a ResNet with the names of torchvision or timm."""

import jax
import numpy as np
import pytest

from dagr_jax import convert
from dagr_jax.convert import layers as convert_layers
from dagr_jax.layers import efficientnet
from dagr_jax.layers.efficientnet import EfficientNetLite0
from dagr_jax.layers.resnet import ResNet
from tests.convert.small import arrays_of, small_resnet_shapes


@pytest.fixture
def arrays():
    return arrays_of(small_resnet_shapes())


@pytest.fixture(scope="module")
def fresh():
    """Shapes of the ResNet to fill."""
    model = ResNet(stage_sizes=(2, 1), width=4)
    return jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32))


def write(path, arrays):
    convert.write_safetensors(path, arrays, {})
    return str(path)


def test_values_and_layout(tmp_path, arrays, fresh):
    got = convert.load_resnet(write(tmp_path / "r.safetensors", arrays), fresh)
    assert jax.tree.map(lambda x: x.shape, got) == jax.tree.map(lambda x: x.shape, fresh)
    kernel = got["params"]["layer2_0"]["conv2"]["kernel"]
    assert kernel[0, 2, 5, 7] == arrays["layer2.0.conv2.weight"][7, 5, 0, 2]
    var = got["batch_stats"]["layer1_0"]["downsample_bn"]["var"]
    np.testing.assert_array_equal(var, arrays["layer1.0.downsample.1.running_var"])


def test_old_files_have_no_counters_and_features_alone_no_classifier(tmp_path, arrays, fresh):
    kept = {k: v for k, v in arrays.items() if "num_batches" not in k and not k.startswith("fc.")}
    convert.load_resnet(write(tmp_path / "r.safetensors", kept), fresh)


def test_another_network_is_refused_with_what_differs(tmp_path, arrays, fresh):
    del arrays["layer2.0.conv3.weight"]
    arrays["layer1.1.se.weight"] = np.zeros(3, np.float32)
    arrays["conv1.weight"] = np.zeros((4, 3, 3, 3), np.float32)
    path = write(tmp_path / "r.safetensors", arrays)
    with pytest.raises(convert.WeightsError) as error:
        convert.load_resnet(path, fresh)
    message = str(error.value)
    assert message.startswith(f"{path}: ")
    for said in (
        "missing: layer2.0.conv3.weight",
        "unexpected: layer1.1.se.weight",
        "conv1.weight (4, 3, 3, 3) instead of (4, 3, 7, 7)",
        "config.model.args.vqa",
    ):
        assert said in message


@pytest.mark.parametrize("source", ["resnet50", "a/b/c", "weights.bin", "../x"])
def test_neither_a_file_nor_an_id(source, fresh):
    with pytest.raises(convert.WeightsError, match="neither a file of weights nor a Hugging Face"):
        convert.load_resnet(source, fresh)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An offline hub with its cache in a temporary folder."""
    constants = pytest.importorskip("huggingface_hub.constants", reason="needs huggingface_hub")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def test_an_id_is_taken_from_the_hubs_cache(hub, arrays, fresh):
    """The cache has the layout of a real download, which would need a network."""
    snapshot = hub / "models--someone--resnet" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    refs = hub / "models--someone--resnet" / "refs"
    refs.mkdir()
    (refs / "main").write_text("0" * 40)
    write(snapshot / "model.safetensors", arrays)
    got = convert.load_resnet("someone/resnet", fresh)
    np.testing.assert_array_equal(got["params"]["bn1"]["scale"], arrays["bn1.weight"])


def test_without_a_network_an_id_says_what_to_do(hub, fresh):
    with pytest.raises(convert.WeightsError) as error:
        convert.load_resnet("someone/resnet", fresh)
    message = str(error.value)
    assert message.startswith("someone/resnet: it could not be downloaded (")
    assert "give the file as config.vqa.backbone" in message and "\n" not in message


def test_without_the_hubs_package_an_id_says_what_to_install(monkeypatch, fresh):
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(convert.WeightsError, match="needs huggingface_hub; pip install it, or"):
        convert.load_resnet("someone/resnet", fresh)


def test_efficientnet_with_the_names_of_its_port(tmp_path):
    model = EfficientNetLite0()
    fresh = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32))
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), fresh)
    arrays = convert_layers.to_torch(efficientnet.torch_layers(), zeros, None)
    arrays["_blocks.1._depthwise_conv.weight"][5, 0, 0, 2] = 7.0
    arrays["_fc.weight"] = np.zeros((1000, 1280), np.float32)
    got = convert.load_efficientnet(write(tmp_path / "e.safetensors", arrays), fresh)
    assert got["params"]["block1"]["depthwise"]["kernel"][0, 2, 0, 5] == 7.0
    del arrays["_bn1.bias"]
    with pytest.raises(convert.WeightsError, match="missing: _bn1.bias.*give the weights of Eff"):
        convert.load_efficientnet(write(tmp_path / "f.safetensors", arrays), fresh)
