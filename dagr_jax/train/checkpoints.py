"""Checkpoints: one folder per step, written by Orbax, either complete or absent.

    DIR/<step>/variables   params and batch_stats of the complete model; scoring reads only these
              /state       step and optimizer state; with weight averaging, the raw weights too
              /data        JSON: position of the Grain iterator, the same on every host
              /meta        JSON: how to use the checkpoint and what must not change on resume
              /metrics     JSON: validation metrics at that step

Two steps are kept: the latest, to resume from, and the best by one validation metric, to use.
"""

import contextlib
import dataclasses
import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from dagr_jax import registry
from dagr_jax.runtime import machine
from dagr_jax.runtime.errors import environment
from dagr_jax.train.mesh import fresh_copy
from dagr_jax.train.meta import (
    BY_SRCC,
    READ_ERRORS,
    Best,
    CheckpointError,
    best_step,
    finite_or_none,
    read_meta,
    refuse_differences,
    unreadable,
)
from dagr_jax.train.packed import is_packed, read_packed
from dagr_jax.train.state import TrainState, Tree

if TYPE_CHECKING:  # Grain takes half a second to import, and reading weights does not need it.
    import grain


class _NotOrbax(logging.Filter):
    """Drops log records of Orbax and Grain below ERROR, and those of exceptions.

    The exceptions are raised as well.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        loud = record.levelno >= logging.ERROR and not record.exc_info
        return loud or not any(f"/{x}/" in record.pathname for x in ("orbax", "grain"))


_quiet = _NotOrbax()


class Checkpoints:
    """The checkpoints of one training stage. A context manager, for one process group.

    Args:
        directory: Folder of the checkpoints. It is created if it is missing, and leftovers of
            interrupted writes are removed.
        best: Metric that selects the best step; None: only the latest step is kept.
    """

    def __init__(self, directory: str | Path, best: Best | None = BY_SRCC) -> None:
        self.directory = Path(directory).resolve()
        self.best = best
        keep: list[policies.PreservationPolicy] = [policies.LatestN(1)]
        if best is not None:
            keep.append(
                policies.BestN(get_metric_fn=best.rank, n=1, keep_checkpoints_without_metrics=False)
            )
        # Writes are synchronous: when `save` returns, the step is on disk, and no background
        # thread reads buffers that the next train step donates.
        _silence_orbax()
        self._manager = ocp.CheckpointManager(
            self.directory,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=policies.AnyPreservationPolicy(keep),
                # The policy decides what is kept. Without best_fn Orbax writes no metrics, and a
                # resumed run would not know which step is the best.
                best_fn=None if best is None else best.rank,
                enable_async_checkpointing=False,
                cleanup_tmp_directories=True,
            ),
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Waits for unfinished writes and closes the folder."""
        with environment(self.directory):
            self._manager.wait_until_finished()
            self._manager.close()

    @property
    def latest_step(self) -> int | None:
        """The latest complete step; None if there is no step."""
        return self._manager.latest_step()

    @property
    def best_step(self) -> int | None:
        """The step with the best metric.

        It is the latest step if no step has the metric, and None if there is no step.
        """
        return best_step(self.directory)

    def save(
        self,
        step: int,
        state: TrainState,
        data_iter: "grain.DatasetIterator | None",
        metrics: Mapping[str, float] | None,
        meta: Mapping[str, Any],
    ) -> None:
        """Writes one step, then deletes the steps that are neither the latest nor the best.

        Args:
            step: Number of train steps done, larger than the latest saved step.
            state: State after `step`. Its complete variables to use are written, including the
                frozen parts.
            data_iter: Data iterator, after the last batch of `step`; None: no data position is
                written.
            metrics: Validation metrics by name; None if nothing was measured.
            meta: Checkpoint metadata (see `make_meta`).

        Raises:
            CheckpointError: `metrics` lacks the metric that selects the best step.
            DagrError: The disk is full.
        """
        if metrics is not None and self.best is not None and self.best.metric not in metrics:
            raise CheckpointError(
                f"{self.directory}: best={self.best.metric!r} is not among the validation "
                f"metrics {sorted(metrics)}; use one of them"
            )
        clean = None if metrics is None else finite_or_none(metrics)
        written = {
            **meta,
            "step": step,
            "metrics": clean,
            "best": None if self.best is None else dataclasses.asdict(self.best),
        }
        items = {
            "variables": ocp.args.StandardSave(state.variables_to_use()),
            "state": ocp.args.StandardSave(_progress(state)),
            "meta": ocp.args.JsonSave(written),
        }
        if data_iter is not None:
            # Grain's own handler writes one file per process and cannot read the files with
            # another number of processes.
            items["data"] = ocp.args.JsonSave(data_iter.get_state())
        with environment(self.directory):
            self._manager.save(step, args=ocp.args.Composite(**items), metrics=clean, force=True)

    def restore_latest(
        self,
        template: TrainState,
        data_iter: "grain.DatasetIterator | None",
        meta: Mapping[str, Any],
    ) -> TrainState | None:
        """Restores the latest state, and moves `data_iter` to its position.

        Args:
            template: A state of the same run with the shapes, types and shardings to restore. The
                numbers of devices and processes may differ from those of the run that wrote it.
            data_iter: Data iterator, which is moved in place; None: no position is restored.
            meta: Metadata of this run. Every field of MUST_MATCH must equal the checkpoint's.

        Returns:
            The state; None if there is no step.

        Raises:
            CheckpointError: The checkpoint belongs to another run, model or data pipeline (the
                message lists the differences), or it is unreadable.
        """
        step = self.latest_step
        if step is None:
            return None
        where = self.directory / str(step)
        refuse_differences(where, read_meta(where), meta)
        whole = {"variables": template.variables_to_use(), "state": _progress(template)}
        items: dict[str, Any] = {
            name: ocp.args.StandardRestore(jax.tree.map(_abstract, tree))
            for name, tree in whole.items()
        }
        if data_iter is not None:
            if not (where / "data").exists():
                raise CheckpointError(f"{where}: has no data position; start in a new workdir")
            items["data"] = ocp.args.JsonRestore()
        try:
            _refuse_shapes(where, whole)
            restored = self._manager.restore(step, args=ocp.args.Composite(**items))
            if data_iter is not None:
                data_iter.set_state(restored["data"])
        except (CheckpointError, jax.errors.JaxRuntimeError):
            raise  # A JaxRuntimeError is caused by the device (such as its memory), not the file.
        except READ_ERRORS as error:
            raise unreadable(where, error) from error
        # A restored buffer may be shared with the reader, and the train step donates its input.
        variables, progress = fresh_copy((restored["variables"], restored["state"]))
        used = {
            "params": {k: variables["params"][k] for k in template.params},
            "batch_stats": {k: variables["batch_stats"][k] for k in template.batch_stats},
        }
        frozen = {
            kind: {k: variables[kind][k] for k in part} for kind, part in template.frozen.items()
        }
        if template.average is not None:
            return template.replace(**progress, frozen=frozen, average=used)
        return template.replace(**progress, **used, frozen=frozen)


