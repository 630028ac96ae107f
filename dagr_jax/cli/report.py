"""`dagr report`."""

import argparse
import dataclasses
import json
import sys
from typing import Any

from dagr_jax.cli import report_runs
from dagr_jax.cli.report_output import add_output, check, put
from dagr_jax.report import tables

_SOURCE = (
    "a predictions.csv or the working directory of a run, with an optional prefix DATASET= or "
    "MODEL:DATASET="
)


def add(commands: Any) -> None:
    """Adds the command `dagr report`."""
    report = commands.add_parser("report", help="make the tables and figures of the paper")
    kinds = report.add_subparsers(dest="kind", required=True)

    table = kinds.add_parser(
        "table",
        help="agreement of models with MOS on data sets (Table 1)",
        description="Computes SRCC, PLCC, KRCC and RMSE, PLCC and RMSE also after the logistic "
        "fit, with 95 % bootstrap intervals over contents, and averages over data sets.",
    )
    table.add_argument("sources", nargs="+", metavar="SOURCE", help=_SOURCE)
    table.add_argument(
        "--fuse",
        action="append",
        default=[],
        metavar="NAME=0.4*MODEL+0.6*MODEL",
        help="add a model: the weighted sum of standardised predictions of other models",
    )
    table.add_argument(
        "--published",
        action="store_true",
        help="add the paper's results for DAGR-VQA and three saliency plug-ins, marked as "
        "published",
    )
    add_output(table, ("table", "md", "latex", "json", "jsonl", "csv"))
    table.set_defaults(run=_table)

    compare = kinds.add_parser(
        "compare",
        help="test whether one model is better than another on the same videos (Table 2)",
        description="Runs the paired tests of the paper on the predictions, the same tests on the "
        "absolute errors, Meng's and Steiger's tests of the correlations, and a bootstrap of the "
        "SRCC difference. If several videos show one content, only the bootstrap is valid, and "
        "the verdict uses it alone.",
    )
    compare.add_argument("a", metavar="A", help=f"first model: {_SOURCE}")
    compare.add_argument("b", metavar="B", help="second model, for the same videos")
    compare.add_argument(
        "--models",
        nargs=2,
        metavar=("A", "B"),
        help="columns to compare, for files with several models",
    )
    add_output(compare, ("table", "json", "jsonl", "csv"))
    compare.set_defaults(run=_compare)
    report_runs.add(kinds)


def _table(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    from dagr_jax.metrics import predictions
    from dagr_jax.report import agreement

    check(arguments, parser)
    models = [one for source in arguments.sources for one in predictions.read(source)]
    predictions.refuse_twins(models)
    for recipe in arguments.fuse:
        models += predictions.fuse(models, recipe)
        predictions.refuse_twins(models)
    rows = agreement.rows_of(models, arguments.bootstrap)
    rows += agreement.averages(rows)
    if arguments.published:
        rows += agreement.published()

    def render(form: str) -> str:
        if form in ("md", "latex"):
            return agreement.grid(rows, form)
        if form == "json":
            return json.dumps(tables.defined({"rows": rows}), indent=2) + "\n"
        return tables.render([agreement.flat(row) for row in rows], form)

    put(arguments, render)
    unfit = [row for row in rows if not row.get("logistic", {"converged": True})["converged"]]
    for row in unfit:
        told = f"{row['model']} on {row['dataset']}: the logistic fit did not converge"
        print(f"dagr: {told}; the best curve or line found is used", file=sys.stderr)
    return 0


def _compare(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    from dagr_jax.metrics import predictions, significance

    check(arguments, parser)
    wanted = arguments.models or (None, None)
    a = _one(predictions.read(arguments.a), arguments.a, wanted[0])
    b = _one(predictions.read(arguments.b), arguments.b, wanted[1])
    a, values = predictions.align(a, b)
    found = significance.compare(a.values, values, a.mos, a.contents, n=arguments.bootstrap)
    sentence = significance.verdict(found, (a.model, b.model))

    def render(form: str) -> str:
        if form == "json":
            whole = {"a": a.model, "b": b.model, "dataset": a.dataset, **dataclasses.asdict(found)}
            return json.dumps(tables.defined({**whole, "verdict": sentence}), indent=2) + "\n"
        text = tables.render(_lines(found), form)
        head = f"A: {a.model}, B: {b.model}, {found.n} videos of {a.dataset}\n"
        return f"{head}{text}{sentence}\n" if form == "table" else text

    put(arguments, render)
    if found.repeats:
        print(
            f"dagr: the {found.n} videos show {found.contents} contents, so they are not "
            "independent; only the bootstrap, which resamples contents, is valid here",
            file=sys.stderr,
        )
    return 0


def _one(models: list, source: str, wanted: str | None) -> Any:
    """Returns the model of a source with the given name, or its only model."""
    from dagr_jax.metrics.predictions import PredictionsError

    named = [one for one in models if wanted in (None, one.model)]
    if len(named) != 1:
        known = ", ".join(one.model for one in models)
        raise PredictionsError(f"{source}: has {known}; name the ones to compare with --models A B")
    return named[0]


def _lines(found: Any) -> list[dict[str, Any]]:
    """Makes the rows of a comparison: what is compared, values of A and B or statistic, and p."""
    tests = {
        "t-test of predictions (paper)": found.t,
        "Wilcoxon of predictions (paper)": found.signed_rank,
        "t-test of absolute errors": found.t_errors,
        "Wilcoxon of absolute errors": found.signed_rank_errors,
        "Meng, SRCC": found.meng,
        "Steiger, SRCC": found.steiger,
        "Meng, PLCC": found.meng_plcc,
        "Steiger, PLCC": found.steiger_plcc,
    }
    rows: list[dict[str, Any]] = [
        {"what": "SRCC", "a": found.srcc[0], "b": found.srcc[1]},
        {"what": "PLCC", "a": found.plcc[0], "b": found.plcc[1]},
        {
            "what": f"SRCC of A - B, {found.level:.0%} bootstrap",
            "statistic": found.difference,
            "low": found.low,
            "high": found.high,
        },
    ]
    return rows + [{"what": k, "statistic": v.statistic, "p": v.p} for k, v in tests.items()]
