"""The stages of a run: prepare → saliency → maps → vqa → test → report.

Each takes the run and leaves one artifact in its workdir, complete or absent; a stage whose
artifact is there is not repeated.
"""

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from ml_collections import config_dict

from dagr_jax.registry import dataset_module, model_module
from dagr_jax.runtime import distributed
from dagr_jax.runtime.energy import Meter
from dagr_jax.runtime.errors import environment
from dagr_jax.stages.evaluate import test_stage
from dagr_jax.stages.folds import ALL, run_folds
from dagr_jax.stages.prepare import has_gaze, prepare_set
from dagr_jax.stages.quality import vqa_stage
from dagr_jax.stages.report import note_time, report_stage
from dagr_jax.stages.run import Run, StageError, claim, digest, plain, say, write_json
from dagr_jax.stages.saliency import maps_stage, no_gaze, saliency_stage
from dagr_jax.stages.sweep import is_sweep, run_sweep

__all__ = ["STAGES", "Run", "StageError", "run_stages"]


def prepare_stage(run: Run) -> Path:
    """Makes or decodes the data set, `data/`, and splits it, `split.csv`."""
    chosen = run.config

    def prepare() -> None:
        prepare_set(
            run.data,
            plain(chosen.dataset),
            plain(chosen.sampling),
            run.saliency_size,
        )

    distributed.first(prepare, makes=run.data)
    if chosen.split.fold != ALL:
        parts = ", ".join(f"{len(numbers)} {part}" for part, numbers in run.rows.items())
        say(f"split: {parts}")
    return run.data


STAGES: dict[str, Callable[[Run], Path | None]] = {
    "prepare": prepare_stage,
    "saliency": saliency_stage,
    "maps": maps_stage,
    "vqa": vqa_stage,
    "test": test_stage,
    "report": report_stage,
}


def run_stages(
    config: config_dict.ConfigDict, workdir: str | os.PathLike[str], names: Sequence[str] = ()
) -> None:
    """Runs stages in their order; those that are finished in `workdir` are not repeated.

    Several processes (`runtime.distributed`) call this together, with a workdir that they share.

    Args:
        config: As `configs/vqa.py` gives it.
        workdir: Folder of all artifacts; made if missing. A second run with the same
            configuration goes on where the first stopped. With `config.split.fold` −1 it holds a
            workdir for each fold.
        names: Stages of `STAGES`; none named: those of `config.stages`. Of a sweep
            (`configs/ablation.py`): names of its runs.

    Raises:
        StageError: An unknown stage, or the workdir belongs to another configuration.
    """
    if is_sweep(config):
        say(str(run_sweep(config, Path(workdir), run_stages, names)))
        return
    unknown = [name for name in names if name not in STAGES]
    if unknown:
        raise StageError(f"unknown stage {', '.join(unknown)}; one of {', '.join(STAGES)}")
    # Names that do not exist end here, before anything is written.
    dataset_module(config.dataset.name)
    model_module(config.model.name)
    run = Run(config, Path(workdir))
    chosen = names or config.stages
    gaze = config.saliency.data_dir or config.saliency.init or has_gaze(config.dataset.name)
    if "saliency" in chosen and run.uses_saliency and not gaze:
        raise no_gaze(config.dataset.name)  # before hours of decoding
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
    for name in [stage for stage in STAGES if stage in chosen]:
        _timed(name, STAGES[name], run)


def _timed(name: str, stage: Callable[[Run], Path | None], run: Run) -> None:
    begin, finished, meter = time.perf_counter(), False, Meter()
    try:
        with meter:
            artifact = stage(run)
            distributed.meet()  # what one process wrote last, the others read next
        finished = True
    finally:
        seconds = time.perf_counter() - begin
        if distributed.is_first():
            note_time(run.workdir, name, seconds, meter.joules, finished)
    what = "not needed" if artifact is None else str(artifact)
    say(f"[{name}] {what} ({seconds:.1f} s)")