def _progress(state: TrainState) -> dict[str, Tree]:
    """Returns what resuming needs besides the variables to use, by field of the state."""
    progress = {"step": state.step, "opt_state": state.opt_state}
    if state.average is not None:
        progress |= {"params": state.params, "batch_stats": state.batch_stats}
    return progress


def write_variables(
    directory: str | Path, variables: Mapping[str, Tree], meta: Mapping[str, Any]
) -> None:
    """Writes weights that were not trained here as step 0 of a new folder, atomically.

    Only one process calls this function; other processes may exist.

    Args:
        directory: New folder, which `load_variables` can read.
        variables: {'params', 'batch_stats'}; 'batch_stats' may be missing.
        meta: Checkpoint metadata (see `make_meta`).

    Raises:
        CheckpointError: The folder already exists.
    """
    directory = Path(directory).resolve()
    if directory.exists():
        raise CheckpointError(f"{directory}: already exists; use another folder")
    _silence_orbax()
    partial = directory.with_name(f".{directory.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    with environment(directory), contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, partial, ignore_errors=True)
        partial.mkdir(parents=True)
        options = ocp.CheckpointManagerOptions(create=False, multiprocessing_options=_alone())
        with ocp.CheckpointManager(partial, options=options) as manager:
            items = {
                # With several hosts, Orbax rejects JAX arrays that belong to one host.
                "variables": ocp.args.StandardSave(
                    jax.device_get({"batch_stats": {}, **variables})
                ),
                "meta": ocp.args.JsonSave({**meta, "step": 0, "metrics": None, "best": None}),
            }
            manager.save(0, args=ocp.args.Composite(**items), force=True)
        os.replace(partial, directory)


def load_variables(path: str | Path) -> tuple[dict[str, Tree], dict[str, Any]]:
    """Loads the best variables of a run, to use them or to start another stage from them.

    It reads only parameters and running statistics, not the optimizer state, and needs no config.

    Args:
        path: A stage folder, a workdir, or a file of `packed.write_packed`. In a workdir, the stage
            that made the complete model is used; otherwise the last stage that has a checkpoint.

    Returns:
        ({'params', 'batch_stats'} on the default device, meta). `meta` holds the fields of
        `make_meta`, 'step' and 'metrics'. The step is the best one by the metric of the run; if
        the run had no metric, it is the latest.

    Raises:
        CheckpointError: There is no complete checkpoint, or it cannot be read.
    """
    if is_packed(Path(path)):
        variables, meta = read_packed(Path(path))
        return variables, registry.contract_of(meta["model"]).upgrade(meta)
    _silence_orbax()
    here = jax.sharding.SingleDeviceSharding(
        next(one for one in machine.devices() if one.process_index == jax.process_index())
    )
    where = _checkpoint_of(Path(path).resolve())
    if where is None:
        raise CheckpointError(
            f"{path}: no complete checkpoint in it or in its stage folders; give the workdir of a "
            "finished run, or a stage folder"
        )
    meta = read_meta(where)
    meta = registry.contract_of(meta["model"]).upgrade(meta)
    try:
        # The shardings on disk name the devices of the run that wrote them; `here` is a local one.
        template = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here),
            _stored(where / "variables"),
        )
        with ocp.StandardCheckpointer(multiprocessing_options=_alone()) as reader:
            return reader.restore(where / "variables", template), meta
    except jax.errors.JaxRuntimeError:
        raise
    except READ_ERRORS as error:
        raise unreadable(where, error) from error


