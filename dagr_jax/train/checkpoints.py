"""Checkpoints: one folder a step, written by Orbax, complete or absent.

    DIR/<step>/variables   params and batch_stats of the complete model: all that scoring reads
              /state       step, optimizer state, and where the above is an average the weights
              /data        JSON: position of the Grain iterator, the same on every host
              /meta        JSON: how to use it and what must not change on resume
              /metrics     JSON: validation metrics at that step

Kept are the latest step, to go on from, and the best by one validation metric, to use.
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
from dagr_jax.train.state import TrainState, Tree

if TYPE_CHECKING:  # Grain takes half a second to load, which reading weights does not need.
    import grain


class _NotOrbax(logging.Filter):
    """Drops records of Orbax and Grain below ERROR, and of exceptions, which are raised as well."""

    def filter(self, record: logging.LogRecord) -> bool:
        loud = record.levelno >= logging.ERROR and not record.exc_info
        return loud or not any(f"/{x}/" in record.pathname for x in ("orbax", "grain"))


_quiet = _NotOrbax()


class Checkpoints:
    """The checkpoints of one training stage. A context manager, for one process group.

    Args:
      directory: made if missing; leftovers of interrupted writes are removed.
      best: the metric to keep the best by; None keeps the latest only.
    """

    def __init__(self, directory: str | Path, best: Best | None = BY_SRCC) -> None:
        self.directory = Path(directory).resolve()
        self.best = best
        keep: list[policies.PreservationPolicy] = [policies.LatestN(1)]
        if best is not None:
            keep.append(
                policies.BestN(get_metric_fn=best.rank, n=1, keep_checkpoints_without_metrics=False)
            )
        # Writes are synchronous: once `save` returns the step is on disk, and no background
        # thread reads buffers that the next, donating, train step gives away.
        _silence_orbax()
        self._manager = ocp.CheckpointManager(
            self.directory,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=policies.AnyPreservationPolicy(keep),
                # The policy decides what is kept; without best_fn no metrics are written, and a
                # resumed run would not know which step was the best.
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
        """Waits for what is being written."""
        with environment(self.directory):
            self._manager.wait_until_finished()
            self._manager.close()

    @property
    def latest_step(self) -> int | None:
        """The last complete step, or None."""
        return self._manager.latest_step()

    @property
    def best_step(self) -> int | None:
        """The step with the best metric; the latest where none has one; None without any."""
        return best_step(self.directory)

    def save(
        self,
        step: int,
        state: TrainState,
        data_iter: "grain.DatasetIterator | None",
        metrics: Mapping[str, float] | None,
        meta: Mapping[str, Any],
    ) -> None:
        """Writes one step, then deletes what is neither the latest nor the best.

        Args:
          step: train steps done; must exceed the latest saved step.
          state: its variables to use are written whole, frozen parts included.
          data_iter: its position after the last batch of `step`.
          metrics: validation metrics, or None where nothing was measured.
          meta: see `make_meta`.

        Raises:
          CheckpointError: `metrics` lacks the metric that chooses the best.
          DagrError: the disk is full.
        """
        if metrics is not None and self.best is not None and self.best.metric not in metrics:
            raise CheckpointError(
                f"{self.directory}: best={self.best.metric!r} is not among the validation "
                f"metrics {sorted(metrics)}; name one of them"
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
            # Grain's own handler writes one file a process, and refuses another number of them.
            items["data"] = ocp.args.JsonSave(data_iter.get_state())
        with environment(self.directory):
            self._manager.save(step, args=ocp.args.Composite(**items), metrics=clean, force=True)

    def restore_latest(
        self,
        template: TrainState,
        data_iter: "grain.DatasetIterator | None",
        meta: Mapping[str, Any],
    ) -> TrainState | None:
        """The latest state, and `data_iter` moved to its position; None where there is no step.

        Args:
          template: a state of the same run with the shapes, types and shardings to restore to; the
            numbers of devices and of processes may differ from those of the run which wrote.
          data_iter: moved in place.
          meta: this run's; must agree with the checkpoint's in every field of MUST_MATCH.

        Raises:
          CheckpointError: another run, model or data pipeline, with what differs; or unreadable.
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
                raise CheckpointError(f"{where}: holds no data position; start in a new workdir")
            items["data"] = ocp.args.JsonRestore()
        try:
            _refuse_shapes(where, whole)
            restored = self._manager.restore(step, args=ocp.args.Composite(**items))
            if data_iter is not None:
                data_iter.set_state(restored["data"])
        except (CheckpointError, jax.errors.JaxRuntimeError):
            raise  # the latter: the device is at fault (its memory), not the file
        except READ_ERRORS as error:
            raise unreadable(where, error) from error
        # A restored buffer may be shared with the reader; the train step donates its input.
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
    """What going on needs beside the variables to use, by the fields of the state."""
    progress = {"step": state.step, "opt_state": state.opt_state}
    if state.average is not None:
        progress |= {"params": state.params, "batch_stats": state.batch_stats}
    return progress


