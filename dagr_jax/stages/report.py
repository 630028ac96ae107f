"""Stage `report`: the page of a run, and the log of stage times that the page shows."""

import contextlib
import json
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from dagr_jax import __version__
from dagr_jax.models.contract import TrainStage
from dagr_jax.report.run_page import Outcome, RunFacts, run_page
from dagr_jax.report.strips import Shown, in_lines
from dagr_jax.runtime import distributed
from dagr_jax.runtime.atomic import atomic_file
from dagr_jax.runtime.errors import environment
from dagr_jax.runtime.machine import machine
from dagr_jax.runtime.texts import read_own_table
from dagr_jax.stages.artifacts import plain, read_json
from dagr_jax.stages.evaluate import maps_of_items, shown_frames
from dagr_jax.stages.quality import quality_source
from dagr_jax.stages.run import Run
from dagr_jax.stages.start import trained

# Number of clips that the page shows for the worst predictions, and for the best ones.
_CLIPS = 3
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "av")


def report_stage(run: Run) -> Path:
    """Writes `report.html` for all finished stages, unless the page is already up to date."""
    path = run.workdir / "report.html"
    sources = [run.workdir / "times.jsonl", *run.workdir.glob("*/log.jsonl"), run.workdir / "test"]

    def write() -> None:
        newest = max((p.stat().st_mtime_ns for p in sources if p.exists()), default=0)
        if path.exists() and path.stat().st_mtime_ns >= newest:
            return
        tested = _tested(run) if (run.workdir / "test").exists() else None
        lines = _lines(run.workdir)
        facts = RunFacts(
            name=run.workdir.resolve().name,
            config=plain(run.config),
            # The environment of the last stage, because the page may be made on another machine.
            environment=lines[-1]["environment"] if lines else _environment(),
            stages=times(run.workdir),
            logs={
                name: _read(run.workdir / name / "log.jsonl")
                for name, stage in run.stages.items()
                if isinstance(stage, TrainStage)
            },
            tested=tested,
        )
        with atomic_file(path) as partial:
            partial.write_text(run_page(facts), encoding="utf-8")

    distributed.first(write, makes=path)
    return path


def note_time(
    workdir: Path, stage: str, seconds: float, energy: float | None, finished: bool
) -> None:
    """Adds a line to `times.jsonl`, unless the stage was finished before.

    Args:
        workdir: Working directory of the run.
        stage: Name of the stage.
        seconds: Duration of this call of the stage in seconds.
        energy: Energy that this call used in J; None if the machine does not measure it.
        finished: Whether the stage was completed.
    """
    if stage == "report" or any(x["stage"] == stage and x["finished"] for x in _lines(workdir)):
        return
    line: dict[str, Any] = {"stage": stage, "seconds": round(seconds, 3), "finished": finished}
    line |= {"joules": energy, "environment": _environment()}
    path = workdir / "times.jsonl"
    begun = path.exists() and not path.read_bytes().endswith(b"\n")  # an incomplete last line
    with environment(path), open(path, "a") as stream:
        stream.write("\n" * begun + json.dumps(line) + "\n")


def times(workdir: Path) -> list[dict[str, Any]]:
    """Sums the time and energy of all calls of each stage.

    A call that was killed wrote no line and is not counted.

    Args:
        workdir: Working directory of the run.

    Returns:
        Rows with "stage", "seconds" and "joules" (None: unknown).
    """
    rows: dict[str, dict[str, Any]] = {}
    for line in _lines(workdir):
        row = rows.setdefault(
            line["stage"], {"stage": line["stage"], "seconds": 0.0, "joules": 0.0}
        )
        row["seconds"] += line["seconds"]
        known = row["joules"] is not None and line["joules"] is not None
        row["joules"] = row["joules"] + line["joules"] if known else None
    return list(rows.values())


def _lines(workdir: Path) -> list[dict[str, Any]]:
    return _read(workdir / "times.jsonl")


def _read(path: Path) -> list[dict[str, Any]]:
    """Returns the lines of a log, without a line that is incomplete because the process ended."""
    found = []
    for text in path.read_text().splitlines() if path.exists() else ():
        with contextlib.suppress(ValueError):
            found.append(json.loads(text))
    return found


def _environment() -> dict[str, str]:
    told = machine()
    told["devices"] = f"{told.pop('device_count')} x {', '.join(told['devices'])}"
    packages = {name: metadata.version(name) for name in _PACKAGES}
    return {"dagr_jax": __version__, **{k: str(v) for k, v in told.items()}, **packages}


def _tested(run: Run) -> Outcome:
    """Returns the results in `test/`, with frames and maps of the worst and best clips."""
    source = quality_source(run, "test")
    first: dict[str, int] = {}
    facts = list(source.facts)
    for number, fact in enumerate(facts):
        first.setdefault(fact["video"].decode(), number)
    rows = [row for _, row in read_own_table(run.workdir / "test" / "predictions.csv").rows]
    mos = np.array([float(row["mos"]) for row in rows])
    predictions = np.array([float(row["prediction"]) for row in rows])
    numbers = [first[row["video"]] for row in rows]
    order = np.argsort(-np.abs(predictions - mos), kind="stable")
    worst, best = order[:_CLIPS], order[::-1][:_CLIPS]
    chosen = [*worst.tolist(), *best.tolist()]
    items = [source[numbers[i]] for i in chosen]
    frames = [shown_frames(item[run.stored[0]]) for item in items]
    maps = maps_of_items(run, trained(run, run.last), items)

    def shown(place: int) -> Shown:
        i = chosen[place]
        own = list(maps[place].items())
        told = f"{in_lines(rows[i]['video'])}\npredicted {predictions[i]:.2f}\nMOS {mos[i]:.2f}"
        return Shown(told, frames[place], own)

    def grouped(label: Any) -> list[str]:
        return [label(facts[number]) for number in numbers]

    return Outcome(
        result=read_json(run.workdir / "test" / "metrics.json"),
        mos=mos,
        predictions=predictions,
        groups={
            "resolution": grouped(lambda fact: f"{fact['width']} x {fact['height']}"),
            "frame rate": grouped(lambda fact: f"{float(fact['fps']):.4g} fps"),
            "content": grouped(lambda fact: fact["content"].decode()),
        },
        worst=[shown(place) for place in range(len(worst))],
        best=[shown(place) for place in range(len(worst), len(chosen))],
    )
