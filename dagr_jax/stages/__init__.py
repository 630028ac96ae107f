"""The stages of a run: prepare → saliency → maps → vqa → test.

Each takes the run and leaves one artifact in its workdir, complete or absent; a stage whose
artifact is there is not repeated.
"""

import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from ml_collections import config_dict

from dagr_jax.registry import dataset_module, model_module
from dagr_jax.stages.evaluate import test_stage
from dagr_jax.stages.folds import ALL, run_folds
from dagr_jax.stages.prepare import has_gaze, prepare_set
from dagr_jax.stages.quality import vqa_stage
from dagr_jax.stages.run import Run, StageError, claim, plain, write_json
from dagr_jax.stages.saliency import maps_stage, saliency_stage

__all__ = ["STAGES", "Run", "StageError", "run_stages"]


def prepare_stage(run: Run) -> Path:
    """Makes or decodes the data set, `data/`, and splits it, `split.csv`."""
    chosen = run.config
    prepare_set(
        run.data,
        plain(chosen.dataset),
        plain(chosen.sampling),
        list(run.saliency_size) if has_gaze(chosen.dataset.name) else None,
    )
    if chosen.split.fold != ALL:
        parts = ", ".join(f"{len(numbers)} {part}" for part, numbers in run.rows.items())
        print(f"split: {parts}", file=sys.stderr, flush=True)
    return run.data


STAGES: dict[str, Callable[[Run], Path | None]] = {
    "prepare": prepare_stage,
    "saliency": saliency_stage,
    "maps": maps_stage,
    "vqa": vqa_stage,
    "test": test_stage,
}


def run_stages(
    config: config_dict.ConfigDict, workdir: str | os.PathLike[str], names: Sequence[str] = ()
) -> None:
    """Runs stages in their order; those that are finished in `workdir` are not repeated.

    Args:
        config: As `configs/vqa.py` gives it.
        workdir: Folder of all artifacts; made if missing. A second run with the same
            configuration goes on where the first stopped. With `config.split.fold` −1 it holds a
            workdir for each fold.
        names: Stages of `STAGES`; none named: those of `config.stages`.

    Raises:
        StageError: An unknown stage, or the workdir belongs to another configuration.
    """
    unknown = [name for name in names if name not in STAGES]
    if unknown:
        raise StageError(f"unknown stage {', '.join(unknown)}; one of {', '.join(STAGES)}")
    # Names that do not exist end here, before anything is written.
    dataset_module(config.dataset.name)
    model_module(config.model.name)
    run = Run(config, Path(workdir))
    run.workdir.mkdir(parents=True, exist_ok=True)
    home = run.workdir / "config.json"
    if home.exists():
        claim(home, plain(config), "a run")
    else:
        write_json(home, plain(config))
    chosen = names or config.stages
    if config.split.fold == ALL:
        _timed("prepare", prepare_stage, run)
        print(run_folds(run, lambda c, home: run_stages(c, home, names)), file=sys.stderr)
        return
    for name in [stage for stage in STAGES if stage in chosen]:
        _timed(name, STAGES[name], run)


def _timed(name: str, stage: Callable[[Run], Path | None], run: Run) -> None:
    begin = time.perf_counter()
    artifact = stage(run)
    seconds = time.perf_counter() - begin
    what = "not needed" if artifact is None else str(artifact)
    print(f"[{name}] {what} ({seconds:.1f} s)", file=sys.stderr, flush=True)
