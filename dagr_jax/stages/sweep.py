"""A sweep: many runs of one configuration, each with some fields changed, for several seeds.

Shared parts are made once: the prepared sets, and each saliency network with its maps, which all
runs use that differ only in the quality network. A finished run is not repeated. Any number of
processes, on one or several machines, can work on one sweep; start each with the same command and
the same working directory. One process makes each run and holds a file lock on it, which is
released when the process ends.
"""

import contextlib
import copy
import dataclasses
import fcntl
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
from ml_collections import config_dict

from dagr_jax import registry
from dagr_jax.report import figures
from dagr_jax.report.agreement import FITTED, METRICS
from dagr_jax.runtime import distributed
from dagr_jax.runtime.compile_cache import keep_compiled
from dagr_jax.runtime.errors import DagrError, environment
from dagr_jax.stages import gaze
from dagr_jax.stages.artifacts import StageError, claim, digest, plain, read_json, write_json
from dagr_jax.stages.console import say
from dagr_jax.stages.folds import ALL
from dagr_jax.stages.prepare import check_source, prepare_set
from dagr_jax.stages.run import Run
from dagr_jax.train.meta import finite_or_none

RunStages = Callable[[config_dict.ConfigDict, Path], None]


@dataclasses.dataclass(frozen=True)
class Member:
    """One run of a sweep.

    Attributes:
        name: Name of the run in `config.runs`.
        seed: Seed of the run.
        home: Working directory of the run.
        result: JSON file with the row of the run, written when all its stages are finished.
    """

    name: str
    seed: int
    home: Path

    @property
    def result(self) -> Path:
        return self.home / "result.json"


def is_sweep(config: config_dict.ConfigDict) -> bool:
    """Whether a configuration is that of a sweep (`configs/ablation.py`), not that of one run."""
    return "runs" in config


def members(config: config_dict.ConfigDict, workdir: Path) -> list[Member]:
    """Returns all runs of a sweep in the order in which they are made: seed by seed."""
    return [
        Member(name, seed, workdir / "runs" / f"{name}-seed{seed}")
        for seed in config.seeds
        for name in config.runs
    ]


def run_sweep(
    config: config_dict.ConfigDict,
    workdir: Path,
    run_stages: RunStages,
    names: Sequence[str] = (),
) -> Path:
    """Makes the unfinished runs of a sweep, and draws the figures from all finished runs.

    A sweep may grow: later calls with the same working directory may add runs and seeds, and change
    figures.

    Args:
        config: Configuration with `base`, the configuration of one run; `seeds`; `saliency_sets`,
            name → data set, in `data_dir` or prepared into `data_NAME/`, which a run selects with
            `saliency.data_dir` NAME; `runs`, name → the fields of `base` that the run changes; and
            `figures` (`report.figures.draw`).
        workdir: Working directory of the sweep. Each run has its own one in `runs/`.
        run_stages: Function that runs the stages of one configuration: (configuration, working
            directory) → None.
        names: Names of the runs to make; empty: all.

    Returns:
        Path of `sweep.json`, which has a row for each finished run.

    Raises:
        StageError: The working directory holds different runs with these names, a name is unknown,
            or runs failed. The message names the failed runs; all other runs are made.
    """
    workdir = workdir.resolve()  # the configurations of the runs contain its folders
    if distributed.several():
        raise StageError(
            "each run of a sweep uses one process; start the same command several times instead, "
            "without --coordinator and --distributed"
        )
    if unknown := [name for name in names if name not in config.runs]:
        known = ", ".join(config.runs)
        raise StageError(f"unknown run {', '.join(unknown)}; one of {known}")
    if config.base.split.fold == ALL:
        raise StageError(
            "config.base.split.fold: each run of a sweep uses one fold; set its number"
        )
    try:
        figures.check(plain(config.figures), config.runs)
    except DagrError as error:
        raise StageError(f"config.figures.{error}") from error
    _check_made(config, workdir)
    keep_compiled()
    _begin(config, workdir)
    chosen = [m for m in members(config, workdir) if not names or m.name in names]
    failed: set[Member] = set()
    while True:
        waiting = [m for m in chosen if m not in failed and not m.result.exists()]
        if not sum(_take(config, workdir, member, run_stages, failed) for member in waiting):
            # Other processes make the remaining runs. If one of them ends early, its run is left
            # for a later call.
            break
    path = summarise(workdir)
    if failed:
        names = ", ".join(member.home.name for member in chosen if member in failed)
        raise StageError(f"{len(failed)} runs failed: {names}; see their errors above")
    if left := sum(not member.result.exists() for member in chosen):
        say(f"{left} runs are being made by other processes")
    return path


