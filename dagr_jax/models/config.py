"""The parts of a configuration that all models share. Imports no JAX.

The `default_config` of a model starts from `base_config` and adds one section for each training
stage with `add_training`, and what else the model needs.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import config_dict

# Data sets that define their own training, validation and test parts.
OFFICIAL = ("synthetic", "starter", "dhf1k", "osie")

# The embedded corpus. It is fixed by its own seed, so that runs with other seeds can share it.
SYNTHETIC = {
    "seed": 8,
    # Number of contents to train, to validate and to test; each is delivered as five clips.
    "contents": (84, 12, 20),
    "frames": 12,
    # Simulated gaze points per frame.
    "fixations": 20,
    # Kind of the distortions, "delivery" or "capture"; and the share of photographs in the
    # backgrounds.
    "distortions": "delivery",
    "patches": 0.6,
}


def base_config(
    model: str, args: Mapping[str, Any], dataset: str, stages: Sequence[str]
) -> config_dict.ConfigDict:
    """Returns the sections that every run has, without those of the training stages.

    Args:
        model: Name of the model.
        args: Fields of the model.
        dataset: Name of the data set, a key of `dagr_jax.registry.datasets()`.
        stages: Names of the stages of the model, in order. The stages `prepare`, `test` and
            `report` are added.

    Returns:
        A configuration that is not locked.
    """
    config = config_dict.ConfigDict()
    # Seed of the initial weights, the data order, augmentation and dropout.
    config.seed = 0
    config.stages = ("prepare", *stages, "test", "report")
    config.dataset = {"name": dataset, "args": {}}
    if dataset == "synthetic":
        config.dataset.args = dict(SYNTHETIC)
    else:
        config.dataset.args = {
            # Folder of the videos; and the label file ("": the official file in that folder).
            "source": "",
            "labels": "",
            # Number of videos that may be missing or unreadable; -1: one in a hundred.
            "max_failures": -1,
        }
    # Folder of a prepared set that several runs share; "": <workdir>/data.
    config.data_dir = ""
    # Training, validation and test videos: `dagr_jax.data.splits.Protocol`, or a CSV file with the
    # columns video,part. fold -1: all folds of "kfold", or `folds` splits of "repeated", one after
    # the other.
    config.split = {
        "protocol": "official" if dataset in OFFICIAL else "random",
        "file": "",
        "test": 0.1,
        "val": 0.1,
        "folds": 5,
        "fold": 0,
        "seed": 0,
    }
    config.model = {"name": model, "args": dict(args)}
    # extras: also evaluate trivial baselines and all metrics of the saliency maps. others: other
    # data sets for testing, name → {"name", "args", "data_dir"}; "name" and "args" are as in
    # `dataset`.
    config.test = {"batch_size": 4, "bootstrap": 1000, "extras": True, "others": {}}
    # Processes that read records for the training process; 0: threads of the training process.
    config.workers = 2
    return config


def add_training(
    config: config_dict.ConfigDict,
    name: str,
    *,
    batch_size: int,
    learning_rate: float,
    steps: int = 0,
    epochs: int = 0,
) -> None:
    """Adds the section of a training stage, with Adam and a cosine schedule.

    The length of a stage is `steps`, or `epochs` if steps is 0. `log_every` and `eval_every` are in
    steps; eval_every 0: once per epoch. If `patience` is above 0, training also ends after
    `patience` evaluations in a row without a new best one. `init` is a workdir, or a stage folder
    in a workdir, whose weights are the start; with epochs and steps 0, these weights do not change.

    Args:
        config: Configuration from `base_config`, which is changed in place.
        name: Name of the stage.
        batch_size: Global batch size.
        learning_rate: Peak of the learning rate.
        steps: Number of steps; 0: `epochs` counts.
        epochs: Number of epochs.
    """
    config[name] = {
        "seed": config.get_ref("seed"),
        "init": "",
        "steps": steps,
        "epochs": epochs,
        "batch_size": batch_size,
        "log_every": 10,
        "eval_every": 0,
        "patience": 0,
        # The fields are described in `dagr_jax.train.state.OptimConfig`.
        "optim": {
            "name": "adam",
            "learning_rate": learning_rate,
            "weight_decay": 0.0,
            "schedule": "cosine",
            # T_max of the schedule "torch_cosine", in epochs.
            "period": 0,
            "warmup_steps": 0,
            "end_value": 0.0,
            "b2": 0.999,
            "clip_norm": 0.0,
            "accumulate": 1,
            # Decay of the weight average, which is then evaluated and kept; 0: none.
            "ema": 0.0,
            # Rules by parameter name: (regular expression, factor of the learning rate, factor of
            # the weight decay).
            "groups": (),
        },
    }
