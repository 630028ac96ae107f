"""Figures of many runs: sweeps with intervals over seeds, and box plots of folds."""

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from scipy import stats

from dagr_jax.report.plots import BLUE, LOOKS, ORANGE, STYLE, save
from dagr_jax.runtime.errors import DagrError, environment

# Metric of a row of a sweep → label of an axis.
METRICS = {
    "srcc": "SRCC on the test part",
    "plcc": "PLCC on the test part",
    "saliency_cc": "CC of the saliency on the test part",
    "saliency_nss": "NSS of the saliency on the test part",
}


@dataclasses.dataclass(frozen=True)
class Cell:
    """A metric of one run of a sweep, over its seeds.

    Attributes:
        values: Value of each finished seed; may be empty. An undefined value, such as the SRCC of
            equal predictions, is dropped and does not count as a seed.
    """

    values: np.ndarray

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", self.values[np.isfinite(self.values)])

    @property
    def mean(self) -> float:
        """Mean over the seeds; NaN if no seed has finished."""
        return float(self.values.mean()) if len(self.values) else float("nan")

    @property
    def half_width(self) -> float:
        """Half the width of Student's 95 % interval of the mean; NaN for fewer than two seeds."""
        n = len(self.values)
        if n < 2:
            return float("nan")
        return float(stats.t.ppf(0.975, n - 1) * self.values.std(ddof=1) / np.sqrt(n))


def cells(summary: Mapping[str, Any], metric: str = "srcc") -> dict[str, Cell]:
    """Returns {run: its cell} of a sweep.

    Args:
        summary: Contents of `sweep.json`.
        metric: Metric of the cells.
    """
    found: dict[str, list[float]] = {}
    for row in summary["rows"]:
        value = row.get(metric)  # missing if the run has no test part
        found.setdefault(row["run"], []).append(float("nan") if value is None else value)
    return {name: Cell(np.array(values, np.float64)) for name, values in found.items()}