def _checkpoint_of(given: Path) -> Path | None:
    """Returns the best step of a stage folder, or of the preferred stage of a workdir.

    The preferred stage made the complete model; if there is none, it is the last one.
    """
    if (step := best_step(given)) is not None:
        return given / str(step)
    found = []
    for folder in sorted(given.iterdir()) if given.is_dir() else ():
        if (step := best_step(folder)) is not None:
            where = folder / str(step)
            complete = read_meta(where)["mos_range"] is not None
            found.append((complete, where.stat().st_mtime_ns, where))
    return max(found)[2] if found else None


def _silence_orbax() -> None:
    logger = logging.getLogger("absl")
    if _quiet not in logger.filters:
        logger.addFilter(_quiet)


def _alone() -> ocp.options.MultiprocessingOptions:
    """Returns options with which this process reads or writes without waiting for others."""
    this = jax.process_index()
    return ocp.options.MultiprocessingOptions(primary_host=this, active_processes={this})


def _abstract(x: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)


def _stored(item: Path) -> Tree:
    """Returns names, shapes and types of a stored tree, without its values."""
    with ocp.StandardCheckpointer(multiprocessing_options=_alone()) as reader:
        found = reader.metadata(item).item_metadata
    if found is None:
        raise FileNotFoundError(f"{item.name} is missing or truncated")
    return found.tree


def _refuse_shapes(where: Path, wanted: Mapping[str, Tree]) -> None:
    """Raises CheckpointError if a name or shape differs, on either side, before reading values."""
    for item, tree in wanted.items():
        there, here = tree_shapes(_stored(where / item)), tree_shapes(tree)
        for name in sorted(there.keys() | here.keys()):
            if there.get(name) != here.get(name):
                raise CheckpointError(
                    f"{where}: does not match this model ({item}/{name} is "
                    f"{there.get(name, 'absent')} in the checkpoint, {here.get(name, 'absent')} "
                    "in this run); restore its config or use a new workdir"
                )


def tree_shapes(tree: Tree) -> dict[str, tuple[int, ...]]:
    """Returns {path, such as 'params/vqa/resnet/conv1/kernel': shape} of all leaves of a tree."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        "/".join(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path): (
            tuple(leaf.shape)
        )
        for path, leaf in leaves
    }
