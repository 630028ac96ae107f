"""The one training loop: resume, step, log, evaluate, save."""

import dataclasses
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import grain
import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from tqdm import tqdm

from dagr_jax.train import mesh as mesh_lib
from dagr_jax.train.checkpoints import BY_SRCC, Best, Checkpoints, finite_or_none
from dagr_jax.train.state import OptimConfig, TrainState, make_optimizer, make_schedule
from dagr_jax.train.steps import Task, make_train_step

Evaluate = Callable[[TrainState], Mapping[str, float]]


class StageConfig(Protocol):
    """The section of a config that one training stage reads (plain data, no defaults).

    Attributes:
      steps: train steps of the whole run.
      eval_every: evaluate and save every so many steps, and after the last.
      log_every: one line of log.jsonl every so many steps.
      batch_size: global batch, over all devices and hosts.
      seed: of augmentation and dropout.
      optim: see state.OptimConfig.
    """

    steps: int
    eval_every: int
    log_every: int
    batch_size: int
    seed: int
    optim: OptimConfig


class TrainingError(RuntimeError):
    """Training cannot go on. One line: step, cause, mend."""


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
) -> TrainState:
    """Trains one stage to its last step, from its latest checkpoint if there is one.

    A stage that was finished returns at once. On CPU an interrupted and resumed run gives the
    bits of an uninterrupted one: draws depend on (seed, step, record) alone, and state and data
    position are saved together.

    Args:
      name: stage; its checkpoints and log.jsonl lie in `workdir/name`.
      task: loss and what is trained.
      config: see StageConfig.
      state: at step 0, from `task.init_state(variables, make_optimizer(config.optim,
        config.steps))`; not consumed.
      train_iter: an endless Grain iterator of host batches (dicts with 'index'), each this host's
        share of the global batch. Moved to the checkpoint's position on resume.
      evaluate: state → validation metrics, which must hold the one that `best` names; None: none.
      workdir: of the run.
      meta: see checkpoints.make_meta.
      mesh: devices, see mesh.make_mesh.
      best: which checkpoint to keep beside the latest.

    Returns:
      The state after the last step, replicated over the mesh.

    Raises:
      ValueError: the batch does not divide over the devices.
      CheckpointError: the checkpoint is of another run, or unreadable.
      TrainingError: a loss that is not finite, or data that ends.
    """
    mesh_lib.check_divides(config.batch_size, mesh)
    folder = Path(workdir) / name
    schedule = make_schedule(config.optim, config.steps)
    tx = make_optimizer(config.optim, config.steps)
    step_fn = mesh_lib.jit_train_step(make_train_step(task.loss, tx), mesh)
    key = jax.device_put(jax.random.key(config.seed), mesh_lib.replicated(mesh))
    state = mesh_lib.replicate(state, mesh)
    with Checkpoints(folder, best if evaluate is not None else None) as checkpoints:
        state = checkpoints.restore_latest(state, train_iter, meta) or state
        first = int(state.step)
        if first >= config.steps:
            return state
        log = _Log(folder / "log.jsonl", name, first, config)
        pending: _Pending | None = None
        try:
            for step in range(first + 1, config.steps + 1):
                batch = _next_batch(train_iter, config.batch_size, step)
                state, metrics = step_fn(state, mesh_lib.put_batch(batch, mesh), key)
                # The step before this one is checked while this one runs: a bad loss stops the
                # run within a step, and the device never waits for the host.
                log.add(pending)
                pending = _Pending(step, metrics, batch)
                due = step % config.eval_every == 0 or step == config.steps
                if not due and step % config.log_every:
                    continue
                log.add(pending)
                pending = None
                rate = float(schedule((step - 1) // config.optim.accumulate))
                line = log.averages(step, rate)
                if due:
                    measured = None if evaluate is None else dict(evaluate(state))
                    for metric, value in finite_or_none(measured or {}).items():
                        line[f"val_{metric}"] = value
                # The line first: a run killed before its save comes back and drops the line.
                log.write(line)
                if due:
                    checkpoints.save(step, state, train_iter, measured, meta)
        finally:
            log.close()
    return state


@dataclasses.dataclass
class _Pending:
    """A step that was handed to the device and not looked at yet."""

    step: int
    metrics: Mapping[str, jax.Array]
    batch: Mapping[str, np.ndarray]

    def read(self) -> dict[str, float]:
        """Waits for the step; raises TrainingError when its loss or gradient is not finite."""
        values = {k: float(v) for k, v in jax.device_get(dict(self.metrics)).items()}
        bad = [k for k in ("loss", "grad_norm") if not math.isfinite(values[k])]
        if bad:
            what = ", ".join(f"{k}={values[k]}" for k in bad)
            raise TrainingError(f"step {self.step}: {what}; {_suspects(self.batch)}")
        return values


def _suspects(batch: Mapping[str, np.ndarray]) -> str:
    """Names the records whose own values are not finite; all of the batch if none is."""
    index = np.asarray(batch["index"])
    for name, values in batch.items():
        if np.issubdtype(values.dtype, np.floating):
            rows = ~np.isfinite(values).reshape(len(index), -1).all(axis=1)
            if rows.any():
                return f"{name} is not finite in record {_list(index[rows])}; mend its label"
    return (
        f"the data of its records {_list(index)} is finite, so training diverged; "
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
            f"step {step}: the loader gives batches of {got}, batch_size={batch_size}; "
            "build the loader with the same batch_size"
        )
    return batch


class _Log:
    """log.jsonl, and progress on stderr: a bar on a terminal, plain lines elsewhere."""

    def __init__(self, path: Path, name: str, first: int, config: StageConfig) -> None:
        self.path, self.name, self.config = path, name, config
        self.sums: dict[str, float] = {}
        self.steps = 0
        self.writes = jax.process_index() == 0
        terminal = sys.stderr.isatty()
        self.lines = self.writes and not terminal
        if self.writes:
            self.before = _drop_lines_after(path, first)
        else:
            self.before = 0.0
        self.bar = tqdm(
            total=config.steps,
            initial=first,
            desc=name,
            unit="step",
            dynamic_ncols=True,
            disable=not (terminal and self.writes),
        )
        self.begin = self.mark = time.perf_counter()
        self.timed = 0  # steps since `mark`
        self.warm = False

    def add(self, pending: _Pending | None) -> None:
        """Takes a finished step into the running averages."""
        if pending is None:
            return
        for key, value in pending.read().items():
            self.sums[key] = self.sums.get(key, 0.0) + value
        self.steps += 1
        self.timed += 1
        self.bar.update()
        if not self.warm:  # the first step compiles: it would spoil rate and ETA
            self.warm, self.timed, self.mark = True, 0, time.perf_counter()

    def averages(self, step: int, learning_rate: float) -> dict[str, float | None]:
        """Means since the last line; the rate leaves out compilation and evaluation."""
        now = time.perf_counter()
        line: dict[str, float | None] = {"step": step}
        line |= {key: total / self.steps for key, total in self.sums.items()}
        line["learning_rate"] = learning_rate
        rate = self.timed / (now - self.mark) if self.timed else None
        line["steps_per_second"] = rate
        line["clips_per_second"] = rate and rate * self.config.batch_size
        line["seconds"] = self.before + now - self.begin
        return line

    def write(self, line: dict[str, float | None]) -> None:
        """Appends the line, shows it, and starts the next interval."""
        if self.writes:
            with self.path.open("a") as file:
                file.write(json.dumps(line) + "\n")
        scores = {k: v for k, v in line.items() if k == "loss" or k.startswith("val_")}
        text = "  ".join(
            f"{k} {'undefined' if v is None else f'{v:.4g}'}" for k, v in scores.items()
        )
        self.bar.set_postfix_str(text)
        if self.lines:
            rate, step = line["steps_per_second"], int(line["step"] or 0)
            left = self.config.steps - step
            if rate:
                text += f"  {rate * self.config.batch_size:.3g} clips/s"
                text += f"  ETA {tqdm.format_interval(left / rate)}"
            print(f"{self.name} {step}/{self.config.steps}  {text}", file=sys.stderr, flush=True)
        self.sums, self.steps, self.timed = {}, 0, 0
        self.mark = time.perf_counter()

    def close(self) -> None:
        self.bar.close()


def _drop_lines_after(path: Path, step: int) -> float:
    """Removes what an interrupted run logged after the step it resumes from.

    Returns:
      Seconds trained up to there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    kept, seconds = [], 0.0
    for text in path.read_text().splitlines() if path.exists() else []:
        try:
            line = json.loads(text)
        except json.JSONDecodeError:  # the last line of a killed run may be torn
            break
        if line["step"] > step:
            break
        kept.append(text + "\n")
        seconds = line["seconds"]
    fresh = path.with_suffix(".tmp")
    fresh.write_text("".join(kept))
    os.replace(fresh, path)
    return seconds


def predict_all(
    predict: Callable[..., jax.Array],
    variables: Any,
    batches: Iterable[Mapping[str, np.ndarray]],
    mesh: Mesh,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Runs a prediction over an evaluation set, each record once.

    Args:
      predict: `jit_predict(task.predict, mesh)`.
      variables: replicated over the mesh.
      batches: padded host batches with 'index' (B,) and 'mask' (B,), true for real records.
      mesh: devices.

    Yields:
      (index, prediction) of the real records of each batch, over all hosts.

    Raises:
      ValueError: the batch does not divide over the devices.
    """
    for batch in batches:
        size = len(batch["index"]) * jax.process_count()
        mesh_lib.check_divides(size, mesh)
        values = jax.device_get(predict(variables, mesh_lib.put_batch(batch, mesh)))
        index, mask = np.asarray(batch["index"]), np.asarray(batch["mask"])
        if jax.process_count() > 1:
            index, mask = multihost_utils.process_allgather((index, mask), tiled=True)
        yield index[mask], values[mask]