def _take(
    config: config_dict.ConfigDict,
    workdir: Path,
    member: Member,
    run_stages: RunStages,
    failed: set[Member],
) -> bool:
    """Makes one run, unless another process makes it or has made it.

    Returns:
        Whether this process made the run or failed to make it.
    """
    with _lock(member.home, wait=False) as mine:
        if not mine or member.result.exists():
            return False
        done = sum(one.result.exists() for one in members(config, workdir))
        total = len(config.runs) * len(config.seeds)
        say(f"[{done} of {total} runs done] {member.name}, seed {member.seed}")
        try:
            _make(config, workdir, member, run_stages)
        except Exception as error:  # a run that fails does not stop the others
            known = isinstance(error, DagrError)
            say(f"{member.home}: {error if known else traceback.format_exc().rstrip()}")
            failed.add(member)
    summarise(workdir)
    jax.clear_caches()  # the next run reuses no program of this run
    return True


def _begin(config: config_dict.ConfigDict, workdir: Path) -> None:
    """Writes the configuration and prepares the data sets, once for all processes."""
    with environment(workdir):
        workdir.mkdir(parents=True, exist_ok=True)
    base, run = config.base, Run(config.base, workdir)
    with _lock(workdir / "data", wait=True):
        write_json(workdir / "config.json", plain(config))
        sets = {"base.dataset": (run.data, base.dataset)}
        for name in _wanted(config):
            one = config.saliency_sets[name]
            sets[f"saliency_sets.{name}"] = (_set_of(config, workdir, name), one)
        wanted = {
            field: (folder, {"name": one.name, "args": plain(one.args)})
            for field, (folder, one) in sets.items()
        }
        for field, (folder, dataset) in wanted.items():
            check_source(folder, dataset, f"config.{field}")
        for folder, dataset in wanted.values():
            prepare_set(folder, dataset, run.stored[1], run.map_size, run.gaze_frames)


def _set_of(config: config_dict.ConfigDict, workdir: Path, name: str) -> Path:
    """Returns the folder of a saliency set."""
    given = config.saliency_sets[name].data_dir
    return Path(given) if given else workdir / f"data_{name}"


def _check_made(config: config_dict.ConfigDict, workdir: Path) -> None:
    """Raises StageError if a finished run differs from the configuration under its name."""
    for member in members(config, workdir):
        if member.result.exists():
            claim(
                member.home / "config.json", plain(_resolved(config, workdir, member)[0]), "a run"
            )


def _wanted(config: config_dict.ConfigDict) -> list[str]:
    """Returns the names of the saliency sets that at least one run uses."""
    found = set()
    for name in [stage.name for stage in Run(config.base, Path()).gaze_stages]:
        found.add(config.base[name].data_dir)
        found |= {changes.get(name, {}).get("data_dir", "") for changes in config.runs.values()}
    return [name for name in config.saliency_sets if name in found]


def member_config(
    config: config_dict.ConfigDict, workdir: Path, member: Member
) -> config_dict.ConfigDict:
    """Makes the configuration of one run: the base with its changes, seed and shared sets.

    Args:
        config: Configuration of the sweep.
        workdir: Working directory of the sweep.
        member: The run.

    Raises:
        StageError: A change names a field that the base does not have.
    """
    made = copy.deepcopy(config.base)
    try:
        made.update(config.runs[member.name])
    except (KeyError, TypeError) as error:
        raise StageError(f"config.runs.{member.name}: {error.args[0]}") from error
    made.seed = member.seed
    made.data_dir = str(Run(config.base, workdir).data)
    for name in [stage.name for stage in Run(made, workdir).gaze_stages]:
        if made[name].data_dir in config.saliency_sets:
            made[name].data_dir = str(_set_of(config, workdir, made[name].data_dir))
    return made


