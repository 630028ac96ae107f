"""Stage `vqa`: the quality network."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from dagr_jax.data import loader
from dagr_jax.data.prepare import open_records
from dagr_jax.layers.augment import Augment
from dagr_jax.metrics import agreement
from dagr_jax.report.agreement import METRICS
from dagr_jax.runtime import distributed
from dagr_jax.stages.run import Run, StageError
from dagr_jax.stages.weights import whole_model
from dagr_jax.train import mesh as meshes
from dagr_jax.train.loop import fit
from dagr_jax.train.meta import BY_SRCC, is_finished
from dagr_jax.train.state import TrainState, make_optimizer
from dagr_jax.train.steps import QualityTask


def vqa_stage(run: Run) -> Path:
    """Trains the quality network on frames and stored maps: checkpoints and log in `vqa/`."""
    source = quality_source(run, "train", _maps_of(run))
    folder = run.workdir / "vqa"
    section, meta = run.section("vqa"), run.meta("vqa")
    if distributed.first(lambda: is_finished(folder, section.steps, meta)):
        return folder
    if section.train_saliency:
        _check_trains_saliency(run)
    task = QualityTask(
        run.model,
        run.config.preset,
        section.rank_weight,
        Augment(
            flip=section.augment.flip,
            jitter=section.augment.jitter,
            crop=tuple(section.augment.crop) or None,
        ),
        section.train_saliency,
    )
    validation = quality_source(run, "val", _maps_of(run))
    targets = labels(validation)
    predict = meshes.jit_predict(task.predict, run.mesh)

    def evaluate(state: TrainState) -> dict[str, float]:
        batches = run.predict(
            predict, state.variables_to_use(), validation, run.config.test.batch_size
        )
        predictions = gather(batches, len(targets))
        return quality_scores(to_mos(predictions, run.mos_range), targets)

    optimizer = make_optimizer(section.optim, section.steps, section.epoch_steps)
    train_iter = loader.train_iterator(
        source,
        batch_size=section.batch_size,
        seed=run.config.seed,
        workers=run.config.workers,
        frames=section.frames,
        share=distributed.share(),
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


def _check_trains_saliency(run: Run) -> None:
    """Raises StageError where no gradient reaches the saliency net, or not as it is tested."""
    if not run.uses_saliency or not run.map_plan.plain:
        raise StageError(
            "config.vqa.train_saliency needs the saliency network under the sampled frames: "
            "config.model.args.alpha above 0, config.maps.window 0, choice matched and no folder"
        )
    if run.config.vqa.frames not in (0, run.sampling.num_frames):
        raise StageError(
            "config.vqa.train_saliency: the saliency network sees all frames of a video together; "
            "set config.vqa.frames to 0"
        )


def _maps_of(run: Run) -> Path | None:
    return run.workdir / "maps" if run.stores_maps else None


def quality_source(run: Run, part: str, maps: Path | None = None) -> loader.QualitySource:
    """The videos of a part, with the maps that lie in the record set `maps` of a folder."""
    stored = None if maps is None else open_records(maps, "maps", part)
    return loader.QualitySource(run.data, run.rows[part], run.mos_range, stored)


def labels(source: loader.QualitySource) -> np.ndarray:
    """The MOS of each video, (N,) float64."""
    return np.array([fact["mos"] for fact in source.facts], np.float64)


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
    return {name: getattr(agreement, name)(predictions, mos) for name in METRICS}
