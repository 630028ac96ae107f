"""A sweep: many runs of one configuration, each with some fields changed, for several seeds.

What they have in common is made once: the prepared sets, and each saliency network with its maps,
which serves all runs that differ in the quality network alone. A run that is finished is not
repeated. Any number of processes, on one machine or on many, work on one sweep when each is started
with the same command and the same workdir: every run is taken by one of them, held by a file lock
that ends with its process.
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
from dagr_jax.stages.artifacts import StageError, claim, digest, plain, read_json, write_json
from dagr_jax.stages.console import say
from dagr_jax.stages.folds import ALL
from dagr_jax.stages.prepare import check_source, prepare_set
from dagr_jax.stages.run import Run

RunStages = Callable[[config_dict.ConfigDict, Path], None]


@dataclasses.dataclass(frozen=True)
class Member:
    """One run of a sweep: its name in `config.runs`, its seed and its workdir.

    `result` is the row that is written when all its stages have come to their end.
    """

    name: str
    seed: int
    home: Path

    @property
    def result(self) -> Path:
        return self.home / "result.json"


def is_sweep(config: config_dict.ConfigDict) -> bool:
    """Whether a configuration is a sweep's, as `configs/ablation.py` gives it, or one run's."""
    return "runs" in config


def members(config: config_dict.ConfigDict, workdir: Path) -> list[Member]:
    """All runs of a sweep, in the order they are made: all of the first seed, then of the next."""
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
    """Makes the runs of a sweep that nobody has made, and draws its figures from what is there.

    A sweep may grow: runs and seeds can be added to a workdir, figures changed.

    Args:
        config: `base`, the configuration of one run; `seeds`; `saliency_sets`, name → data set,
            in `data_dir` or prepared into `data_NAME/`, which a run takes by `saliency.data_dir`
            NAME; `runs`, name → the fields of `base` that it changes; `figures`
            (`report.figures.draw`).
        workdir: Of the sweep. Each run has its own in `runs/`.
        run_stages: Runs the stages of one configuration in a workdir.
        names: Of the runs to make; none named: all.

    Returns:
        `sweep.json`: a row for each finished run.

    Raises:
        StageError: The workdir holds other runs of these names, a name is unknown, or runs failed:
            they are named, and the others are made.
    """
    workdir = workdir.resolve()  # the runs' configurations name its folders
    if distributed.several():
        raise StageError(
            "the runs of a sweep are of one process each; start the same command several times "
            "instead, without --coordinator and --distributed"
        )
    if unknown := [name for name in names if name not in config.runs]:
        known = ", ".join(config.runs)
        raise StageError(f"unknown run {', '.join(unknown)}; one of {known}")
    if config.base.split.fold == ALL:
        raise StageError("config.base.split.fold: each run of a sweep is of one fold; name it")
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
            break  # what is left is being made by others; those that end early leave it to a call
    path = summarise(workdir)
    if failed:
        names = ", ".join(member.home.name for member in chosen if member in failed)
        raise StageError(f"{len(failed)} runs failed, see above: {names}")
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
    """Makes one run, unless another process does or has done so. Whether it was tried."""
    with _lock(member.home, wait=False) as mine:
        if not mine or member.result.exists():
            return False
        done = sum(one.result.exists() for one in members(config, workdir))
        total = len(config.runs) * len(config.seeds)
        say(f"[{done} of {total} are done] {member.name}, seed {member.seed}")
        try:
            _make(config, workdir, member, run_stages)
        except Exception as error:  # of one run: the others are made all the same
            known = isinstance(error, DagrError)
            say(f"{member.home}: {error if known else traceback.format_exc().rstrip()}")
            failed.add(member)
    summarise(workdir)
    jax.clear_caches()  # nothing compiled for one run serves the next
    return True


def _begin(config: config_dict.ConfigDict, workdir: Path) -> None:
    """Writes down the configuration and prepares the data sets, once for all processes."""
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
            prepare_set(folder, dataset, run.stored[1], run.map_size)


def _set_of(config: config_dict.ConfigDict, workdir: Path, name: str) -> Path:
    """Folder of a saliency set."""
    given = config.saliency_sets[name].data_dir
    return Path(given) if given else workdir / f"data_{name}"


def _check_made(config: config_dict.ConfigDict, workdir: Path) -> None:
    """Raises StageError where a finished run is not what its name stands for now."""
    for member in members(config, workdir):
        if member.result.exists():
            claim(
                member.home / "config.json", plain(_resolved(config, workdir, member)[0]), "a run"
            )


def _wanted(config: config_dict.ConfigDict) -> list[str]:
    """The saliency sets that some run takes."""
    found = set()
    for name in [stage.name for stage in Run(config.base, Path()).gaze_stages]:
        found.add(config.base[name].data_dir)
        found |= {changes.get(name, {}).get("data_dir", "") for changes in config.runs.values()}
    return [name for name in config.saliency_sets if name in found]


def member_config(
    config: config_dict.ConfigDict, workdir: Path, member: Member
) -> config_dict.ConfigDict:
    """The configuration of one run: the base with its changes, its seed, and the shared sets.

    Raises:
        StageError: A change names a field that the base has not.
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
    """The configuration of one run, that of its saliency network's run (None: it has none of its
    own to train), and that run's workdir."""
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
    """Makes one run, and the saliency network that it needs if no other run has."""
    made, shared, home = _resolved(config, workdir, member)
    if shared is not None:
        with _lock(home, wait=True):
            run_stages(shared, home)
    run_stages(made, member.home)
    row: dict[str, Any] = {"run": member.name, "seed": member.seed, "dataset": made.dataset.name}
    tested = member.home / "test" / "metrics.json"
    if tested.exists():
        found = read_json(tested)
        row |= {name: found[name]["value"] for name in METRICS + FITTED}
    write_json(member.result, row)


def summarise(workdir: Path) -> Path:
    """Writes `sweep.json`, a row for each finished run, and draws the figures into `figures/`.

    Raises:
        StageError: The folder is no sweep's.
    """
    path, home = workdir / "sweep.json", workdir / "config.json"
    if not home.is_file() or "runs" not in (held := read_json(home)):
        raise StageError(f"{workdir}: holds no sweep; name the workdir of one")
    # Of the last command that was started here: another process may know of fewer runs.
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
    """Whether this process has the lock that stands beside a path; with `wait` it will."""
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
        yield True  # closing the file frees it, and so does the end of the process
