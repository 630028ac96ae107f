"""Stages `vqa` and `test`: the quality network, and what it is worth on unseen contents."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from dagr_jax import __version__, metrics
from dagr_jax.data import loader
from dagr_jax.report import baselines, plots, tables
from dagr_jax.stages.run import (
    Run,
    StageError,
    digest,
    plain,
    resolve_steps,
    whole_model,
    write_json,
)
from dagr_jax.stages.saliency import saliency_report
from dagr_jax.train import mesh as meshes
from dagr_jax.train.augment import Augment
from dagr_jax.train.checkpoints import BY_SRCC, load_variables
from dagr_jax.train.loop import fit, predict_all
from dagr_jax.train.state import TrainState, make_optimizer
from dagr_jax.train.steps import QualityTask

METRICS = ("srcc", "plcc", "krcc", "rmse")


def vqa_stage(run: Run) -> Path:
    """Trains the quality network on frames and stored maps: checkpoints and log in `vqa/`."""
    maps = run.workdir / "maps" if run.uses_saliency else None
    source = loader.QualitySource(run.data, "train", run.mos_range, maps)
    section = resolve_steps(run.config.vqa, len(source))
    task = QualityTask(
        run.model,
        run.config.preset,
        section.rank_weight,
        Augment(
            flip=section.augment.flip,
            jitter=section.augment.jitter,
            crop=tuple(section.augment.crop) or None,
        ),
    )
    validation = loader.QualitySource(run.data, "val", run.mos_range, maps)
    targets = labels(validation)
    predict = meshes.jit_predict(task.predict, run.mesh)

    def evaluate(state: TrainState) -> dict[str, float]:
        variables = jax.device_put(state.variables(), meshes.replicated(run.mesh))
        batches = loader.eval_batches(validation, batch_size=run.config.test.batch_size)
        predictions = gather(predict_all(predict, variables, batches, run.mesh), len(targets))
        return quality_scores(to_mos(predictions, run.mos_range), targets)

    fit(
        name="vqa",
        task=task,
        config=section,
        state=task.init_state(whole_model(run), make_optimizer(section.optim, section.steps)),
        train_iter=loader.train_iterator(
            source,
            batch_size=section.batch_size,
            seed=run.config.seed,
            workers=run.config.workers,
            frames=section.frames,
        ),
        evaluate=evaluate,
        workdir=run.workdir,
        meta=run.meta("seed", "preset", "dataset", "sampling", "model", "saliency", "vqa"),
        mesh=run.mesh,
        best=BY_SRCC,
    )
    return run.workdir / "vqa"


def labels(source: loader.QualitySource) -> np.ndarray:
    """The MOS of each video, (N,) float64."""
    return np.array([fact["mos"] for fact in source.facts], np.float64)


def whole_records(source: loader.QualitySource) -> Iterator[dict[str, Any]]:
    """Frames and facts of each video, one after the other."""
    for index, fact in enumerate(source.facts):
        yield {**fact, "frames": source[index]["frames"]}


def to_mos(prediction: np.ndarray, mos_range: tuple[float, float]) -> np.ndarray:
    """Predictions on the [0, 1] scale → MOS on the data set's own scale, float64, unclipped."""
    low, high = mos_range
    return low + np.asarray(prediction, np.float64) * (high - low)


def gather(pairs: Iterator[tuple[np.ndarray, np.ndarray]], count: int) -> np.ndarray:
    """(index, prediction) pairs → predictions in record order, (count,).

    Raises:
        StageError: a record was predicted twice or not at all.
    """
    out = np.full(count, np.nan)
    seen = np.zeros(count, int)
    for index, values in pairs:
        out[index] = values
        np.add.at(seen, index, 1)
    if (seen != 1).any():
        raise StageError(
            f"{(seen == 0).sum()} of {count} records have no prediction and {(seen > 1).sum()} "
            "have several; the record set changed while it was read, run the stage again"
        )
    return out


def quality_scores(predictions: np.ndarray, mos: np.ndarray) -> dict[str, float]:
    """SRCC, PLCC, KRCC and RMSE, both arguments on the MOS scale, (N,)."""
    return {name: getattr(metrics, name)(predictions, mos) for name in METRICS}


def test_stage(run: Run) -> Path:
    """Reads the test part, once: `test/predictions.csv`, `metrics.json`, `overview.png`."""
    folder = run.workdir / "test"
    if folder.exists():
        return folder
    variables, _ = load_variables(run.workdir / "vqa")
    variables = jax.device_put(variables, meshes.replicated(run.mesh))
    source = loader.QualitySource(run.data, "test", run.mos_range, maps=None)
    predict = meshes.jit_predict(lambda v, b: run.model.apply(v, b["frames"]), run.mesh)
    batches = loader.eval_batches(source, batch_size=run.config.test.batch_size)
    with tqdm(total=len(source), desc="test: scoring", unit="video", disable=None) as bar:

        def counted() -> Iterator[tuple[np.ndarray, np.ndarray]]:
            for index, values in predict_all(predict, variables, batches, run.mesh):
                bar.update(len(index))
                yield index, values

        predictions = to_mos(gather(counted(), len(source)), run.mos_range)
    videos = [fact["video"].decode() for fact in source.facts]
    contents = np.array([fact["content"].decode() for fact in source.facts])
    mos = labels(source)

    result: dict[str, Any] = {"dataset": run.config.dataset.name, "n": len(mos)}
    for name, value in quality_scores(predictions, mos).items():
        low, high = metrics.bootstrap(
            getattr(metrics, name), predictions, mos, contents, n=run.config.test.bootstrap, seed=0
        )
        result[name] = {"value": value, "low": low, "high": high}
    training = loader.QualitySource(run.data, "train", run.mos_range, maps=None)
    result["baselines"] = baselines.evaluate(whole_records(training), whole_records(source))
    if run.uses_saliency:
        result["saliency"] = saliency_report(run, variables["params"], variables["batch_stats"])
    result["config_digest"] = digest(plain(run.config))
    result["version"] = __version__

    partial = folder.with_name(".test.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    rows = [
        {"video": v, "mos": f"{m:.6f}", "prediction": f"{p:.7f}"}
        for v, m, p in zip(videos, mos, predictions, strict=True)
    ]
    (partial / "predictions.csv").write_text(tables.render(rows, "csv"))
    write_json(partial / "metrics.json", result)
    chosen = plots.spread(mos)
    maps = None
    if run.uses_saliency:
        look = jax.jit(lambda v, frames: run.model.apply(v, frames, method="maps"))
        maps = [np.asarray(look(variables, source[i]["frames"][None])[0]) for i in chosen]
    plots.overview(
        partial / "overview.png",
        frames=[source[i]["frames"] for i in chosen],
        maps=maps,
        chosen=chosen,
        mos=mos,
        predictions=predictions,
        srcc=result["srcc"],
        dataset=run.config.dataset.name,
    )
    os.replace(partial, folder)
    return folder
