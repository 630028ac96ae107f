"""Checkpoints: one folder a step, written by Orbax, complete or absent.

    DIR/<step>/variables   params and batch_stats of the complete model: all that scoring reads
              /state       step and optimizer state
              /data        position of the Grain iterator
              /meta        JSON: how to use it and what must not change on resume
              /metrics     JSON: validation metrics at that step

Kept are the latest step, to go on from, and the best by one validation metric, to use.
"""

import dataclasses
import json
import logging
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import grain
import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from dagr_jax import __version__
from dagr_jax.train.mesh import fresh_copy
from dagr_jax.train.state import TrainState, Tree

# A run goes on only from a checkpoint that agrees with it in all of these.
MUST_MATCH = ("model", "version", "config_digest", "worker_count")


# What Orbax and TensorStore raise on files that are cut, lost or of another format.
READ_ERRORS = (ValueError, OSError, KeyError, TypeError, RuntimeError)


class CheckpointError(ValueError):
    """A checkpoint is missing, incomplete, or of another run. One line."""


class _NotOrbax(logging.Filter):
    """Drops Orbax's and Grain's records below ERROR: they are dozens of lines a save."""

    def filter(self, record: logging.LogRecord) -> bool:
        loud = record.levelno >= logging.ERROR
        return loud or not any(f"/{x}/" in record.pathname for x in ("orbax", "grain"))


_quiet = _NotOrbax()


def make_meta(
    *,
    model: str,
    model_args: Mapping[str, Any],
    preset: str,
    dataset: str,
    mos_range: tuple[float, float] | None,
    sampling: Mapping[str, Any],
    resize: Mapping[str, Any],
    config_digest: str,
    worker_count: int,
) -> dict[str, Any]:
    """What a checkpoint says of itself, as JSON.

    Args:
      model: name in registry.MODELS.
      model_args: fields of that `Model`: `Model(**model_args)` builds it again.
      preset: 'paper' or 'release'.
      dataset: name in registry.DATASETS.
      mos_range: (lowest, highest) MOS, the ends of the [0, 1] scale; None for a saliency stage.
      sampling: how frames are chosen, e.g. {'num_frames': 8, 'rule': 'linspace'}.
      resize: how they are resized, e.g. {'size': [224, 398], 'antialias': False}.
      config_digest: digest of the stage's config; another digest is refused on resume.
      worker_count: Grain worker processes; the iterator's state depends on it.
    """
    return {
        "model": model,
        "model_args": dict(model_args),
        "preset": preset,
        "dataset": dataset,
        "mos_range": None if mos_range is None else list(mos_range),
        "sampling": dict(sampling),
        "resize": dict(resize),
        "config_digest": config_digest,
        "worker_count": worker_count,
        "version": __version__,
    }


@dataclasses.dataclass(frozen=True)
class Best:
    """Which validation metric chooses the checkpoint to use. Ties go to the later step."""

    metric: str = "srcc"
    mode: str = "max"

    def __post_init__(self) -> None:
        if self.mode not in ("max", "min"):
            raise ValueError(f"best.mode={self.mode!r} must be max or min")

    def rank(self, metrics: Mapping[str, Any] | None) -> float:
        """Larger is better; −inf where the metric is missing or undefined (NaN)."""
        value = (metrics or {}).get(self.metric)
        if value is None or math.isnan(value):
            return -math.inf
        return float(value) if self.mode == "max" else -float(value)


BY_SRCC = Best("srcc", "max")


