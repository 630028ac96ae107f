"""The tables of models and data sets: name → module path, imported on use.

A new model or data set of this package is one line here. Other packages add models and data sets
with the entry-point groups `dagr_jax.models` and `dagr_jax.datasets`. The keys are the names that
configurations and the command line use.
"""

import importlib
from importlib import metadata
from types import ModuleType
from typing import Any

from dagr_jax.runtime.errors import DagrError

# Name → module that holds CONTRACT, a `models.contract.Contract`.
MODELS: dict[str, str] = {
    "dagr": "dagr_jax.models.dagr",
}

DATASETS: dict[str, str] = {
    "synthetic": "dagr_jax.data.synthetic",
    "lsvq": "dagr_jax.data.lsvq",
    "konvid1k": "dagr_jax.data.konvid1k",
    "live_vqc": "dagr_jax.data.live_vqc",
    "youtube_ugc": "dagr_jax.data.youtube_ugc",
    "cvd2014": "dagr_jax.data.cvd2014",
    "live_qualcomm": "dagr_jax.data.live_qualcomm",
    "folder": "dagr_jax.data.folder",
    "dhf1k": "dagr_jax.data.dhf1k",
    "diem": "dagr_jax.data.diem",
    "gaze_folder": "dagr_jax.data.gaze_folder",
}


class UnknownName(DagrError):
    """A name is not in a table. The message lists the names in the table."""


def models() -> dict[str, str]:
    """Returns {name: module} of all models, including those of other packages."""
    return _all(MODELS, "dagr_jax.models")


def datasets() -> dict[str, str]:
    """Returns {name: module} of all data sets, including those of other packages."""
    return _all(DATASETS, "dagr_jax.datasets")


def contract(name: str) -> Any:
    """Returns the `models.contract.Contract` of a model.

    Args:
        name: Name of the model.

    Raises:
        UnknownName: No model has that name.
    """
    return _module(name, models(), "model").CONTRACT


def contract_of(name: str) -> Any:
    """Returns the contract of a model, or of the model that a network belongs to.

    Args:
        name: Name of the model or of the network.

    Raises:
        UnknownName: No model and no network has that name.
    """
    if name not in models():
        for model in models():
            if name in contract(model).networks:
                return contract(model)
    return contract(name)


def dataset_module(name: str) -> ModuleType:
    """Returns the module of a data set.

    Args:
        name: Name of the data set.

    Raises:
        UnknownName: No data set has that name.
    """
    return _module(name, datasets(), "data set")


def _all(own: dict[str, str], group: str) -> dict[str, str]:
    """Returns the own table and the entry points of a group.

    An entry point cannot replace a name of the own table.
    """
    return {point.name: point.value for point in metadata.entry_points(group=group)} | own


def _module(name: str, table: dict[str, str], what: str) -> ModuleType:
    if name not in table:
        raise UnknownName(f"unknown {what} {name!r}; available: {', '.join(table)}")
    return importlib.import_module(table[name])
