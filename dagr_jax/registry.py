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
    "starter": "dagr_jax.models.starter",
}

DATASETS: dict[str, str] = {
    "synthetic": "dagr_jax.data.synthetic",
    "starter": "dagr_jax.data.starter",
    "lsvq": "dagr_jax.data.lsvq",
    "konvid1k": "dagr_jax.data.konvid1k",
    "live_vqc": "dagr_jax.data.live_vqc",
    "youtube_ugc": "dagr_jax.data.youtube_ugc",
    "cvd2014": "dagr_jax.data.cvd2014",
    "live_qualcomm": "dagr_jax.data.live_qualcomm",
    "folder": "dagr_jax.data.folder",
    "dhf1k": "dagr_jax.data.dhf1k",
    "diem": "dagr_jax.data.diem",
    "osie": "dagr_jax.data.osie",
    "gaze_folder": "dagr_jax.data.gaze_folder",
}


class UnknownName(DagrError):
    """A name is not in a table. The message lists the names in the table."""


class BrokenPackage(DagrError):
    """The package of another author adds a model or data set that cannot be used."""


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
        BrokenPackage: The model of another package cannot be used.
    """
    module = _module(name, models(), "model")
    found = getattr(module, "CONTRACT", None)
    if not hasattr(found, "build") or isinstance(found, type):
        raise BrokenPackage(
            f"model {name!r}: {module.__name__}.CONTRACT is not an instance of a Contract; see "
            "docs/adding_a_model.md"
        )
    return found


def contracts() -> tuple[dict[str, Any], list[BrokenPackage]]:
    """Returns {name: contract} of all models that can be used, and the errors of the others."""
    found, errors = {}, []
    for name in models():
        try:
            found[name] = contract(name)
        except BrokenPackage as error:
            errors.append(error)
    return found, errors


def contract_of(name: str) -> Any:
    """Returns the contract of a model, or of the model that a network belongs to.

    Args:
        name: Name of the model or of the network.

    Raises:
        UnknownName: No model and no network has that name.
    """
    if name not in models():
        for found in contracts()[0].values():
            if name in found.networks:
                return found
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
    if table[name].startswith("dagr_jax."):
        return importlib.import_module(table[name])
    try:
        return importlib.import_module(table[name])
    except Exception as error:
        told = f"{type(error).__name__}: {error}".splitlines()[0]
        raise BrokenPackage(
            f"{what} {name!r}: its module {table[name]} cannot be imported ({told}); correct "
            "it, or uninstall its package"
        ) from error
