"""Runs all folds of a protocol: the field's ten random splits, or K-fold cross-validation."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import config_dict

from dagr_jax.report import figures
from dagr_jax.report.agreement import FITTED, METRICS
from dagr_jax.runtime import distributed
from dagr_jax.stages.artifacts import StageError, read_json, write_json
from dagr_jax.stages.console import say
from dagr_jax.stages.evaluate import prepare_other
from dagr_jax.stages.run import Run
from dagr_jax.stages.training import train_stage

ALL = -1  # config.split.fold


def run_folds(run: Run, run_one: Callable[[config_dict.ConfigDict, Path], None]) -> Path:
    """Runs every fold in its own working directory, `fold0`, `fold1`, …, and summarises the folds.

    All folds share the prepared set and the stages that learn from a separate gaze set. A stage
    that learns from the split set is not shared, because its network would have seen the test
    contents of some folds.

    Args:
        run: Run of all folds; its data set is prepared.
        run_one: Function that runs the stages of one fold: (configuration of the fold, working
            directory of the fold) → None.

    Returns:
        Path of `folds.json`. It holds for each metric the value of every fold, their median, mean,
        standard deviation, minimum and maximum, and the same for each set of `config.test.others`
        under "others". It holds {} if no fold has been tested. `folds.png` is a box plot of SRCC.

    Raises:
        StageError: The protocol has no folds.
    """
    split = run.config.split
    if split.file or split.protocol not in ("kfold", "repeated"):
        raise StageError(
            f"config.split.fold={ALL} selects all folds, but the protocol {split.protocol} has "
            "only one; use kfold or repeated"
        )
    shared = [stage for stage in run.gaze_stages if run.gaze_data(stage) != run.data]
    for stage in shared:
        train_stage(run, stage)
    others = {name: str(prepare_other(run, name)) for name in run.config.test.others}
    homes = [run.workdir / f"fold{k}" for k in range(split.folds)]
    for k, home in enumerate(homes):
        config = copy.deepcopy(run.config)
        with config.unlocked():
            config.split.fold = k
            config.data_dir = str(run.data)
            for name, folder in others.items():
                config.test.others[name].data_dir = folder
            for stage in shared:
                before = str(run.workdir / stage.name)
                config[stage.name].update({"init": before, "steps": 0, "epochs": 0})
        say(f"[fold {k} of {split.folds}] {home}")
        run_one(config, home)
    path = run.workdir / "folds.json"

    def sum_up() -> None:
        summary = _sum_up(homes, split.protocol, list(others))
        write_json(path, summary)
        if summary:
            figures.boxes(run.workdir / "folds.png", summary)

    distributed.first(sum_up, makes=path)
    return path


def _sum_up(homes: list[Path], protocol: str, others: list[str]) -> dict[str, Any]:
    """Summarises the folds that have been tested; {} if none has been tested."""
    found = _results(homes, "test")
    if not found:
        return {}
    summary = {"dataset": found[0]["dataset"], "protocol": protocol, "folds": len(found)}
    summary |= {k: v for k, v in _spreads(found).items() if k != "n"}
    summary["others"] = {name: _spreads(_results(homes, f"test_{name}")) for name in others}
    return summary


def _results(homes: list[Path], folder: str) -> list[dict[str, Any]]:
    paths = [home / folder / "metrics.json" for home in homes]
    return [read_json(path) for path in paths if path.exists()]


def _spreads(found: list[dict[str, Any]]) -> dict[str, Any]:
    videos = found[0]["n"] if found else 0
    return {"n": videos} | {
        name: spread([r[name]["value"] for r in found]) for name in METRICS + FITTED
    }


def spread(values: list[float | None]) -> dict[str, Any]:
    """Computes median and spread of a metric over the folds.

    Args:
        values: Value of the metric for each fold; None if the model gave all videos the same score.
            None is ignored in the statistics.

    Returns:
        "median", "mean", "std" (of a sample, n − 1), "low", "high" and "values"; only "values" if
        all values are None.
    """
    numbers = np.array([value for value in values if value is not None], np.float64)
    if not len(numbers):
        return {"values": values}
    return {
        "median": float(np.median(numbers)),
        "mean": float(numbers.mean()),
        "std": float(numbers.std(ddof=1)) if len(numbers) > 1 else 0.0,
        "low": float(numbers.min()),
        "high": float(numbers.max()),
        "values": values,
    }