def _resolved(
    config: config_dict.ConfigDict, workdir: Path, member: Member
) -> tuple[config_dict.ConfigDict, config_dict.ConfigDict | None, Path]:
    """Resolves the configuration of one run and of the shared run that it needs.

    Returns:
        (configuration of the run; configuration of the shared run that trains its saliency network,
        None if there is nothing to train; working directory of the shared run).
    """
    made = member_config(config, workdir, member)
    contract = registry.contract(made.model.name)
    shared = contract.shared_run(config.base, made)
    if shared is None:
        return made, None, workdir
    home = workdir / "shared" / f"seed{member.seed}-{digest(plain(shared))}"
    contract.adopt(made, str(home))
    return made, shared, home


def _make(
    config: config_dict.ConfigDict, workdir: Path, member: Member, run_stages: RunStages
) -> None:
    """Makes one run, and first its saliency network if no other run has made it."""
    made, shared, home = _resolved(config, workdir, member)
    row: dict[str, Any] = {"run": member.name, "seed": member.seed, "dataset": made.dataset.name}
    if shared is not None:
        with _lock(home, wait=True):
            run_stages(shared, home)
            row |= _gaze_scores(Run(shared, home), made)
    run_stages(made, member.home)
    tested = member.home / "test" / "metrics.json"
    if tested.exists():
        found = read_json(tested)
        row |= {name: found[name]["value"] for name in METRICS + FITTED}
    write_json(member.result, row)


def _gaze_scores(run: Run, made: config_dict.ConfigDict) -> dict[str, float]:
    """Returns the metrics of `gaze.test_scores` of a shared run, which are computed once.

    A run that trains a network further has none of that network.
    """
    changed = Run(made, run.workdir).last.task.trained
    path = run.workdir / "gaze.json"
    if not path.exists():
        found = {
            f"{stage.name}_{metric}": value
            for stage in run.gaze_stages
            for metric, value in gaze.test_scores(run, stage).items()
        }
        write_json(path, finite_or_none(found))
    kept = [s.name for s in run.gaze_stages if changed is not None and s.part not in changed]
    return {k: v for k, v in read_json(path).items() if k.rpartition("_")[0] in kept}


def summarise(workdir: Path) -> Path:
    """Writes `sweep.json`, with a row for each finished run, and draws figures into `figures/`.

    Args:
        workdir: Working directory of the sweep.

    Returns:
        Path of `sweep.json`.

    Raises:
        StageError: The folder holds no sweep.
    """
    path, home = workdir / "sweep.json", workdir / "config.json"
    if not home.is_file() or "runs" not in (held := read_json(home)):
        raise StageError(f"{workdir}: holds no sweep; name the workdir of a sweep")
    # Use the configuration of the last command that was started in this folder: the configuration
    # of this process may have fewer runs.
    config = config_dict.ConfigDict(held)
    with _lock(path, wait=True):
        results = [member.result for member in members(config, workdir)]
        rows = [read_json(result) for result in results if result.exists()]
        summary = {"runs": len(config.runs), "seeds": held["seeds"], "rows": rows}
        write_json(path, {**summary, "figures": held["figures"]})
        figures.draw(read_json(path), workdir / "figures")
    return path


@contextlib.contextmanager
def _lock(path: Path, *, wait: bool) -> Iterator[bool]:
    """Takes the file lock next to a path.

    Args:
        path: Path that the lock protects.
        wait: Whether to wait until the lock is free.

    Yields:
        Whether this process has the lock; always True with `wait`.
    """
    lock = path.with_name(f".{path.name}.lock")
    with environment(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.touch()
    with open(lock, "w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True  # the lock is released when the file is closed or the process ends