def write_variables(
    directory: str | Path, variables: Mapping[str, Tree], meta: Mapping[str, Any]
) -> None:
    """Writes weights that no run here trained as step 0 of a new folder, whole or not at all.

    For one process, which need not be the only one.

    Args:
      directory: `load_variables` reads it again.
      variables: {'params', 'batch_stats'}; 'batch_stats' may lack.
      meta: see `make_meta`.

    Raises:
      CheckpointError: the folder exists.
    """
    directory = Path(directory).resolve()
    if directory.exists():
        raise CheckpointError(f"{directory}: exists; delete it, or take another folder")
    _silence_orbax()
    partial = directory.with_name(f".{directory.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    with environment(directory), contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, partial, ignore_errors=True)
        partial.mkdir(parents=True)
        options = ocp.CheckpointManagerOptions(create=False, multiprocessing_options=_alone())
        with ocp.CheckpointManager(partial, options=options) as manager:
            items = {
                # Orbax takes no array of one host where there are several.
                "variables": ocp.args.StandardSave(
                    jax.device_get({"batch_stats": {}, **variables})
                ),
                "meta": ocp.args.JsonSave({**meta, "step": 0, "metrics": None, "best": None}),
            }
            manager.save(0, args=ocp.args.Composite(**items), force=True)
        os.replace(partial, directory)


def load_variables(path: str | Path) -> tuple[dict[str, Tree], dict[str, Any]]:
    """The best variables of a run, to use or to start another stage from.

    Reads no optimizer state and needs no config: parameters and running statistics alone.

    Args:
      path: a stage folder, or a workdir: of its stages the one that made the complete model is
        taken, or else the last one that has a checkpoint.

    Returns:
      ({'params', 'batch_stats'} on the default device, meta); meta as `make_meta` gives it, and
      'step' and 'metrics'. The best step by the metric that the run chose by; the latest where
      it had none.

    Raises:
      CheckpointError: no complete checkpoint there, or one that cannot be read.
    """
    _silence_orbax()
    where = _checkpoint_of(Path(path).resolve())
    if where is None:
        raise CheckpointError(
            f"{path}: no complete checkpoint in it or in the folder of a stage in it; name the "
            "workdir of a finished run, or the folder of a stage"
        )
    meta = read_meta(where)
    meta = registry.contract_of(meta["model"]).upgrade(meta)
    try:
        # The shardings on disk name the devices of the run that wrote; here is this host's.
        here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
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
    """The best step of a stage folder, or of the stage of a workdir that is worth the most."""
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
    """This process reads or writes without waiting for others."""
    this = jax.process_index()
    return ocp.options.MultiprocessingOptions(primary_host=this, active_processes={this})


def _abstract(x: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)


def _stored(item: Path) -> Tree:
    """Names, shapes and types of a stored tree, without its values."""
    with ocp.StandardCheckpointer(multiprocessing_options=_alone()) as reader:
        found = reader.metadata(item).item_metadata
    if found is None:
        raise FileNotFoundError(f"{item.name} is lost or cut")
    return found.tree


def _refuse_shapes(where: Path, wanted: Mapping[str, Tree]) -> None:
    """Two-sided check of names and shapes, before anything is read."""
    for item, tree in wanted.items():
        there, here = tree_shapes(_stored(where / item)), tree_shapes(tree)
        for name in sorted(there.keys() | here.keys()):
            if there.get(name) != here.get(name):
                raise CheckpointError(
                    f"{where}: does not fit this model ({item}/{name} is "
                    f"{there.get(name, 'absent')} there, {here.get(name, 'absent')} here); "
                    "restore its config or use a new workdir"
                )


def tree_shapes(tree: Tree) -> dict[str, tuple[int, ...]]:
    """Shape of each leaf by its path, such as 'params/vqa/resnet/conv1/kernel'."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        "/".join(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path): (
            tuple(leaf.shape)
        )
        for path, leaf in leaves
    }