def finite_or_none(metrics: Mapping[str, Any]) -> dict[str, float | None]:
    """Metrics for JSON, which has no NaN: an undefined one (SRCC of constants) becomes null."""
    return {k: float(v) if math.isfinite(v) else None for k, v in metrics.items()}


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
        self._manager.wait_until_finished()
        self._manager.close()

    @property
    def latest_step(self) -> int | None:
        """The last complete step, or None."""
        return self._manager.latest_step()

    @property
    def best_step(self) -> int | None:
        """The step with the best metric; the latest where none has one; None without any."""
        return _best_step(self.directory)

    def save(
        self,
        step: int,
        state: TrainState,
        data_iter: grain.DatasetIterator | None,
        metrics: Mapping[str, float] | None,
        meta: Mapping[str, Any],
    ) -> None:
        """Writes one step, then deletes what is neither the latest nor the best.

        Args:
          step: train steps done; must exceed the latest saved step.
          state: its variables are written whole, frozen parts included.
          data_iter: its position after the last batch of `step`.
          metrics: validation metrics, or None where nothing was measured.
          meta: see `make_meta`.

        Raises:
          CheckpointError: `metrics` lacks the metric that chooses the best.
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
            "variables": ocp.args.StandardSave(state.variables()),
            "state": ocp.args.StandardSave({"step": state.step, "opt_state": state.opt_state}),
            "meta": ocp.args.JsonSave(written),
        }
        if data_iter is not None:
            items["data"] = grain.checkpoint.CheckpointSave(data_iter)
        self._manager.save(step, args=ocp.args.Composite(**items), metrics=clean, force=True)

    def restore_latest(
        self,
        template: TrainState,
        data_iter: grain.DatasetIterator | None,
        meta: Mapping[str, Any],
    ) -> TrainState | None:
        """The latest state, and `data_iter` moved to its position; None where there is no step.

        Args:
          template: a state of the same run with the shapes, types and shardings to restore to; the
            number of devices may differ from that of the run which wrote.
          data_iter: moved in place.
          meta: this run's; must agree with the checkpoint's in every field of MUST_MATCH.

        Raises:
          CheckpointError: another run, model or data pipeline, with what differs; or unreadable.
        """
        step = self.latest_step
        if step is None:
            return None
        where = self.directory / str(step)
        _refuse_differences(where, _read_meta(where), meta)
        progress = {"step": template.step, "opt_state": template.opt_state}
        whole = {"variables": template.variables(), "state": progress}
        items: dict[str, Any] = {
            name: ocp.args.StandardRestore(jax.tree.map(_abstract, tree))
            for name, tree in whole.items()
        }
        if data_iter is not None:
            if not (where / "data").exists():
                raise CheckpointError(f"{where}: holds no data position; start in a new workdir")
            items["data"] = grain.checkpoint.CheckpointRestore(data_iter)
        try:
            _refuse_shapes(where, whole)
            restored = self._manager.restore(step, args=ocp.args.Composite(**items))
        except CheckpointError:
            raise
        except READ_ERRORS as error:
            raise _unreadable(where, error) from error
        # A restored buffer may be shared with the reader; the train step donates its input.
        variables, progress = fresh_copy((restored["variables"], restored["state"]))
        return template.replace(
            step=progress["step"],
            opt_state=progress["opt_state"],
            params={k: variables["params"][k] for k in template.params},
            batch_stats={k: variables["batch_stats"][k] for k in template.batch_stats},
            frozen={
                kind: {k: variables[kind][k] for k in part}
                for kind, part in template.frozen.items()
            },
        )


def load_variables(path: str | Path) -> tuple[dict[str, Tree], dict[str, Any]]:
    """The best variables of a run, to use or to start another stage from.

    Reads no optimizer state and needs no config: parameters and running statistics alone.

    Args:
      path: a workdir (its `vqa/` is taken), or a stage folder such as `vqa/` or `saliency/`.

    Returns:
      ({'params', 'batch_stats'} on the default device, meta); meta as `make_meta` gives it, and
      'step' and 'metrics'. The best step by the metric that the run chose by; the latest where
      it had none.

    Raises:
      CheckpointError: no complete checkpoint there, or one that cannot be read.
    """
    _silence_orbax()
    given = Path(path).resolve()
    for folder in (given / "vqa", given):
        if any(_steps(folder)):
            break
    else:
        raise CheckpointError(
            f"{path}: no complete checkpoint in it or in its vqa/; "
            "name the workdir of a finished run, or its vqa/ or saliency/ folder"
        )
    where = folder / str(_best_step(folder))
    meta = _read_meta(where)
    try:
        # The shardings on disk name the devices of the run that wrote; here is this host's.
        here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        template = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here),
            _stored(where / "variables"),
        )
        with ocp.StandardCheckpointer() as reader:
            return reader.restore(where / "variables", template), meta
    except READ_ERRORS as error:
        raise _unreadable(where, error) from error


def _silence_orbax() -> None:
    logger = logging.getLogger("absl")
    if _quiet not in logger.filters:
        logger.addFilter(_quiet)


def _steps(directory: Path) -> Iterator[int]:
    """Steps whose write was finished: Orbax renames a folder into place as its last act."""
    if directory.is_dir():
        for child in directory.iterdir():
            if child.name.isdigit() and (child / "_CHECKPOINT_METADATA").exists():
                yield int(child.name)


def _best_step(directory: Path) -> int | None:
    """The best step by the metric that the latest names; the latest where none has it."""
    metas = {step: _read_meta(directory / str(step)) for step in _steps(directory)}
    if not metas:
        return None
    chosen = metas[max(metas)]["best"]
    if chosen is None:
        return max(metas)
    best = Best(**chosen)
    return max(metas, key=lambda step: (best.rank(metas[step]["metrics"]), step))


def _read_meta(where: Path) -> dict[str, Any]:
    try:
        return json.loads((where / "meta" / "metadata").read_text())
    except READ_ERRORS as error:
        raise _unreadable(where, error) from error


def _unreadable(where: Path, error: Exception) -> CheckpointError:
    first = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
    return CheckpointError(f"{where}: cannot be read ({first}); delete this folder to fall back")


def _refuse_differences(where: Path, stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    differs = [
        f"{key} {stored.get(key)!r} there, {wanted[key]!r} here"
        for key in MUST_MATCH
        if key in wanted and stored.get(key) != wanted[key]
    ]
    if differs:
        raise CheckpointError(
            f"{where}: is of another run ({'; '.join(differs)}); "
            "restore these settings or use a new workdir"
        )


def _abstract(x: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)


def _stored(item: Path) -> Tree:
    """Names, shapes and types of a stored tree, without its values."""
    with ocp.StandardCheckpointer() as reader:
        found = reader.metadata(item).item_metadata
    if found is None:
        raise FileNotFoundError(f"{item.name} is lost or cut")
    return found.tree


def _refuse_shapes(where: Path, wanted: Mapping[str, Tree]) -> None:
    """Two-sided check of names and shapes, before anything is read."""
    for item, tree in wanted.items():
        there, here = _shapes(_stored(where / item)), _shapes(tree)
        for name in sorted(there.keys() | here.keys()):
            if there.get(name) != here.get(name):
                raise CheckpointError(
                    f"{where}: does not fit this model ({item}/{name} is "
                    f"{there.get(name, 'absent')} there, {here.get(name, 'absent')} here); "
                    "restore its config or use a new workdir"
                )


def _shapes(tree: Tree) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        "/".join(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path): (
            tuple(leaf.shape)
        )
        for path, leaf in leaves
    }
