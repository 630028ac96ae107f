"""The training loop: resume, step, log, evaluate, save."""

import dataclasses
import math
import signal
import threading
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import grain
import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from dagr_jax.models.contract import Task
from dagr_jax.runtime.errors import DagrError
from dagr_jax.train import mesh as mesh_lib
from dagr_jax.train.checkpoints import Checkpoints
from dagr_jax.train.log import RunLog
from dagr_jax.train.meta import BY_SRCC, Best, best_rank, finite_or_none
from dagr_jax.train.state import OptimConfig, TrainState, make_optimizer, make_schedule
from dagr_jax.train.steps import make_train_step

Evaluate = Callable[[TrainState], Mapping[str, float]]
Pictures = Callable[[], Mapping[str, np.ndarray]]


class StageConfig(Protocol):
    """The section of a config that one training stage reads (plain data, no defaults).

    Attributes:
        steps: Number of train steps of the whole run; 0: the initial variables stay unchanged.
        epoch_steps: Number of train steps of an epoch.
        eval_every: Interval of evaluation and saving, in steps. The last step is always evaluated
            and saved.
        patience: Number of evaluations without a new best one after which training ends; 0: it
            ends at the last step only.
        log_every: Interval of the lines of log.jsonl, in steps.
        batch_size: Global batch size, over all devices and hosts.
        seed: Seed of augmentation and dropout.
        optim: Optimizer settings (see `state.OptimConfig`).
    """

    steps: int
    epoch_steps: int
    eval_every: int
    patience: int
    log_every: int
    batch_size: int
    seed: int
    optim: OptimConfig


class TrainingError(DagrError):
    """Training cannot continue. The message is one line: step, cause, remedy."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM ended a run. Its last step is saved."""


