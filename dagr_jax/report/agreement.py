"""Agreement of predictions with MOS, with confidence intervals: the rows of the paper's Table 1."""

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from typing import Any

import numpy as np

from dagr_jax.metrics import agreement as measures
from dagr_jax.metrics import resampling
from dagr_jax.metrics.predictions import Predictions

METRICS = ("srcc", "plcc", "krcc", "rmse")
FITTED = ("plcc_fitted", "rmse_fitted")


def scores(predictions: np.ndarray, mos: np.ndarray) -> np.ndarray:
    """Computes METRICS, and FITTED after the four-parameter logistic fit.

    Args:
        predictions: (n,) predictions.
        mos: (n,) MOS.

    Returns:
        The values in the order of METRICS and FITTED.
    """
    return _scores(predictions, mos, measures.fit_logistic(predictions, mos))


def _scores(predictions: np.ndarray, mos: np.ndarray, fit: measures.LogisticFit) -> np.ndarray:
    plain = [getattr(measures, name)(predictions, mos) for name in METRICS]
    return np.array([*plain, *fit.scores(mos)])


def agreement(
    predictions: np.ndarray, mos: np.ndarray, contents: Sequence[str] | np.ndarray, resamples: int
) -> dict[str, Any]:
    """Computes METRICS and FITTED with 95 % bootstrap intervals over contents.

    Args:
        predictions: (n,) predictions.
        mos: (n,) MOS of the same videos.
        contents: (n,) content labels of the same videos.
        resamples: Number of bootstrap resamples; the seed is 0.

    Returns:
        {metric: {"value", "low", "high"}}, and "logistic": {"parameters", "converged"}.
    """
    fit = measures.fit_logistic(predictions, mos)
    values = _scores(predictions, mos, fit)
    lows, highs = resampling.bootstrap(scores, predictions, mos, contents, n=resamples, seed=0)
    found: dict[str, Any] = {
        name: {"value": float(value), "low": float(low), "high": float(high)}
        for name, value, low, high in zip((*METRICS, *FITTED), values, lows, highs, strict=True)
    }
    found["logistic"] = {"parameters": list(fit.parameters), "converged": fit.converged}
    return found


def rows_of(models: Iterable[Predictions], resamples: int) -> list[dict[str, Any]]:
    """Makes a row for each model and data set.

    Args:
        models: Predictions of models for data sets.
        resamples: Number of bootstrap resamples.

    Returns:
        Rows with "model", "dataset", "source", "n" and the fields of `agreement`.
    """
    return [
        {
            "model": one.model,
            "dataset": one.dataset,
            "source": "measured",
            "n": len(one.mos),
            **agreement(one.values, one.mos, one.contents, resamples),
        }
        for one in models
    ]


def published() -> list[dict[str, Any]]:
    """Returns the paper's own rows of its Table 1, which have values without intervals."""
    return [_published(row, ("model", "dataset")) for row in _paper()["table1"]]


def published_saliency() -> list[dict[str, Any]]:
    """Returns the paper's own rows of its Table 3, which have values without intervals."""
    return [_published(row, ("network", "dataset")) for row in _paper()["table3"]]


def _paper() -> dict[str, Any]:
    text = resources.files("dagr_jax.report").joinpath("published.json").read_text("utf-8")
    return json.loads(text)


