import importlib.util
import subprocess
import sys

import pytest

from dagr_jax import registry
from dagr_jax.runtime.errors import DagrError


@pytest.mark.parametrize("name", registry.MODELS)
def test_every_model_module_holds_a_model(name):
    module = registry.model_module(name)
    assert module.__name__ == registry.MODELS[name]
    assert hasattr(module, "Model")


@pytest.mark.parametrize("path", registry.DATASETS.values())
def test_every_dataset_module_exists(path):
    assert importlib.util.find_spec(path).name == path


def test_unknown_model_lists_the_known_ones():
    with pytest.raises(registry.UnknownName) as error:
        registry.model_module("resnext")
    assert str(error.value) == "unknown model 'resnext'; available: unet3d, vqa, dagr"


def test_unknown_dataset_lists_the_known_ones():
    with pytest.raises(DagrError, match="unknown data set 'koniq'; available: synthetic"):
        registry.dataset_module("koniq")


def test_models_and_losses_load_neither_decoder_nor_checkpoints():
    code = (
        "import sys, dagr_jax.models.dagr, dagr_jax.models.dagr.losses;"
        "print([m for m in ('av', 'orbax', 'grain', 'tensorflow_datasets', 'torch')"
        " if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stderr
