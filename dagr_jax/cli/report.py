"""`dagr report`."""

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
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

    saliency = kinds.add_parser(
        "saliency",
        help="saliency networks on a prepared saliency set (Table 3)",
        description="CC, NSS, SIM, KLD, AUC-Judd, AUC-Borji, shuffled AUC and temporal consistency "
        "with 95 % bootstrap intervals over contents, beside maps that ignore the video. Of two "
        "names also the difference.",
    )
    saliency.add_argument(
        "networks",
        nargs="+",
        metavar="[NAME=]CHECKPOINT",
        help="a run's workdir or a stage's folder; those of one NAME are averaged",
    )
    saliency.add_argument("--data", required=True, metavar="DIR", help="prepared saliency set")
    saliency.add_argument(
        "--part", default="test", choices=("train", "val", "test", "all"), help="of the set (test)"
    )
    saliency.add_argument(
        "--published", action="store_true", help="also the paper's own rows, marked as published"
    )
    _add_common(saliency, ("table", "md", "json", "jsonl", "csv"))
    saliency.set_defaults(run=_saliency)

    sweep = kinds.add_parser(
        "sweep",
        help="the cells of a sweep and its figures (Table 6, figures 5, 7 and 8)",
        description="Mean SRCC over seeds with its 95 % interval of each finished run, and the "
        "figures drawn anew into WORKDIR/figures.",
    )
    sweep.add_argument("workdir", metavar="WORKDIR", help="of a sweep")
    _add_common(sweep, ("table", "md", "json", "jsonl", "csv"), bootstrap=False)
    sweep.set_defaults(run=_sweep)

    registers = kinds.add_parser(
        "registers",
        help="what the register tokens carry of a video (figure 6)",
        description="The tokens, which are the same for all videos, and t-SNE and silhouette by "
        "content of the first encoder level's response to them and of the bottleneck.",
    )
    registers.add_argument("checkpoint", metavar="CHECKPOINT", help="workdir or stage's folder")
    registers.add_argument("--data", required=True, metavar="DIR", help="prepared saliency set")
    registers.add_argument(
        "--part", default="test", choices=("train", "val", "test", "all"), help="of the set (test)"
    )
    registers.add_argument("--out", required=True, metavar="FILE.png", help="the figure")
    registers.add_argument(
        "--format", choices=("table", "json", "jsonl", "csv"), default="table", help="of stdout"
    )
    registers.set_defaults(run=_registers)

    strips = kinds.add_parser(
        "strips",
        help="frames with the saliency of one model or several (Table 5)",
        description="A line of frames for each clip, and under it one of overlays for each model, "
        "with its score.",
    )
    strips.add_argument("clips", nargs="+", metavar="CLIP", help="video file")
    strips.add_argument(
        "--checkpoint",
        action="append",
        required=True,
        metavar="[NAME=]DIR",
        help="a run's workdir or its vqa/; several times for several models",
    )
    strips.add_argument("--out", required=True, metavar="FILE.png", help="the picture")
    strips.set_defaults(run=_strips)


def _add_common(
    command: argparse.ArgumentParser, forms: tuple[str, ...], *, bootstrap: bool = True
) -> None:
    if bootstrap:
        command.add_argument(
            "--bootstrap", type=int, default=1000, metavar="N", help="resamples (1000)"
        )
    command.set_defaults(forms=forms)
    command.add_argument("--format", choices=forms, default="table", help="of stdout")
    command.add_argument(
        "--out",
        metavar="FILE",
        help="also write it here: .json, .jsonl, .csv, .txt; tables .md, and that of models .tex",
    )