def _published(row: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    values = {k: {"value": v} for k, v in row.items() if k not in names}
    return {**{name: row[name] for name in names}, "source": "published", **values}


def averages(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Averages each measured model over the data sets that all measured models have.

    Args:
        rows: Rows from `rows_of`, and optionally from `published`.

    Returns:
        Rows as from `rows_of`, without intervals. The data set is "average" (equal weights) or
        "weighted average" (weighted by the number of videos). RMSE is not averaged, because its
        scale differs between data sets. No rows if the models share fewer than two data sets.
    """
    made = []
    measured = [row for row in rows if row["source"] == "measured"]
    models = list(dict.fromkeys(row["model"] for row in measured))
    has = {name: {row["dataset"] for row in measured if row["model"] == name} for name in models}
    common = set.intersection(*has.values()) if has else set()
    for model in models if len(common) > 1 else ():
        of = [row for row in measured if row["model"] == model and row["dataset"] in common]
        sizes = np.array([row["n"] for row in of], np.float64)
        for name, weights in (("average", np.ones_like(sizes)), ("weighted average", sizes)):
            means = {
                metric: {
                    "value": float(np.average([r[metric]["value"] for r in of], weights=weights))
                }
                for metric in ("srcc", "plcc", "krcc", "plcc_fitted")
            }
            row = {"model": model, "dataset": name, "source": "measured", "n": int(sizes.sum())}
            made.append(row | means)
    return made


def flat(row: Mapping[str, Any], names: Sequence[str] = (*METRICS, *FITTED)) -> dict[str, Any]:
    """Flattens a row into cells: "srcc", "srcc_low", "srcc_high", and so on.

    Args:
        row: Row from `rows_of`.
        names: Metrics of the row.

    Returns:
        {column: value}; None for a missing or undefined value.
    """
    cells = {k: v for k, v in row.items() if k not in (*names, "logistic")}
    for name in names:
        for key, suffix in (("value", ""), ("low", "_low"), ("high", "_high")):
            value = row.get(name, {}).get(key)
            cells[name + suffix] = None if value is None or math.isnan(value) else value
    if "logistic" in row:
        cells["converged"] = row["logistic"]["converged"]
    return cells


@dataclasses.dataclass(frozen=True)
class _Form:
    """Syntax of a table: delimiters, the rule below the header, a dash, characters to escape."""

    begin: str
    between: str
    end: str
    rule: str
    dash: str
    special: str


_MD = _Form("| ", " | ", " |", "|---", "\N{EN DASH}", "|\\`*_<")
_LATEX = _Form("", " & ", r" \\", "", "--", "&%$#_{}")


def grid(rows: Sequence[Mapping[str, Any]], form: str) -> str:
    """Makes a table with models as rows, data sets as columns, and SRCC / PLCC in the cells.

    Args:
        rows: Rows from `rows_of`, `averages` and `published`.
        form: "md" or "latex".

    Returns:
        The text of the table. Cells include the 95 % interval of SRCC.
    """
    how = _MD if form == "md" else _LATEX
    datasets = list(dict.fromkeys(row["dataset"] for row in rows))
    last = [name for name in ("average", "weighted average") if name in datasets]
    datasets = [name for name in datasets if name not in last] + last
    models = list(dict.fromkeys((row["model"], row["source"]) for row in rows))
    cells = {(row["model"], row["source"], row["dataset"]): _cell(row, how) for row in rows}
    lines = [["model", *(_escaped(name, how) for name in datasets)]]
    for model, source in models:
        name = _escaped(model, how) + (" (published)" if source == "published" else "")
        lines.append([name, *(cells.get((model, source, data), "") for data in datasets)])
    text = [how.begin + how.between.join(line) + how.end for line in lines]
    if form == "md":
        text.insert(1, how.rule * len(lines[0]) + "|")
        return "\n".join(text) + "\n\nSRCC / PLCC, [95 % interval of SRCC].\n"
    body = "\n".join([text[0], r"\midrule", *text[1:]])
    return (
        f"\\begin{{tabular}}{{l{'c' * len(datasets)}}}\n\\toprule\n{body}\n\\bottomrule\n"
        "\\end{tabular}\n% SRCC / PLCC, [95 % interval of SRCC]; needs booktabs\n"
    )


def _cell(row: Mapping[str, Any], how: _Form) -> str:
    srcc, plcc = row.get("srcc", {}), row.get("plcc", {})
    text = " / ".join(_number(one.get("value"), how) for one in (srcc, plcc))
    if "low" in srcc:
        text += f" [{_number(srcc['low'], how)}, {_number(srcc['high'], how)}]"
    return text


def _number(value: float | None, how: _Form) -> str:
    return how.dash if value is None or math.isnan(value) else f"{value:.3f}"


def _escaped(text: str, how: _Form) -> str:
    return "".join("\\" + c if c in how.special else c for c in text)
