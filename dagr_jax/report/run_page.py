"""HTML page of a run, `report.html`: test results, training curves and configuration."""

import base64
import dataclasses
import html
import io
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from string import Template
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from dagr_jax import __version__
from dagr_jax.metrics import agreement
from dagr_jax.report.agreement import FITTED, METRICS
from dagr_jax.report.plots import BLUE, LOOKS, ORANGE, STYLE
from dagr_jax.report.strips import Shown, strips

# Maximum number of groups in a panel of residuals.
_GROUPS = 10


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Test results of a run.

    Attributes:
        result: Contents of `metrics.json`.
        mos: (n,) MOS of the test videos.
        predictions: (n,) predictions on the MOS scale.
        groups: {"resolution", "frame rate" or "content": label of each of the n videos}.
        worst: Clips with the largest errors.
        best: Clips with the smallest errors.
    """

    result: Mapping[str, Any]
    mos: np.ndarray
    predictions: np.ndarray
    groups: Mapping[str, Sequence[str]]
    worst: Sequence[Shown]
    best: Sequence[Shown]


@dataclasses.dataclass(frozen=True)
class RunFacts:
    """Data of the page.

    Attributes:
        name: Name of the run.
        config: Contents of `config.json`.
        environment: {name: value} of the environment.
        stages: Rows with "stage", "seconds" and "joules" (energy of the machine's processors; None:
            unknown).
        logs: {training stage: lines of its `log.jsonl`}.
        tested: Test results; None if the run has no test part.
    """

    name: str
    config: Mapping[str, Any]
    environment: Mapping[str, str]
    stages: Sequence[Mapping[str, Any]]
    logs: Mapping[str, Sequence[Mapping[str, float]]]
    tested: Outcome | None


def run_page(facts: RunFacts) -> str:
    """Makes the page, as self-contained HTML.

    Args:
        facts: Data of the page.
    """
    parts = []
    if facts.tested is not None:
        parts += _test_parts(facts.tested)
    if any(facts.logs.values()):
        parts.append(_section("Training", _picture(_curves(facts.logs), "Losses and validation")))
    parts.append(_section("Stages", _stages(facts.stages)))
    parts.append(
        _section("Environment", _table(["what", "value"], list(facts.environment.items())))
    )
    text = html.escape(json.dumps(facts.config, indent=2))
    parts.append(
        _section(
            "Configuration", f"<details><summary>all fields</summary><pre>{text}</pre></details>"
        )
    )
    folder = resources.files("dagr_jax.report")
    return Template(folder.joinpath("run_page.html").read_text("utf-8")).substitute(
        title=html.escape(f"{facts.name}: dagr_jax run"),
        name=html.escape(facts.name),
        told=html.escape(_told(facts.config)),
        style=folder.joinpath("page.css").read_text("utf-8"),
        version=__version__,
        body="\n".join(parts),
    )


def _told(config: Mapping[str, Any]) -> str:
    """Model, data set and the fields that configurations share, in one line."""
    said = [config["model"]["name"], config["dataset"]["name"]]
    said += [f"{name} {config[name]}" for name in ("recipe", "preset", "seed") if name in config]
    return ", ".join(said)


def _section(title: str, body: str) -> str:
    return f"<section><h2>{html.escape(title)}</h2>\n{body}\n</section>"


def _table(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Makes a table. Cells are text, or numbers, which are right-aligned."""

    def cell(value: Any) -> str:
        if isinstance(value, float):
            return f'<td class="number">{value:.3f}</td>' if np.isfinite(value) else "<td></td>"
        kind = ' class="number"' if isinstance(value, int) else ""
        return f"<td{kind}>{html.escape(str(value))}</td>"

    numbers = [bool(rows) and isinstance(rows[0][k], int | float) for k in range(len(heads))]
    head = "".join(
        f"<th{' class=number' if number else ''}>{html.escape(name)}</th>"
        for name, number in zip(heads, numbers, strict=True)
    )
    body = "".join("<tr>" + "".join(map(cell, row)) + "</tr>\n" for row in rows)
    table = f"<table><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table>"
    return f'<div class="scroll">{table}</div>'


def _picture(figure: Figure, told: str, form: str = "png") -> str:
    """Returns a figure as an <img> with twice its size in pixels, for high-resolution screens."""
    stream = io.BytesIO()
    quality = {"quality": 88} if form == "jpeg" else {}
    figure.savefig(stream, dpi=200, format=form, pil_kwargs=quality)
    width = round(figure.get_figwidth() * 100)
    data = base64.b64encode(stream.getvalue()).decode()
    return (
        f'<img class="figure" width="{width}" alt="{html.escape(told)}" '
        f'src="data:image/{form};base64,{data}">'
    )


