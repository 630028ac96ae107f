import importlib.util
import subprocess
import sys

import pytest

from dagr_jax import cli, registry
from dagr_jax.models.contract import Contract
from dagr_jax.runtime.errors import DagrError
from tests.programs import install


@pytest.mark.parametrize("name", registry.MODELS)
def test_every_model_module_holds_a_contract(name):
    contract = registry.contract(name)
    assert isinstance(contract, Contract) and contract.name == name
    assert contract is importlib.import_module(registry.MODELS[name]).CONTRACT
    assert registry.models()[name] == registry.MODELS[name]


@pytest.mark.parametrize("name", ["unet3d", "vqa", "dagr"])
def test_a_network_leads_to_the_model_that_it_belongs_to(name):
    assert registry.contract_of(name) is registry.contract("dagr")


@pytest.mark.parametrize("path", registry.DATASETS.values())
def test_every_dataset_module_exists(path):
    assert importlib.util.find_spec(path).name == path


def test_unknown_model_lists_the_known_ones():
    with pytest.raises(registry.UnknownName) as error:
        registry.contract("resnext")
    assert str(error.value).startswith("unknown model 'resnext'; available: dagr")
    with pytest.raises(registry.UnknownName) as again:
        registry.contract_of("resnext")
    assert str(again.value) == str(error.value)
    # Networks score nothing by themselves.
    with pytest.raises(registry.UnknownName, match="unknown model 'unet3d'; available: dagr"):
        registry.contract("unet3d")


def test_unknown_dataset_lists_the_known_ones():
    with pytest.raises(DagrError, match="unknown data set 'koniq'; available: synthetic"):
        registry.dataset_module("koniq")


def add_package(folder, monkeypatch, points):
    """Puts a package with entry points on the path."""
    install(folder, "somebody", points)
    (folder / "somebodys_set.py").write_text("MOS_RANGE = (0.0, 1.0)\n")
    monkeypatch.syspath_prepend(str(folder))


def test_data_sets_of_other_packages_are_found(tmp_path, monkeypatch):
    known = registry.datasets()
    add_package(tmp_path, monkeypatch, "[dagr_jax.datasets]\ntheirs = somebodys_set\n")
    assert registry.datasets() == {**known, "theirs": "somebodys_set"}
    assert registry.dataset_module("theirs").MOS_RANGE == (0.0, 1.0)
    with pytest.raises(DagrError, match=r"unknown data set 'koniq'; available: .*\btheirs\b"):
        registry.dataset_module("koniq")


def test_models_of_other_packages_are_found_and_no_own_name_can_be_taken(tmp_path, monkeypatch):
    points = "[dagr_jax.models]\ntheirs = somebodys_model\ndagr = somebodys_model\n"
    add_package(tmp_path, monkeypatch, points)
    (tmp_path / "somebodys_model.py").write_text(
        "class Theirs:\n"
        "    networks = {'part of it': (None, 'part')}\n"
        "    def build(self, args): ...\n"
        "CONTRACT = Theirs()\n"
    )
    assert type(registry.contract("theirs")).__name__ == "Theirs"
    assert registry.contract_of("part of it") is registry.contract("theirs")
    assert registry.models()["dagr"] == registry.MODELS["dagr"]


def test_a_broken_package_is_one_line_and_hides_no_other(tmp_path, monkeypatch, capsys):
    points = "[dagr_jax.models]\nbroken = no_such_module\nlazy = of_a_class\n"
    add_package(tmp_path, monkeypatch, points)
    (tmp_path / "of_a_class.py").write_text("class Lazy:\n    build = 1\nCONTRACT = Lazy\n")
    with pytest.raises(registry.BrokenPackage, match="'broken': its module no_such_module cannot"):
        registry.contract("broken")
    with pytest.raises(registry.BrokenPackage, match="of_a_class.CONTRACT is not an instance"):
        registry.contract("lazy")
    assert registry.contract_of("unet3d").name == "dagr"
    assert cli.main(["models"]) == 1
    told = capsys.readouterr()
    assert told.out.startswith("dagr: DAGR-VQA") and told.err.count("\n") == 2


def test_models_and_losses_load_neither_decoder_nor_checkpoints():
    code = (
        "import sys, dagr_jax.models.dagr, dagr_jax.models.dagr.losses;"
        "print([m for m in ('av', 'orbax', 'grain', 'tensorflow_datasets', 'torch')"
        " if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stderr