def fit(
    *,
    name: str,
    task: Task,
    config: StageConfig,
    state: TrainState,
    train_iter: grain.DatasetIterator,
    evaluate: Evaluate | None,
    workdir: str | Path,
    meta: Mapping[str, Any],
    mesh: Mesh,
    best: Best | None = BY_SRCC,
    pictures: Pictures | None = None,
) -> TrainState:
    """Trains one stage to its end, from its latest checkpoint if there is one.

    The end is the last step, or the evaluation at which `config.patience` runs out.

    If the stage is already finished, the function returns at once. On CPU, an interrupted and
    resumed run is bit-identical to an uninterrupted run: random draws depend only on (seed, step,
    record), and state and data position are saved together.

    Ctrl-C and SIGTERM finish and save the current step and end the run. A second Ctrl-C ends it at
    once.

    Args:
        name: Name of the stage. Its checkpoints and log.jsonl are in `workdir/name`.
        task: Task of the stage: its loss, and which modules are trained.
        config: Settings of the stage (see `StageConfig`).
        state: State at step 0, from `create_state(variables, make_optimizer(config.optim,
            config.steps, config.epoch_steps), task.trained)`. It is not donated.
        train_iter: Endless Grain iterator of host batches (dicts with 'index'). On resume, it is
            moved to the position of the checkpoint.
        evaluate: Function state → validation metrics, which must include the metric that `best`
            names; None: no evaluation.
        workdir: Working directory of the run.
        meta: Checkpoint metadata (see `meta.make_meta`).
        mesh: Mesh of devices (see `mesh.make_mesh`).
        best: Metric that selects the checkpoint to keep besides the latest.
        pictures: Function → {name: RGB picture (H, W, 3) uint8} of the last evaluation, for
            TensorBoard; None: no pictures.

    Returns:
        The state after the last step that was done, replicated over the mesh.

    Raises:
        DagrError: The batch cannot be split evenly over the devices.
        CheckpointError: The checkpoint belongs to another run or is unreadable.
        TrainingError: The loss is not finite, or the training data ended.
        Interrupted: Ctrl-C or SIGTERM; the last step is saved.
    """
    mesh_lib.check_divides(config.batch_size, mesh)
    folder = Path(workdir) / name
    optim = config.optim
    schedule = make_schedule(optim, config.steps, config.epoch_steps)
    tx = make_optimizer(optim, config.steps, config.epoch_steps)
    step_fn = mesh_lib.jit_train_step(make_train_step(task.loss, tx, optim.ema), mesh)
    whole = mesh_lib.replicated(mesh)
    key = jax.jit(jax.random.key, static_argnums=0, out_shardings=whole)(config.seed)
    state = mesh_lib.replicate(state.with_average() if optim.ema else state, mesh)
    with Checkpoints(folder, best if evaluate is not None else None) as checkpoints:
        state = checkpoints.restore_latest(state, train_iter, meta) or state
        first = int(state.step)
        patience = _Patience(config, checkpoints)
        if first >= config.steps or patience.ended(first):
            if checkpoints.latest_step is None:  # A stage of 0 steps: its start is its result.
                checkpoints.save(first, state, train_iter, None, meta)
            return state
        pending: _Pending | None = None
        with RunLog(folder, name, first, config.steps, config.batch_size) as log, _Stop() as stop:
            for step in range(first + 1, config.steps + 1):
                batch = _next_batch(train_iter, config.batch_size, step)
                state, metrics = step_fn(state, mesh_lib.put_batch(batch, mesh), key)
                # The previous step is checked while this one runs: a bad loss stops the run within
                # one step, and the device never waits for the host.
                log.add(pending)
                pending = _Pending(step, metrics, batch)
                due = step % config.eval_every == 0 or step == config.steps
                logged = due or step % config.log_every == 0
                leave = stop.asked(step, everywhere=logged)
                if not logged and not leave:
                    continue
                log.add(pending)
                pending = None
                if logged:
                    line = log.averages(step, float(schedule((step - 1) // optim.accumulate)))
                measured = None
                if due:
                    measured = None if evaluate is None else dict(evaluate(state))
                    for metric, value in finite_or_none(measured or {}).items():
                        line[f"val_{metric}"] = value
                # Log before saving: if the run is killed in between, its resume drops the line.
                if logged:
                    log.write(line, pictures() if due and pictures is not None else {})
                if due or leave:
                    checkpoints.save(step, state, train_iter, measured, meta)
                # Evaluating and saving take time, so check for a signal that came meanwhile.
                if leave or (due and stop.asked(step, everywhere=True)):
                    raise Interrupted(f"{name}: interrupted, saved at step {step}/{config.steps}")
                if due and patience.ended(step, measured):
                    break
    return state


class _Patience:
    """Decides whether a stage ends because its validation no longer improves.

    An equal metric counts as a new best one, as in `meta.best_step`. It counts in memory, because
    on several hosts one deletes steps while others read.
    """

    def __init__(self, config: StageConfig, checkpoints: Checkpoints) -> None:
        self._wait = config.patience * config.eval_every
        self._best = checkpoints.best
        self._step = checkpoints.best_step or 0
        self._rank = best_rank(checkpoints.directory, self._best) if self._best else -math.inf

    def ended(self, step: int, measured: Mapping[str, float] | None = None) -> bool:
        """Returns whether to end after a step.

        Args:
            step: Step that is done.
            measured: Its validation metrics, if it was evaluated now.
        """
        if self._best is None or not self._wait:
            return False
        rank = self._best.rank(measured)
        if measured is not None and rank >= self._rank:  # as `meta.best_step` counts ties
            self._step, self._rank = step, rank
        return step - self._step >= self._wait


class _Stop:
    """Defers Ctrl-C and SIGTERM until the step is done. A context manager."""

    def __enter__(self) -> "_Stop":
        self._asked = False
        self._before: dict[int, Any] = {}
        # Python delivers signals only to the main thread.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._remember)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _remember(self, number: int, frame: types.FrameType | None) -> None:
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True

    def asked(self, step: int, *, everywhere: bool) -> bool:
        """Returns whether to save and end the run after this step.

        With several hosts, all of them end at the same step.

        Args:
            step: Step that is done, the same on all hosts.
            everywhere: With several hosts, whether to ask all of them now. If False, the answer is
                False.
        """
        if jax.process_count() == 1:
            return self._asked
        if not everywhere:
            return False
        return bool(np.any(multihost_utils.process_allgather(np.array(self._asked))))


@dataclasses.dataclass
class _Pending:
    """A step that was dispatched to the device and not checked yet."""

    step: int
    metrics: Mapping[str, jax.Array]
    batch: Mapping[str, np.ndarray]

    def read(self) -> dict[str, float]:
        """Waits for the step and returns its metrics.

        Raises:
            TrainingError: The loss or the norm of the gradient is not finite.
        """
        values = {k: float(v) for k, v in jax.device_get(dict(self.metrics)).items()}
        bad = [k for k in ("loss", "grad_norm") if not math.isfinite(values[k])]
        if bad:
            what = ", ".join(f"{k}={values[k]}" for k in bad)
            raise TrainingError(f"step {self.step}: {what}; {_suspects(self.batch)}")
        return values


def _suspects(batch: Mapping[str, np.ndarray]) -> str:
    """Returns the cause and remedy of a loss that is not finite.

    The text names the records with values that are not finite; if there are none, all records of
    the batch. With several hosts, it covers the records of all hosts, and all hosts must call this
    function together.
    """
    batch = {k: v for k, v in batch.items() if k == "index" or np.issubdtype(v.dtype, np.floating)}
    if jax.process_count() > 1:
        batch = multihost_utils.process_allgather(batch, tiled=True)
    index = np.asarray(batch["index"])
    for name, values in batch.items():
        if np.issubdtype(values.dtype, np.floating):
            rows = ~np.isfinite(values).reshape(len(index), -1).all(axis=1)
            if rows.any():
                return f"{name} is not finite in record {_list(index[rows])}; correct its label"
    return (
        f"all values in its records {_list(index)} are finite, so training diverged; "
        "lower optim.learning_rate or set optim.clip_norm"
    )


def _list(index: np.ndarray) -> str:
    return ", ".join(str(i) for i in index.tolist())


def _next_batch(
    train_iter: Iterator[Mapping[str, np.ndarray]], batch_size: int, step: int
) -> Mapping[str, np.ndarray]:
    try:
        batch = next(train_iter)
    except StopIteration:
        raise TrainingError(
            f"step {step}: the training data ended; repeat the data set, or lower steps"
        ) from None
    got = len(batch["index"]) * jax.process_count()
    if got != batch_size:
        raise TrainingError(
            f"step {step}: the loader gives batches of {got}, but batch_size={batch_size}; "
            "build the loader with the same batch_size"
        )
    return batch


def predict_all(
    predict: Callable[..., jax.Array],
    variables: Any,
    batches: Iterable[Mapping[str, np.ndarray]],
    mesh: Mesh,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Runs a prediction over an evaluation set, each record once.

    Args:
        predict: Compiled function (variables, batch) → predictions (B, …):
            `jit_predict(task.predict, mesh)`.
        variables: Variables, replicated over the mesh.
        batches: Padded host batches with 'index' (B,) and 'mask' (B,), True for real records.
        mesh: Mesh of devices.

    Yields:
        (index, prediction) of the real records of each batch, from all hosts.

    Raises:
        DagrError: The batch cannot be split evenly over the devices.
    """
    for batch in batches:
        size = len(batch["index"]) * jax.process_count()
        mesh_lib.check_divides(size, mesh)
        values = jax.device_get(predict(variables, mesh_lib.put_batch(batch, mesh)))
        index, mask = np.asarray(batch["index"]), np.asarray(batch["mask"])
        if jax.process_count() > 1:
            index, mask = multihost_utils.process_allgather((index, mask), tiled=True)
        yield index[mask], values[mask]
