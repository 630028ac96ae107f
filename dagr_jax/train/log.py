"""Output of a training run: log.jsonl, TensorBoard, and progress on stderr."""

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import jax
import numpy as np
from tensorboardX import SummaryWriter
from tqdm import tqdm

from dagr_jax.runtime.errors import environment


class Finished(Protocol):
    """A step whose metrics can be read once it has finished."""

    def read(self) -> dict[str, float]: ...


class RunLog:
    """log.jsonl, TensorBoard, and progress on stderr: a bar on a terminal, otherwise plain lines.

    A context manager. Only the first process writes files and shows progress.

    Args:
        folder: Folder of the stage. Log entries of an interrupted run after step `first` are
            removed.
        name: Name of the stage.
        first: Step that the run starts or resumes from.
        steps: Number of train steps of the whole run.
        batch_size: Global batch size, for the rate in clips per second.
    """

    def __init__(self, folder: Path, name: str, first: int, steps: int, batch_size: int) -> None:
        self.path, self.name = folder / "log.jsonl", name
        self.total, self.batch_size = steps, batch_size
        self.sums: dict[str, float] = {}
        self.steps = 0
        self.writes = jax.process_index() == 0
        terminal = sys.stderr.isatty()
        self.lines = self.writes and not terminal
        self.before = 0.0
        self.board: SummaryWriter | None = None
        if self.writes:
            self.before = _drop_lines_after(self.path, first)
            # TensorBoard also drops what an interrupted run wrote after this step.
            self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=first + 1)
        self.bar = tqdm(
            total=steps,
            initial=first,
            desc=name,
            unit="step",
            dynamic_ncols=True,
            disable=not (terminal and self.writes),
        )
        self.begin = self.mark = time.perf_counter()
        self.timed = 0  # steps since `mark`
        self.warm = False

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()
        if self.board is not None:
            self.board.close()

    def add(self, finished: Finished | None) -> None:
        """Adds the metrics of a finished step to the running averages."""
        if finished is None:
            return
        for key, value in finished.read().items():
            self.sums[key] = self.sums.get(key, 0.0) + value
        self.steps += 1
        self.timed += 1
        self.bar.update()
        if not self.warm:  # The first step compiles, which would distort rate and ETA.
            self.warm, self.timed, self.mark = True, 0, time.perf_counter()

    def averages(self, step: int, learning_rate: float) -> dict[str, float | None]:
        """Returns the means since the last line. The rate excludes compilation and evaluation."""
        now = time.perf_counter()
        line: dict[str, float | None] = {"step": step}
        line |= {key: total / self.steps for key, total in self.sums.items()}
        line["learning_rate"] = learning_rate
        rate = self.timed / (now - self.mark) if self.timed else None
        line["steps_per_second"] = rate
        line["clips_per_second"] = rate and rate * self.batch_size
        line["seconds"] = self.before + now - self.begin
        return line

    def write(self, line: dict[str, float | None], pictures: Mapping[str, np.ndarray]) -> None:
        """Appends a line to log.jsonl and TensorBoard, shows it, and starts the next interval."""
        if self.writes:
            with environment(self.path), self.path.open("a") as file:
                file.write(json.dumps(line) + "\n")
        if self.board is not None:
            step = int(line["step"] or 0)
            for key, value in line.items():
                if value is not None and key != "step":
                    self.board.add_scalar(key, value, step)
            for key, picture in pictures.items():
                self.board.add_image(key, picture, step, dataformats="HWC")
            self.board.flush()
        scores = {k: v for k, v in line.items() if k == "loss" or k.startswith("val_")}
        text = "  ".join(
            f"{k} {'undefined' if v is None else f'{v:.4g}'}" for k, v in scores.items()
        )
        self.bar.set_postfix_str(text)
        if self.lines:
            rate, step = line["steps_per_second"], int(line["step"] or 0)
            left = self.total - step
            if rate:
                text += f"  {rate * self.batch_size:.3g} clips/s"
                text += f"  ETA {tqdm.format_interval(left / rate)}"
            print(f"{self.name} {step}/{self.total}  {text}", file=sys.stderr, flush=True)
        self.sums, self.steps, self.timed = {}, 0, 0
        self.mark = time.perf_counter()


def _drop_lines_after(path: Path, step: int) -> float:
    """Removes the lines that an interrupted run logged after the step that it resumes from.

    Returns:
        Training time up to that step, in seconds.
    """
    with environment(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    kept, seconds = [], 0.0
    for text in path.read_text().splitlines() if path.exists() else []:
        try:
            line = json.loads(text)
        except json.JSONDecodeError:  # The last line of a killed run may be incomplete.
            break
        if line["step"] > step:
            break
        kept.append(text + "\n")
        seconds = line["seconds"]
    fresh = path.with_suffix(".tmp")
    with environment(path):
        fresh.write_text("".join(kept))
        os.replace(fresh, path)
    return seconds