def _test_parts(tested: Outcome) -> list[str]:
    result = tested.result
    rows = [
        [
            name.upper().replace("_FITTED", ", logistic fit"),
            *(_number(result[name][key]) for key in ("value", "low", "high")),
        ]
        for name in METRICS + FITTED
    ]
    table = _table(["metric", "value", "95 % low", "high"], rows)
    if baselines := result.get("baselines"):
        named = [[name.replace("_", " "), _number(value)] for name, value in baselines.items()]
        table += "<h3>SRCC of the trivial baselines</h3>" + _table(["predictor", "SRCC"], named)
    heading = f"{result['dataset']}: {result['n']} test videos"
    parts = [_section(heading, table + _picture(_scatter(tested), "Predictions against MOS"))]
    parts.append(_section("Residuals", _picture(_residuals(tested), "Residuals by group")))
    for title, clips in (("Worst predictions", tested.worst), ("Best predictions", tested.best)):
        if not clips:
            continue
        parts.append(_section(title, _picture(strips(clips), title, "jpeg")))
    if saliency := result.get("saliency"):
        own = {k: v for k, v in saliency.items() if not isinstance(v, Mapping)}
        sides = {"predicted": own, **{k: v for k, v in saliency.items() if isinstance(v, Mapping)}}
        rows = [
            [name.replace("_", " "), *(_number(s[k]) for k in own)] for name, s in sides.items()
        ]
        parts.append(
            _section("Saliency", _table(["map", *(k.replace("_", " ") for k in own)], rows))
        )
    return parts


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)


def _scatter(tested: Outcome) -> Figure:
    fit = agreement.fit_logistic(tested.predictions, tested.mos)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.0, 4.4), layout="constrained")
        ax = figure.subplots()
        ax.scatter(
            tested.predictions, tested.mos, s=18, color=BLUE, alpha=0.6, linewidths=0, label="video"
        )
        order = np.argsort(tested.predictions)
        label = "logistic fit" if fit.converged else "line (no logistic fits)"
        at = tested.predictions[order]
        ax.plot(at, fit.fitted[order], color=ORANGE, linewidth=2, label=label)
        ax.set(xlabel="predicted MOS", ylabel="MOS")
        ax.legend(frameon=False)
    return figure


def _residuals(tested: Outcome) -> Figure:
    """Draws prediction minus MOS by group; of many groups, those with the largest errors."""
    error = tested.predictions - tested.mos
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(11, 3.8), layout="constrained")
        panels: Any = figure.subplots(1, len(tested.groups), sharex=True)
        for ax, (name, labels) in zip(np.atleast_1d(panels), tested.groups.items(), strict=True):
            groups = _grouped(np.asarray(labels), error)
            for y, (_, values) in enumerate(groups):
                ax.plot(values, np.full(len(values), y), "|", color=BLUE, markersize=9, alpha=0.6)
                ax.plot(np.median(values), y, "D", color=ORANGE, markersize=6)
            ax.axvline(0, color="0.4", linewidth=1)
            ax.set(yticks=range(len(groups)), yticklabels=[f"{k} ({len(v)})" for k, v in groups])
            ax.set_ylim(len(groups) - 0.4, -0.6)
            every = len(set(labels))
            ax.set_title(
                name if every <= _GROUPS else f"{name}: {_GROUPS} of {every}, largest errors",
                fontsize=10,
            )
            ax.set_xlabel("predicted − MOS")
        figure.suptitle("blue: one video, orange: median", fontsize=10, x=0.01, ha="left")
    return figure


def _grouped(labels: np.ndarray, values: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """Returns the groups by label; if there are more than `_GROUPS`, those furthest from 0."""
    groups = [(str(k), values[labels == k]) for k in np.unique(labels)]
    if len(groups) > _GROUPS:
        groups = sorted(groups, key=lambda g: -abs(float(np.median(g[1]))))[:_GROUPS]
    return groups


def _curves(logs: Mapping[str, Sequence[Mapping[str, float]]]) -> Figure:
    """Draws the losses and the validation metrics of each training stage."""
    shown = {stage: lines for stage, lines in logs.items() if lines}
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(11, 3.2 * len(shown)), layout="constrained")
        axes: Any = figure.subplots(len(shown), 2, squeeze=False)
        for row, (stage, lines) in zip(axes, shown.items(), strict=True):
            usual = (
                "step",
                "grad_norm",
                "learning_rate",
                "steps_per_second",
                "clips_per_second",
                "seconds",
            )
            names = list(dict.fromkeys(k for line in lines for k in line))
            losses = [k for k in names if k not in usual and not k.startswith("val_")]
            checks = [k for k in names if k.startswith("val_") and k != "val_rmse"]
            for ax, chosen, label in ((row[0], losses, "loss"), (row[1], checks, "validation")):
                for (colour, marker, line), name in zip(LOOKS, chosen, strict=False):
                    points = [(x["step"], x[name]) for x in lines if x.get(name) is not None]
                    few = marker if len(points) < 30 else None
                    ax.plot(
                        *zip(*points, strict=True),
                        color=colour,
                        linestyle=line,
                        marker=few,
                        label=name.removeprefix("val_"),
                    )
                ax.set(xlabel="step", ylabel=label)
                ax.set_title(stage, fontsize=10, loc="left")
                if chosen:
                    ax.legend(frameon=False)
    return figure


def _stages(rows: Sequence[Mapping[str, Any]]) -> str:
    known = any(row.get("joules") is not None for row in rows)
    heads = ["stage", "seconds", *(["energy of the processors, kJ"] if known else [])]
    table = [
        [
            row["stage"],
            float(row["seconds"]),
            *(
                [float("nan") if row.get("joules") is None else row["joules"] / 1000]
                if known
                else []
            ),
        ]
        for row in rows
    ]
    total = ["all", float(sum(row["seconds"] for row in rows))]
    if known:
        total.append(sum(row.get("joules") or 0.0 for row in rows) / 1000)
    note = "" if known else "<p>The energy counters of this machine could not be read.</p>"
    return _table(heads, [*table, total]) + note
