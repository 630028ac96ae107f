"""The tables of models and data sets: name → module path, imported on use.

A new model or data set is one file and one line here; loop, loader, scorer and tests read the
tables. The keys are the names that configs and the command line use.
"""

import importlib
from types import ModuleType

from dagr_jax.runtime.errors import DagrError

MODELS: dict[str, str] = {
    "unet3d": "dagr_jax.models.dagr.unet3d",
    "vqa": "dagr_jax.models.dagr.quality_net",
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
    """A name that is not in a table; the message lists those that are."""


def model_module(name: str) -> ModuleType:
    """Returns the module of a model: it holds ``Model``, a Flax module of plain-data fields.

    Raises:
      UnknownName: the name is not in `MODELS`.
    """
    if name not in MODELS:
        raise UnknownName(f"unknown model {name!r}; available: {', '.join(MODELS)}")
    return importlib.import_module(MODELS[name])


def dataset_module(name: str) -> ModuleType:
    """Returns the module of a data set.

    Raises:
      UnknownName: the name is not in `DATASETS`.
    """
    if name not in DATASETS:
        raise UnknownName(f"unknown data set {name!r}; available: {', '.join(DATASETS)}")
    return importlib.import_module(DATASETS[name])
