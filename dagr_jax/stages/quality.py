"""Stages `vqa` and `test`: the quality network, and what it is worth on unseen contents."""

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from dagr_jax import __version__, metrics
from dagr_jax.data import loader
from dagr_jax.data.prepare import open_records
from dagr_jax.report import baselines, plots, tables
from dagr_jax.stages.run import (
    Run,
    StageError,
    digest,
    plain,
    trained,
    whole_model,
    write_json,
)
from dagr_jax.stages.saliency import saliency_report, write_maps
from dagr_jax.train import mesh as meshes
from dagr_jax.train.augment import Augment
from dagr_jax.train.loop import fit, predict_all
from dagr_jax.train.meta import BY_SRCC, is_finished
from dagr_jax.train.state import TrainState, make_optimizer
from dagr_jax.train.steps import QualityTask

METRICS = ("srcc", "plcc", "krcc", "rmse")
FITTED = ("plcc_fitted", "rmse_fitted")


def vqa_stage(run: Run) -> Path:
    """Trains the quality network on frames and stored maps: checkpoints and log in `vqa/`."""
    source = quality_source(run, "train", _maps_of(run))
    folder = run.workdir / "vqa"
    section, meta = run.section("vqa"), run.meta("vqa")
    if is_finished(folder, section.steps, meta):
        return folder
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
    validation = quality_source(run, "val", _maps_of(run))
    targets = labels(validation)
    predict = meshes.jit_predict(task.predict, run.mesh)

    def evaluate(state: TrainState) -> dict[str, float]:
        variables = jax.device_put(state.variables_to_use(), meshes.replicated(run.mesh))
        batch_size = run.eval_batch(run.config.test.batch_size)
        batches = loader.eval_batches(validation, batch_size=batch_size)
        predictions = gather(predict_all(predict, variables, batches, run.mesh), len(targets))
        return quality_scores(to_mos(predictions, run.mos_range), targets)

    optimizer = make_optimizer(section.optim, section.steps, section.epoch_steps)
    train_iter = loader.train_iterator(
        source,
        batch_size=section.batch_size,
        seed=run.config.seed,
        workers=run.config.workers,
        frames=section.frames,
    )
    with contextlib.closing(train_iter):
        fit(
            name="vqa",
            task=task,
            config=section,
            state=task.init_state(whole_model(run), optimizer),
            train_iter=train_iter,
            evaluate=evaluate,
            workdir=run.workdir,
            meta=meta,
            mesh=run.mesh,
            best=BY_SRCC,
        )
    return folder


def _maps_of(run: Run) -> Path | None:
    return run.workdir / "maps" if run.uses_saliency else None


def quality_source(run: Run, part: str, maps: Path | None = None) -> loader.QualitySource:
    """The videos of a part, with the maps that lie in the record set `maps` of a folder."""
    stored = None if maps is None else open_records(maps, "maps", part)
    return loader.QualitySource(run.data, run.rows[part], run.mos_range, stored)


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


def test_scores(predictions: np.ndarray, mos: np.ndarray) -> np.ndarray:
    """Values of METRICS, and of FITTED after the four-parameter logistic."""
    plain = quality_scores(predictions, mos)
    fitted = metrics.fit_logistic(predictions, mos).scores(mos)
    return np.array([*(plain[name] for name in METRICS), *fitted])


def per_video(
    facts: Sequence[Mapping[str, Any]], predictions: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Averages the clips of each video.

    Args:
        facts: "video" and "mos" of each clip.
        predictions: (clips,).

    Returns:
        (first, mean): the number of each video's first clip, and the mean of its predictions, in
        the order of the first clips.

    Raises:
        StageError: clips of one video have different labels.
    """
    place: dict[bytes, int] = {}
    video_of = np.array([place.setdefault(fact["video"], len(place)) for fact in facts])
    _, first = np.unique(video_of, return_index=True)
    for clip, fact in enumerate(facts):
        if fact["mos"] != facts[first[video_of[clip]]]["mos"]:
            raise StageError(
                f"{fact['video'].decode()}: its clips have different MOS; mend the labels and "
                "prepare again"
            )
    return first, np.bincount(video_of, predictions) / np.bincount(video_of)


def test_stage(run: Run) -> Path:
    """Reads the test part, once: `test/predictions.csv`, `metrics.json`, `overview.png`."""
    folder = run.workdir / "test"
    if folder.exists():
        return folder
    variables = jax.device_put(trained(run, "vqa"), meshes.replicated(run.mesh))
    partial = folder.with_name(".test.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    stored = None
    if run.uses_saliency and run.config.maps.window:
        stored = partial / "maps"
        stored.mkdir()
        write_maps(run, variables, stored, ("test",))
    source = quality_source(run, "test", stored)
    task = QualityTask(run.model, run.config.preset)
    predict = meshes.jit_predict(
        lambda v, b: task.predict(v, b) if stored else task.predict_frames(v, b["frames"]), run.mesh
    )
    batches = loader.eval_batches(source, batch_size=run.eval_batch(run.config.test.batch_size))
    with tqdm(total=len(source), desc="test: scoring", unit="video", disable=None) as bar:

        def counted() -> Iterator[tuple[np.ndarray, np.ndarray]]:
            for index, values in predict_all(predict, variables, batches, run.mesh):
                bar.update(len(index))
                yield index, values

        predictions = to_mos(gather(counted(), len(source)), run.mos_range)
    clips = list(source.facts)
    first, predictions = per_video(clips, predictions)
    facts = [clips[i] for i in first.tolist()]
    mos = np.array([fact["mos"] for fact in facts], np.float64)
    contents = np.array([fact["content"].decode() for fact in facts])

    result: dict[str, Any] = {"dataset": run.config.dataset.name, "n": len(mos)}
    values = test_scores(predictions, mos)
    lows, highs = metrics.bootstrap(
        test_scores, predictions, mos, contents, n=run.config.test.bootstrap, seed=0
    )
    for name, value, low, high in zip((*METRICS, *FITTED), values, lows, highs, strict=True):
        result[name] = {"value": float(value), "low": float(low), "high": float(high)}
    fit = metrics.fit_logistic(predictions, mos)
    result["logistic"] = {"parameters": list(fit.parameters), "converged": fit.converged}
    training = quality_source(run, "train")
    result["baselines"] = baselines.evaluate(whole_records(training), whole_records(source))
    if run.uses_saliency and run.saliency_data is not None:
        result["saliency"] = saliency_report(run, variables["params"], variables["batch_stats"])
    result["config_digest"] = digest(plain(run.config))
    result["version"] = __version__

    rows = [
        {"video": fact["video"].decode(), "mos": f"{m:.6f}", "prediction": f"{p:.7f}"}
        for fact, m, p in zip(facts, mos, predictions, strict=True)
    ]
    (partial / "predictions.csv").write_text(tables.render(rows, "csv"))
    write_json(partial / "metrics.json", result)
    chosen = plots.spread(mos)
    items = [source[int(first[i])] for i in chosen]
    maps = None
    if stored:
        maps = [item["maps"] / 255.0 for item in items]
        # They were needed for the scores alone.
        shutil.rmtree(stored)
    elif run.uses_saliency:
        look = jax.jit(lambda v, frames: run.model.apply(v, frames, method="maps"))
        maps = [np.asarray(look(variables, item["frames"][None])[0]) for item in items]
    plots.overview(
        partial / "overview.png",
        frames=[item["frames"] for item in items],
        maps=maps,
        chosen=chosen,
        mos=mos,
        predictions=predictions,
        srcc=result["srcc"],
        dataset=run.config.dataset.name,
    )
    os.replace(partial, folder)
    return folder