def table(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Makes a row for each run of a sweep: seeds, mean and interval of a metric, other means.

    The metric is the SRCC; in a sweep that trains only saliency networks, it is their CC.

    Args:
        summary: Contents of `sweep.json`.
    """
    found = {name: cells(summary, name) for name in METRICS}
    known = [name for name in METRICS if any(len(c.values) for c in found[name].values())]
    first = known[0] if known else "srcc"
    return [
        {
            "run": name,
            "seeds": len(cell.values),
            first: cell.mean,
            f"{first}_low": cell.mean - cell.half_width,
            f"{first}_high": cell.mean + cell.half_width,
            **{metric: found[metric][name].mean for metric in known[1:]},
        }
        for name, cell in found[first].items()
    ]


def check(figures: Mapping[str, Any], runs: Collection[str]) -> None:
    """Checks the figures of a sweep.

    Args:
        figures: {name: figure}, as described in `draw`.
        runs: Names of the runs of the sweep.

    Raises:
        DagrError: A figure has an unknown kind, metric or run. The message is one line.
    """
    for name, wanted in figures.items():
        if wanted["kind"] not in KINDS:
            known = ", ".join(KINDS)
            raise DagrError(f"{name}: kind {wanted['kind']!r} is unknown; one of {known}")
        if (metric := wanted.get("metric", "srcc")) not in METRICS:
            known = ", ".join(METRICS)
            raise DagrError(f"{name}: metric {metric!r} is unknown; one of {known}")
        if absent := [run for run in _runs(wanted) if run not in runs]:
            raise DagrError(f"{name}: there is no run {', '.join(absent)}; name those of runs")


def _runs(wanted: Mapping[str, Any]) -> list[str]:
    """Returns the runs in a figure."""
    if wanted["kind"] == "bars":
        return [run for _, run in wanted["runs"]]
    if wanted["kind"] == "grid":
        return [run for _, names in wanted["rows"] for run in names if run]
    return [run for _, points in wanted["lines"] for _, run in points]


def draw(summary: Mapping[str, Any], folder: Path) -> list[Path]:
    """Draws the figures of a sweep, each as NAME.png.

    Args:
        summary: Contents of `sweep.json`. Its "figures" is {name: figure}. The fields of a figure
            depend on its "kind". "bars" has "runs", a list of (label, run), and an optional "note".
            "grid" has "columns", and "rows", a list of (label, runs), where "" leaves a cell empty.
            "curves" has "x", and "lines", a list of (label, list of (x, run)). All may have
            "metric", one of METRICS; the default is the SRCC.
        folder: Folder of the pictures; it is created if missing.

    Returns:
        The files. A cell without a finished run is empty.
    """
    with environment(folder):
        folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, wanted in summary["figures"].items():
        path, found = folder / f"{name}.png", cells(summary, wanted.get("metric", "srcc"))
        with matplotlib.rc_context(STYLE):
            figure = KINDS[wanted["kind"]](wanted, found)
            save(figure, path)
        paths.append(path)
    return paths


def boxes(path: Path, summary: Mapping[str, Any]) -> None:
    """Draws figure 4: box plot of the SRCC of the folds, on their own data set and on others.

    Args:
        path: PNG file to write.
        summary: Contents of `folds.json`.
    """
    own = f"{summary['dataset']},\nheld-out fold"
    found = {own: summary} | {f"{k},\n{v['n']} videos": v for k, v in summary["others"].items()}
    # SRCC is None if all predictions of the model are equal.
    values = {k: [x for x in v["srcc"]["values"] if x is not None] for k, v in found.items()}
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(2.2 + 1.7 * len(values), 4.0), layout="constrained")
        ax = figure.subplots()
        drawn = ax.boxplot(
            list(values.values()), widths=0.5, medianprops={"color": ORANGE, "linewidth": 2}
        )
        for line in drawn["boxes"] + drawn["whiskers"] + drawn["caps"]:
            line.set_color(BLUE)
        for place, points in enumerate(values.values(), start=1):
            spots = place + np.linspace(-0.08, 0.08, len(points))
            ax.plot(spots, points, "o", color=BLUE, alpha=0.6, markersize=5)
        ax.set_xticks(range(1, len(values) + 1), list(values))
        ax.set(ylabel="SRCC", xlabel="tested on")
        ax.grid(axis="x", visible=False)
        title = f"trained on {summary['dataset']}, {summary['folds']} folds"
        ax.set_title(f"{title}; box: quartiles, orange: median", fontsize=10, loc="left")
        save(figure, path)


def _of(found: Mapping[str, Cell], name: str) -> Cell:
    return found.get(name, Cell(np.zeros(0)))


def _seeds(cells: Sequence[Cell]) -> str:
    counts = sorted({len(cell.values) for cell in cells})
    many = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"{many} seed" if counts == [1] else f"{many} seeds"


def _caption(cells: Sequence[Cell]) -> str:
    many = max(len(cell.values) for cell in cells) > 1
    return f"mean of {_seeds(cells)}" + (", bars: its 95 % interval" if many else "")


def _bars(wanted: Mapping[str, Any], found: Mapping[str, Cell]) -> Figure:
    """Draws one row per run, with the mean, its interval and the value of each seed."""
    labels, names = zip(*wanted["runs"], strict=True)
    chosen = [_of(found, name) for name in names]
    figure = Figure(figsize=(7.5, 0.5 * len(names) + 1.6), layout="constrained")
    ax = figure.subplots()
    for y, cell in enumerate(chosen):
        ax.errorbar(cell.mean, y, xerr=_bar(cell), fmt="o", color=BLUE, capsize=4, markersize=7)
        ax.plot(cell.values, [y + 0.22] * len(cell.values), "|", color=ORANGE, markersize=9)
        if len(cell.values):
            ax.annotate(
                f"{cell.mean:.3f}", (1.01, y), xycoords=("axes fraction", "data"), va="center"
            )
    ax.set(yticks=range(len(labels)), yticklabels=labels, xlabel=_axis(wanted))
    ax.set_ylim(len(labels) - 0.4, -0.6)
    ax.set_title(f"{_caption(chosen)}; orange: each seed", fontsize=10, loc="left")
    if note := wanted.get("note"):
        figure.supxlabel(note, fontsize=9, x=0.02, ha="left")
    return figure


def _grid(wanted: Mapping[str, Any], found: Mapping[str, Cell]) -> Figure:
    """Draws a heat map with the means and intervals as numbers."""
    labels, names = zip(*wanted["rows"], strict=True)
    chosen = [[_of(found, name) for name in row] for row in names]
    means = np.array([[cell.mean for cell in row] for row in chosen])
    figure = Figure(figsize=(5.8, 1.4 + len(labels)), layout="constrained")
    ax = figure.subplots()
    image = ax.imshow(means, cmap="cividis", aspect="auto")
    low, high = image.get_clim()
    for y, row in enumerate(chosen):
        for x, cell in enumerate(row):
            if not names[y][x]:
                continue
            dark = means[y, x] < (low + high) / 2
            text = f"{cell.mean:.3f}"
            if np.isfinite(cell.half_width):
                text += f"\n± {cell.half_width:.3f}"
            colour = "white" if dark else "black"
            ax.text(x, y, text, ha="center", va="center", color=colour, fontsize=13)
    ax.set(xticks=range(len(wanted["columns"])), xticklabels=wanted["columns"])
    ax.set(yticks=range(len(labels)), yticklabels=labels)
    ax.grid(False)
    ax.tick_params(length=0)
    figure.colorbar(image, ax=ax, label=_axis(wanted))
    every = [_of(found, name) for row in names for name in row if name]
    ax.set_title(f"mean of {_seeds(every)} ± its 95 % interval", fontsize=10, loc="left")
    return figure


def _curves(wanted: Mapping[str, Any], found: Mapping[str, Cell]) -> Figure:
    """Draws lines with error bars. Unevenly spaced x values are shown at even distances."""
    figure = Figure(figsize=(6.2, 4.0), layout="constrained")
    ax = figure.subplots()
    every: list[Cell] = []
    at = sorted({x for _, points in wanted["lines"] for x, _ in points})
    even = np.allclose(np.diff(at), at[1] - at[0]) if len(at) > 1 else True
    step = min(np.diff(at)) if even and len(at) > 1 else 1.0
    for number, (label, points) in enumerate(wanted["lines"]):
        chosen = [_of(found, name) for _, name in points]
        every += chosen
        place = np.array([x if even else at.index(x) for x, _ in points], np.float64)
        place += 0.06 * step * (number - (len(wanted["lines"]) - 1) / 2)
        colour, marker, line = LOOKS[number % len(LOOKS)]
        ax.errorbar(
            place,
            [cell.mean for cell in chosen],
            yerr=[_bar(cell) for cell in chosen],
            color=colour,
            marker=marker,
            linestyle=line,
            markersize=7,
            capsize=4,
            label=label,
        )
    if not even:
        ax.set(xticks=range(len(at)), xticklabels=[str(x) for x in at])
    else:
        ax.set(xticks=at)
    ax.set(xlabel=wanted["x"], ylabel=_axis(wanted))
    if any(label for label, _ in wanted["lines"]):
        ax.legend(frameon=False)
    ax.set_title(_caption(every), fontsize=10, loc="left")
    return figure


def _axis(wanted: Mapping[str, Any]) -> str:
    return METRICS[wanted.get("metric", "srcc")]


def _bar(cell: Cell) -> float:
    return cell.half_width if np.isfinite(cell.half_width) else 0.0


KINDS: dict[str, Callable[[Mapping[str, Any], Mapping[str, Cell]], Figure]] = {
    "bars": _bars,
    "grid": _grid,
    "curves": _curves,
}
