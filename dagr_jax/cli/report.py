"""`dagr report`."""

import argparse
import dataclasses
import json
import sys
from typing import Any

from dagr_jax.report import tables
from dagr_jax.whole import whole_file

_SOURCE = "a predictions.csv or a run's workdir; before it may stand DATASET= or MODEL:DATASET="


def add(commands: Any) -> None:
    """Adds the command."""
    report = commands.add_parser("report", help="tables of the paper from predictions")
    kinds = report.add_subparsers(dest="kind", required=True)

    table = kinds.add_parser(
        "table",
        help="agreement of models with MOS on data sets (Table 1)",
        description="SRCC, PLCC, KRCC and RMSE, plain and after the logistic fit, with 95 % "
        "bootstrap intervals over contents; averages over data sets.",
    )
    table.add_argument("sources", nargs="+", metavar="SOURCE", help=_SOURCE)
    table.add_argument(
        "--fuse",
        action="append",
        default=[],
        metavar="NAME=0.4*MODEL+0.6*MODEL",
        help="also a weighted sum of standardised predictions",
    )
    table.add_argument(
        "--published", action="store_true", help="also the paper's own rows, marked as published"
    )
    _add_common(table, ("table", "md", "latex", "json", "jsonl", "csv"))
    table.set_defaults(run=_table)

    compare = kinds.add_parser(
        "compare",
        help="whether one model is better than another on the same videos (Table 2)",
        description="The paper's paired tests of the predictions, the same of absolute errors, "
        "Meng's and Steiger's tests of the correlations, and the bootstrap of the SRCC difference.",
    )
    compare.add_argument("a", metavar="A", help=_SOURCE)
    compare.add_argument("b", metavar="B", help="of the same videos")
    compare.add_argument(
        "--models", nargs=2, metavar=("A", "B"), help="columns, of files with several"
    )
    _add_common(compare, ("table", "json", "jsonl", "csv"))
    compare.set_defaults(run=_compare)


def _add_common(command: argparse.ArgumentParser, forms: tuple[str, ...]) -> None:
    command.add_argument(
        "--bootstrap", type=int, default=1000, metavar="N", help="resamples (1000)"
    )
    command.add_argument("--format", choices=forms, default="table", help="of stdout")
    command.add_argument("--out", metavar="FILE", help="write it here instead, whole or not at all")


def _table(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    from dagr_jax.report import agreement, predictions

    if arguments.bootstrap < 1:
        parser.error("report: --bootstrap must be at least 1")
    try:
        models = [one for source in arguments.sources for one in predictions.read(source)]
        for recipe in arguments.fuse:
            models += predictions.fuse(models, recipe)
    except predictions.PredictionsError as error:
        print(f"dagr: {error}", file=sys.stderr)
        return 1
    rows = agreement.rows_of(models, arguments.bootstrap)
    rows += agreement.averages(rows)
    if arguments.published:
        rows += agreement.published()
    if arguments.format in ("md", "latex"):
        text = agreement.grid(rows, arguments.format)
    elif arguments.format == "json":
        text = json.dumps({"rows": rows}, indent=2) + "\n"
    else:
        shown = [agreement.flat(row) for row in rows]
        text = tables.render(shown, arguments.format)
    _write(text, arguments.out)
    unfit = [row for row in rows if not row.get("logistic", {"converged": True})["converged"]]
    for row in unfit:
        told = f"{row['model']} on {row['dataset']}: no logistic fits; its line was taken"
        print(f"dagr: {told}", file=sys.stderr)
    return 0


def _compare(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    from dagr_jax import significance
    from dagr_jax.report import predictions

    if arguments.bootstrap < 1:
        parser.error("report: --bootstrap must be at least 1")
    wanted = arguments.models or (None, None)
    try:
        a = _one(predictions.read(arguments.a), arguments.a, wanted[0])
        b = _one(predictions.read(arguments.b), arguments.b, wanted[1])
        values = predictions.align(a, b)
    except predictions.PredictionsError as error:
        print(f"dagr: {error}", file=sys.stderr)
        return 1
    found = significance.compare(a.values, values, a.mos, a.contents, n=arguments.bootstrap)
    sentence = significance.verdict(found, (a.model, b.model))
    if arguments.format == "json":
        whole = {"a": a.model, "b": b.model, "dataset": a.dataset, **dataclasses.asdict(found)}
        text = json.dumps({**whole, "verdict": sentence}, indent=2) + "\n"
    else:
        text = tables.render(_lines(found), arguments.format)
        if arguments.format == "table":
            text = (
                f"A: {a.model}, B: {b.model}, {found.n} videos of {a.dataset}\n{text}{sentence}\n"
            )
    _write(text, arguments.out)
    return 0


def _one(models: list, source: str, wanted: str | None) -> Any:
    """The model of a source that is meant."""
    from dagr_jax.report.predictions import PredictionsError

    named = [one for one in models if wanted in (None, one.model)]
    if len(named) != 1:
        known = ", ".join(one.model for one in models)
        raise PredictionsError(f"{source}: has {known}; name the ones to compare with --models A B")
    return named[0]


def _lines(found: Any) -> list[dict[str, Any]]:
    """A comparison as rows: what is compared, A's and B's value or the statistic, and p."""
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


def _write(text: str, out: str | None) -> None:
    if out is None:
        sys.stdout.write(text)
        return
    with whole_file(out) as partial:
        partial.write_text(text, encoding="utf-8")
