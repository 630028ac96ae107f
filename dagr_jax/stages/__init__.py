"""The stages of a run: prepare ▸ the stages of the model ▸ test ▸ report.

Each stage takes the run and writes one artifact to its working directory, atomically. A stage whose
artifact exists is not repeated. The contract of the model defines the training stages and cached
streams; the modules `training` and `cached` run them for all models.
"""

import functools
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from ml_collections import config_dict

from dagr_jax import registry
from dagr_jax.models.contract import CachedStream, TrainStage
from dagr_jax.runtime import distributed
from dagr_jax.runtime.energy import Meter
from dagr_jax.runtime.errors import environment
from dagr_jax.stages.artifacts import StageError, claim, digest, plain, write_json
from dagr_jax.stages.cached import stream_stage
from dagr_jax.stages.console import say
from dagr_jax.stages.evaluate import test_stage
from dagr_jax.stages.folds import ALL, run_folds
from dagr_jax.stages.prepare import has_gaze, prepare_set
from dagr_jax.stages.report import note_time, report_stage
from dagr_jax.stages.run import Run, check_sections
from dagr_jax.stages.split import write_parts
from dagr_jax.stages.sweep import is_sweep, run_sweep
from dagr_jax.stages.training import no_gaze, train_stage

__all__ = ["Run", "StageError", "run_stages", "stages_of"]

# A stage: run → its artifact; None if the model does not need the stage.
StageFn = Callable[[Run], Path | None]


def prepare_stage(run: Run) -> Path:
    """Makes or decodes the data set (`data/`) and splits it (`split.csv`)."""
    distributed.first(lambda: _prepare(run), makes=run.data)
    if run.config.split.fold != ALL:
        _write_splits(run)
        parts = ", ".join(f"{len(numbers)} {part}" for part, numbers in run.rows.items())
        say(f"split: {parts}")
    return run.data


def _prepare(run: Run) -> None:
    chosen = plain(run.config.dataset)
    prepare_set(run.data, chosen, run.stored[1], run.map_size, run.gaze_frames)


def _write_splits(run: Run) -> None:
    """Writes `split.csv`, and `<stage>_split.csv` for each stage with a separate gaze set."""

    def write() -> None:
        write_parts(run.workdir / "split.csv", run.data, run.parts)
        for stage in run.stages.values():
            if isinstance(stage, TrainStage) and stage.records == "gaze":
                data = run.gaze_data(stage)
                if data is not None and data != run.data:
                    path = run.workdir / f"{stage.name}_split.csv"
                    write_parts(path, data, run.gaze_parts(stage))

    distributed.first(write)


def stages_of(run: Run) -> dict[str, StageFn]:
    """Returns all stages of a run, name → function, in the order in which they run.

    A stage that the configuration names but the model does not need makes nothing.
    """
    found: dict[str, StageFn] = {"prepare": prepare_stage}
    known = run.contract.default_config("synthetic").stages
    for name in [*known, *run.stages]:
        if name not in ("prepare", "test", "report"):
            stage = run.stages.get(name)
            found[name] = functools.partial(_model_stage, stage=stage)
    return {**found, "test": test_stage, "report": report_stage}


def _model_stage(run: Run, stage: TrainStage | CachedStream | None) -> Path | None:
    if stage is None:
        return None
    if isinstance(stage, CachedStream):
        return stream_stage(run, stage)
    return train_stage(run, stage)


def run_stages(
    config: config_dict.ConfigDict, workdir: str | os.PathLike[str], names: Sequence[str] = ()
) -> None:
    """Runs stages in order; stages that are finished in `workdir` are not repeated.

    Several processes (`runtime.distributed`) call this function together, with a shared working
    directory.

    Args:
        config: Configuration of a run (`configs/vqa.py`) or of a sweep (`configs/ablation.py`).
        workdir: Working directory for all artifacts; created if missing. A second call with the
            same configuration continues where the first one stopped. With `config.split.fold` −1
            it contains a working directory for each fold.
        names: Names of the stages to run (`stages_of`); empty: `config.stages`. For a sweep, names
            of its runs; empty: all.

    Raises:
        StageError: A stage is unknown, or the working directory belongs to another configuration.
    """
    if is_sweep(config):
        say(str(run_sweep(config, Path(workdir), run_stages, names)))
        return
    # Raise the error for an unknown name here, before anything is written.
    registry.dataset_module(config.dataset.name)
    registry.contract(config.model.name)
    run = Run(config, Path(workdir))
    stages = stages_of(run)
    chosen = names or config.stages
    if unknown := [name for name in chosen if name not in stages]:
        field = "" if names else "config.stages: "
        raise StageError(f"{field}unknown stage {', '.join(unknown)}; one of {', '.join(stages)}")
    check_sections(run)
    for name, stage in run.stages.items():
        if name in chosen and isinstance(stage, TrainStage) and stage.records == "gaze":
            section = config[name]
            if not (section.data_dir or section.init or has_gaze(config.dataset.name)):
                raise no_gaze(config.dataset.name, stage)  # now, not after hours of decoding
    home = run.workdir / "config.json"
    asked = digest([plain(config), list(chosen)])

    def begin() -> str:
        with environment(run.workdir):
            run.workdir.mkdir(parents=True, exist_ok=True)
        if home.exists():
            claim(home, plain(config), "a run")
        else:
            write_json(home, plain(config))
        return asked

    if distributed.first(begin, makes=home) != asked:
        raise StageError(
            f"{run.workdir}: this process was started with another configuration or other stages "
            "than process 0; start all with the same command"
        )
    if config.split.fold == ALL:
        _timed("prepare", prepare_stage, run)
        say(str(run_folds(run, lambda c, home: run_stages(c, home, names))))
        return
    if "prepare" not in chosen and run.data.exists():
        distributed.first(lambda: _prepare(run))  # only checks the set, because it exists
        _write_splits(run)
    for name in [stage for stage in stages if stage in chosen]:
        _timed(name, stages[name], run)


def _timed(name: str, stage: StageFn, run: Run) -> None:
    begin, finished, meter = time.perf_counter(), False, Meter()
    try:
        with meter:
            artifact = stage(run)
            distributed.meet()  # the other processes read next what one process wrote last
        finished = True
    finally:
        seconds = time.perf_counter() - begin
        if distributed.is_first():
            note_time(run.workdir, name, seconds, meter.joules, finished)
    what = "not needed" if artifact is None else str(artifact)
    say(f"[{name}] {what} ({seconds:.1f} s)")