def _table(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    from dagr_jax.report import agreement, predictions

    _check(arguments, parser)
    try:
        models = [one for source in arguments.sources for one in predictions.read(source)]
        predictions.refuse_twins(models)
        for recipe in arguments.fuse:
            models += predictions.fuse(models, recipe)
            predictions.refuse_twins(models)
    except predictions.PredictionsError as error:
        print(f"dagr: {error}", file=sys.stderr)
        return 1
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

    _put(arguments, render)
    unfit = [row for row in rows if not row.get("logistic", {"converged": True})["converged"]]
    for row in unfit:
        told = f"{row['model']} on {row['dataset']}: no logistic fits; its line was taken"
        print(f"dagr: {told}", file=sys.stderr)
    return 0


def _compare(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    from dagr_jax import significance
    from dagr_jax.report import predictions

    _check(arguments, parser)
    wanted = arguments.models or (None, None)
    try:
        a = _one(predictions.read(arguments.a), arguments.a, wanted[0])
        b = _one(predictions.read(arguments.b), arguments.b, wanted[1])
        a, values = predictions.align(a, b)
    except predictions.PredictionsError as error:
        print(f"dagr: {error}", file=sys.stderr)
        return 1
    found = significance.compare(a.values, values, a.mos, a.contents, n=arguments.bootstrap)
    sentence = significance.verdict(found, (a.model, b.model))

    def render(form: str) -> str:
        if form == "json":
            whole = {"a": a.model, "b": b.model, "dataset": a.dataset, **dataclasses.asdict(found)}
            return json.dumps(tables.defined({**whole, "verdict": sentence}), indent=2) + "\n"
        text = tables.render(_lines(found), form)
        head = f"A: {a.model}, B: {b.model}, {found.n} videos of {a.dataset}\n"
        return f"{head}{text}{sentence}\n" if form == "table" else text

    _put(arguments, render)
    return 0


def _saliency(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    from dagr_jax.report import agreement
    from dagr_jax.stages.saliency_scores import NAMES, saliency_rows
    from dagr_jax.train.compiled import keep_compiled

    _check(arguments, parser)
    networks: dict[str, list[Path]] = {}
    for name, path in map(_named, arguments.networks):
        networks.setdefault(name, []).append(Path(path))
    keep_compiled()
    try:
        rows = saliency_rows(
            networks, Path(arguments.data), arguments.part, resamples=arguments.bootstrap
        )
    except (ValueError, OSError) as error:
        print(f"dagr: {error}", file=sys.stderr)
        return 1
    rows = [{**row, "source": "measured"} for row in rows]
    if arguments.published:
        rows += agreement.published_saliency()

    def render(form: str) -> str:
        if form == "json":
            return json.dumps(tables.defined({"rows": rows}), indent=2) + "\n"
        if form in ("table", "md"):
            return tables.render([_short(row, NAMES) for row in rows], form)
        return tables.render([agreement.flat(row, NAMES) for row in rows], form)

    _put(arguments, render)
    return 0


def _short(row: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """A row with each metric and its interval in one cell."""

    def cell(one: Mapping[str, float] | None) -> str | None:
        if one is None or one["value"] != one["value"]:
            return None
        interval = f" [{one['low']:.3f}, {one['high']:.3f}]" if "low" in one else ""
        return f"{one['value']:.3f}{interval}"

    kept = {k: v for k, v in row.items() if k not in names and v is not None}
    return kept | {name: cell(row.get(name)) for name in names}


def _named(given: str) -> tuple[str, str]:
    """NAME=PATH → both; a path alone is its own name."""
    name, equals, path = given.partition("=")
    return (name, path) if equals and not os.path.exists(given) else (given, given)


def _registers(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    from dagr_jax.report import clouds
    from dagr_jax.stages.registers import registers_of

    _check_picture(arguments, parser)
    try:
        found = registers_of(Path(arguments.checkpoint), Path(arguments.data), arguments.part)
        clouds.draw(Path(arguments.out), found)
    except (ValueError, OSError) as error:
        print(f"dagr: {error}", file=sys.stderr)
        return 1
    videos, contents = len(found.classes), len(set(found.classes))
    rows: list[dict[str, Any]] = [
        {
            "what": cloud.name,
            "videos": videos,
            "contents": contents,
            "silhouette": cloud.silhouette,
            "by_chance": cloud.chance,
        }
        for cloud in found.clouds
    ]
    rows.insert(0, {"what": "register tokens", "largest_difference": found.difference})
    sys.stdout.write(tables.render(rows, arguments.format))
    return 0


def _strips(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    from dagr_jax.report.strips import draw, look
    from dagr_jax.score import Scorer

    _check_picture(arguments, parser)
    try:
        scorers = {
            name: Scorer.from_checkpoint(path) for name, path in map(_named, arguments.checkpoint)
        }
        draw(Path(arguments.out), [look(clip, scorers) for clip in arguments.clips])
    except (ValueError, OSError) as error:
        print(f"dagr: {error}", file=sys.stderr)
        return 1
    return 0


def _check_picture(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    if Path(arguments.out).suffix.lower() != ".png":
        parser.error(f"report: {arguments.out}: the picture is a .png file")


def _sweep(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    from dagr_jax.report import figures

    _check(arguments, parser)
    home = Path(arguments.workdir)
    try:
        summary = json.loads((home / "sweep.json").read_text())
    except FileNotFoundError:
        print(f"dagr: {home}: holds no sweep.json; name the workdir of a sweep", file=sys.stderr)
        return 1
    rows = figures.table(summary)
    _put(arguments, lambda form: tables.render(rows, form))
    for path in figures.draw(summary, home / "figures"):
        print(path, file=sys.stderr)
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


def _put(arguments: argparse.Namespace, render: Callable[[str], str]) -> None:
    """Prints in the format that is asked for, and writes in that of the file's suffix."""
    sys.stdout.write(render(arguments.format))
    if arguments.out:
        with whole_file(arguments.out) as partial:
            partial.write_text(render(_form_of(arguments.out)), encoding="utf-8")


def _form_of(path: str) -> str:
    grids = {".md": "md", ".tex": "latex"}
    return grids.get(os.path.splitext(path)[1].lower()) or tables.form_of(path)


def _check(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    if getattr(arguments, "bootstrap", 1) < 1:
        parser.error("report: --bootstrap must be at least 1")
    if arguments.out:
        try:
            form = _form_of(arguments.out)
        except ValueError as error:
            parser.error(f"report: {error}")
        if form not in arguments.forms:
            parser.error(f"report: {arguments.out}: {arguments.kind} has no such format")
