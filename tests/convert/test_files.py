"""Weights files: what is read, what is refused; nothing in them is executed."""

import os
import pickle
import zipfile

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from dagr_jax import convert
from tests.convert.small import arrays_of, small_unet_shapes


@pytest.fixture
def arrays():
    return arrays_of(small_unet_shapes())


def test_safetensors_there_and_back(tmp_path, arrays):
    path = tmp_path / "net.safetensors"
    convert.write_safetensors(path, arrays, {"preset": "release"})
    back = convert.read_weights(path)
    assert back.keys() == arrays.keys()
    for key, value in arrays.items():
        assert back[key].tobytes() == value.tobytes() and back[key].dtype == value.dtype
    assert os.listdir(tmp_path) == ["net.safetensors"]


def test_half_precision_is_read_as_it_is_and_refused_by_name(tmp_path, arrays):
    arrays["final_conv.bias"] = arrays["final_conv.bias"].astype(ml_dtypes.bfloat16)
    path = tmp_path / "net.safetensors"
    safetensors.numpy.save_file(arrays, path)
    with pytest.raises(convert.StateDictError, match="final_conv.bias bfloat16 instead of float32"):
        convert.from_state_dict(convert.read_weights(path))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.safetensors", None, "there is no such file; check the path"),
        ("a.h5", b"x", "its suffix is unknown; give one of .pth, .pt, .safetensors"),
        ("a.safetensors", b"", "cannot be read"),
        ("a.safetensors", b"\xff" * 100, "cannot be read"),
    ],
)
def test_a_bad_file_is_one_line_that_names_it(tmp_path, name, content, said):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(convert.WeightsError) as error:
        convert.read_weights(path)
    assert str(error.value).startswith(f"{path}: ") and said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_cut_safetensors_is_refused(tmp_path, arrays):
    path = tmp_path / "net.safetensors"
    convert.write_safetensors(path, arrays, {})
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(convert.WeightsError, match="cannot be read"):
        convert.read_weights(path)


def test_a_pth_that_is_none_is_one_line(tmp_path):
    path = tmp_path / "net.pth"
    path.write_bytes(b"x")
    with pytest.raises(convert.WeightsError, match=r"net\.pth: cannot be read \(it is no file of"):
        convert.read_weights(path)


class Hostile:
    """A pickle that runs a command when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.torch
class TestPth:
    @pytest.fixture(autouse=True)
    def torch(self):
        return pytest.importorskip("torch", reason="PyTorch reads .pth; it is not installed")

    @pytest.mark.parametrize("container", ["", "model_state_dict", "state_dict"])
    @pytest.mark.parametrize("prefix", ["", "module."])
    def test_checkpoints_of_training_scripts(self, tmp_path, torch, arrays, container, prefix):
        tensors = {prefix + key: torch.from_numpy(value) for key, value in arrays.items()}
        held = {"epoch": 7, "optimizer": {"lr": 0.1}, container: tensors} if container else tensors
        path = tmp_path / "net.pth"
        torch.save(held, path)
        network = convert.read_network(convert.read_weights(path))
        back = convert.to_state_dict(
            network.name, network.model, network.variables, network.counters
        )
        assert back.keys() == arrays.keys()
        assert all(back[key].tobytes() == value.tobytes() for key, value in arrays.items())

    def test_bfloat16_keeps_its_bits(self, tmp_path, torch):
        path = tmp_path / "net.pt"
        torch.save({"x": torch.tensor([1.5, -2.0], dtype=torch.bfloat16)}, path)
        x = convert.read_weights(path)["x"]
        assert x.dtype == ml_dtypes.bfloat16 and x.tolist() == [1.5, -2.0]

    def test_pytorch_reads_what_is_written(self, tmp_path, torch, arrays):
        from safetensors.torch import load_file

        path = tmp_path / "net.safetensors"
        convert.write_safetensors(path, arrays, {})
        for key, tensor in load_file(path).items():
            np.testing.assert_array_equal(tensor.numpy(), arrays[key])

    @pytest.mark.parametrize("zipped", [True, False])
    def test_a_hostile_pickle_is_refused_and_not_executed(self, tmp_path, torch, zipped):
        touched, path = tmp_path / "touched", tmp_path / "net.pth"
        if zipped:  # today's format
            torch.save({"model_state_dict": Hostile(touched)}, path)
            assert zipfile.is_zipfile(path)
        else:
            path.write_bytes(pickle.dumps(Hostile(touched)))
        # The file is hostile: a plain reader would run the command.
        with pytest.raises(convert.WeightsError, match="not a file of weights alone"):
            convert.read_weights(path)
        assert not touched.exists()
        torch.load(path, weights_only=False) if zipped else pickle.loads(path.read_bytes())
        assert touched.exists()

    def test_what_is_no_state_dict_is_refused(self, tmp_path, torch):
        path = tmp_path / "net.pth"
        torch.save([torch.zeros(1)], path)
        with pytest.raises(convert.WeightsError, match="holds a list, not a state_dict"):
            convert.read_weights(path)

    def test_a_cut_file_is_refused(self, tmp_path, torch, arrays):
        path = tmp_path / "net.pth"
        torch.save({key: torch.from_numpy(value) for key, value in arrays.items()}, path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(convert.WeightsError, match=r"net\.pth: cannot be read"):
            convert.read_weights(path)
