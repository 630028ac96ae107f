"""The training stages of all models: `train_stage` runs any `TrainStage`."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from dagr_jax.data import loader
from dagr_jax.models.contract import TrainStage
from dagr_jax.runtime import distributed
from dagr_jax.stages import gaze, quality
from dagr_jax.stages.artifacts import StageError
from dagr_jax.stages.run import Run
from dagr_jax.stages.start import begin_with, complete_start
from dagr_jax.train import mesh as meshes
from dagr_jax.train.checkpoints import write_variables
from dagr_jax.train.loop import fit
from dagr_jax.train.meta import Best, is_finished
from dagr_jax.train.state import TrainState, create_state, make_optimizer


def train_stage(run: Run, stage: TrainStage) -> Path:
    """Trains a stage to its end; writes checkpoints and a log to `<workdir>/<name>/`.

    Args:
        run: The run.
        stage: The stage.

    Returns:
        Folder of the stage.

    Raises:
        StageError: There is nothing to train on, or an earlier stage is not finished.
    """
    folder = run.workdir / stage.name
    section, meta = run.section(stage), run.meta(stage)
    wait = section.patience * section.eval_every
    if distributed.first(lambda: is_finished(folder, section.steps, meta, wait)):
        return folder
    predict = meshes.jit_predict(stage.task.predict, run.mesh)
    source: loader.Source
    evaluate: Callable[[TrainState], dict[str, float]]
    pictures: Callable[[], dict[str, np.ndarray]] | None = None
    if stage.records == "gaze":
        if run.gaze_data(stage) is None or (section.init and not section.steps):
            return _adopt(run, stage, section, meta, folder)
        source, shown = (gaze.gaze_source(run, stage, part) for part in ("train", "val"))
        drawn: dict[int, Any] = dict.fromkeys(gaze.few(shown))

        def evaluate(state: TrainState) -> dict[str, float]:
            used = state.variables_to_use()
            return gaze.quick_scores(run, predict, used, shown, section.batch_size, drawn)

        def pictures() -> dict[str, np.ndarray]:
            return gaze.overlays(shown, drawn)

    else:
        source, rated = (quality.stage_source(run, stage, part) for part in ("train", "val"))

        def evaluate(state: TrainState) -> dict[str, float]:
            return quality.validate(run, predict, state.variables_to_use(), rated)

    optimizer = make_optimizer(section.optim, section.steps, section.epoch_steps)
    train_iter = loader.train_iterator(
        source,
        batch_size=section.batch_size,
        seed=run.config.seed,
        workers=run.workers,
        frames=stage.frames if stage.records == "quality" else 0,
        random_crops=stage.records == "quality" and _random_crops(run),
        share=distributed.share(),
    )
    with contextlib.closing(train_iter):
        fit(
            name=stage.name,
            task=stage.task,
            config=section,
            state=create_state(complete_start(run, stage), optimizer, stage.task.trained),
            train_iter=train_iter,
            evaluate=evaluate,
            workdir=run.workdir,
            meta=meta,
            mesh=run.mesh,
            best=Best(stage.best),
            pictures=pictures,
        )
    return folder


def _random_crops(run: Run) -> bool:
    crops = run.stored[1].crops
    return crops is not None and crops.training == "random"


def no_gaze(what: str, stage: TrainStage) -> StageError:
    """Returns the error for a stage that has no gaze maps to learn from.

    Args:
        what: Data set that has no gaze maps.
        stage: The stage.
    """
    name = f"config.{stage.name}"
    others = f", or {stage.otherwise}" if stage.otherwise else ""
    return StageError(
        f"{what}: holds no gaze maps to train the {stage.name} network on; set {name}.data_dir to "
        f"a prepared gaze set, or {name}.init to trained weights with steps and epochs 0{others}"
    )


def _adopt(run: Run, stage: TrainStage, section: Any, meta: dict[str, Any], folder: Path) -> Path:
    """Copies a network that another run trained, without changing it."""
    if section.steps or not section.init:
        raise no_gaze(str(run.data), stage)
    if run.gaze_data(stage) is not None:
        gaze.gaze_source(run, stage, "test")  # refuses now what the test stage would refuse later
    variables = begin_with(run, stage, section.init)
    distributed.first(lambda: write_variables(folder, variables, meta), makes=folder)
    return folder
