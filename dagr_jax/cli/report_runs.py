"""Subcommands of `dagr report` for networks and sweeps: saliency, registers, strips and others."""

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dagr_jax.cli import options
from dagr_jax.cli.report_output import add_output, check, put
from dagr_jax.report import tables
from dagr_jax.runtime import texts
from dagr_jax.runtime.errors import DagrError


def add(kinds: Any) -> None:
    """Adds the subcommands saliency, sweep, registers and strips of `dagr report`."""
    saliency = kinds.add_parser(
        "saliency",
        help="metrics of saliency networks on a prepared saliency set (Table 3)",
        description="Computes CC, NSS, SIM, KLD, AUC-Judd, AUC-Borji, shuffled AUC and temporal "
        "consistency, with 95 % bootstrap intervals over contents and checkpoints, for the "
        "networks and for maps that ignore the video. With several names, also the difference of "
        "each to the last.",
    )
    saliency.add_argument(
        "networks",
        nargs="+",
        metavar="[NAME=]CHECKPOINT",
        help="working directory of a run, or folder of a stage; checkpoints with the same NAME are "
        "averaged",
    )
    saliency.add_argument("--data", required=True, metavar="DIR", help="prepared saliency set")
    _add_part(saliency)
    saliency.add_argument(
        "--batch-size",
        type=int,
        default=8,
        metavar="N",
        help="videos or windows per batch (default: 8)",
    )
    saliency.add_argument(
        "--published", action="store_true", help="add the paper's own results, marked as published"
    )
    add_output(saliency, ("table", "md", "json", "jsonl", "csv"))
    saliency.set_defaults(run=_saliency)

    sweep = kinds.add_parser(
        "sweep",
        help="results and figures of a sweep (Table 6, figures 5, 7 and 8)",
        description="Prints, for each finished run, the mean SRCC over seeds with its 95 % "
        "interval, and the means of other metrics. In a sweep that trains only saliency networks, "
        "the main metric is their CC. Redraws the figures in WORKDIR/figures.",
    )
    sweep.add_argument("workdir", metavar="WORKDIR", help="working directory of the sweep")
    add_output(sweep, ("table", "md", "json", "jsonl", "csv"), bootstrap=False)
    sweep.set_defaults(run=_sweep)

    registers = kinds.add_parser(
        "registers",
        help="how much the register tokens depend on the video (figure 6)",
        description="Draws the tokens, which are the same for all videos. Computes the silhouette "
        "score of the contents for the first encoder level's response to the tokens and for the "
        "bottleneck, and as controls for the same layers with silent tokens and for the mean "
        "colour. Draws the t-SNE of the response and of its control.",
    )
    registers.add_argument(
        "checkpoint",
        metavar="CHECKPOINT",
        help="working directory of a run, or folder of a stage",
    )
    registers.add_argument("--data", required=True, metavar="DIR", help="prepared saliency set")
    _add_part(registers)
    registers.add_argument(
        "--classes",
        metavar="FILE.csv",
        help="classes of the videos, with the columns video and class (default: the contents of "
        "the set)",
    )
    registers.add_argument("--out", required=True, metavar="FILE.png", help="figure to write")
    registers.add_argument(
        "--format",
        choices=("table", "json", "jsonl", "csv"),
        default="table",
        help="format of the printed rows (default: table)",
    )
    registers.set_defaults(run=_registers)

    strips = kinds.add_parser(
        "strips",
        help="frames with the saliency of one or several models (Table 5)",
        description="Draws a row of frames for each clip, and below it a row of saliency overlays "
        "for each model, with its score.",
    )
    strips.add_argument("clips", nargs="+", metavar="CLIP", help="video file")
    strips.add_argument(
        "--checkpoint",
        action="append",
        required=True,
        metavar="[NAME=]DIR",
        help="working directory of a run, or its vqa/ folder; repeat for several models",
    )
    strips.add_argument("--out", required=True, metavar="FILE.png", help="picture to write")
    strips.set_defaults(run=_strips)

    ladders = kinds.add_parser(
        "ladders",
        help="whether scores fall when clips get worse",
        description="Encodes the beginning of each clip at six rates of x264, at five sizes, and "
        "at its own size after being reduced to these five sizes, and scores all of them. tau is "
        "Kendall's rank correlation of score and distortion: -1 if the score falls at every step.",
    )
    ladders.add_argument("clips", nargs="+", metavar="CLIP", help="video file")
    options.add_checkpoint(ladders)
    ladders.add_argument(
        "--seconds",
        type=float,
        default=2.0,
        metavar="S",
        help="length of the beginning of each clip that is used (default: 2)",
    )
    add_output(ladders, ("table", "md", "json", "jsonl", "csv"), bootstrap=False)
    ladders.set_defaults(run=_ladders)


def _add_part(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--part",
        default="unseen",
        choices=("unseen", "train", "val", "test", "all"),
        help="videos of the set to use: those on which the network was neither trained nor "
        "validated (unseen), a part that the set's own files define, or all (default: unseen)",
    )
    command.add_argument(
        "--window",
        type=int,
        default=0,
        metavar="N",
        help="number of successive frames that the networks see together, for networks that were "
        "trained on windows (default: all frames of a record)",
    )


def _saliency(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    from dagr_jax.report import agreement
    from dagr_jax.runtime.compile_cache import keep_compiled
    from dagr_jax.stages.gaze import NAMES
    from dagr_jax.studies.saliency_table import saliency_rows

    check(arguments, parser)
    networks: dict[str, list[Path]] = {}
    for name, path in map(_named, arguments.networks):
        networks.setdefault(name, []).append(Path(path))
    keep_compiled()
    rows = saliency_rows(
        networks,
        Path(arguments.data),
        arguments.part,
        window=arguments.window,
        batch_size=arguments.batch_size,
        resamples=arguments.bootstrap,
    )
    rows = [{**row, "source": "measured"} for row in rows]
    if arguments.published:
        rows += agreement.published_saliency()

    def render(form: str) -> str:
        if form == "json":
            return json.dumps(tables.defined({"rows": rows}), indent=2) + "\n"
        if form in ("table", "md"):
            return tables.render([_short(row, NAMES) for row in rows], form)
        return tables.render([agreement.flat(row, NAMES) for row in rows], form)

    put(arguments, render)
    return 0


def _short(row: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Returns a row with each metric and its interval in one cell."""

    def cell(one: Mapping[str, float] | None) -> str | None:
        if one is None or one["value"] != one["value"]:
            return None
        interval = f" [{one['low']:.3f}, {one['high']:.3f}]" if "low" in one else ""
        return f"{one['value']:.3f}{interval}"

    kept = {k: v for k, v in row.items() if k not in names and v is not None}
    return kept | {name: cell(row.get(name)) for name in names}


def _named(given: str) -> tuple[str, str]:
    """Splits NAME=PATH into (name, path). A path without a name is its own name."""
    name, equals, path = given.partition("=")
    return (name, path) if equals and not os.path.exists(given) else (given, given)


def _registers(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    from dagr_jax.report import registers_figure
    from dagr_jax.studies.registers import registers_of

    _check_picture(arguments, parser)
    classes = _classes(arguments.classes) if arguments.classes else None
    found = registers_of(
        Path(arguments.checkpoint),
        Path(arguments.data),
        arguments.part,
        classes,
        arguments.window,
    )
    registers_figure.draw(Path(arguments.out), found)
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


def _classes(path: str) -> dict[str, str]:
    """Reads {video: class} from a CSV file."""
    header, rows = texts.read_table(path)
    if not rows or not {"video", "class"} <= set(header):
        raise DagrError(path, "has no columns video and class", "name them in the first line")
    return {row["video"]: row["class"] for _, row in rows}


def _strips(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    from dagr_jax.report.strips import draw, look
    from dagr_jax.score import Scorer

    _check_picture(arguments, parser)
    named = [_named(given) for given in arguments.checkpoint]
    if len(dict(named)) < len(named):
        parser.error(
            "report: two checkpoints have the same name; give each its own name with NAME=DIR"
        )
    scorers = {name: Scorer.from_checkpoint(path) for name, path in named}
    draw(Path(arguments.out), [look(clip, scorers) for clip in arguments.clips])
    return 0


def _ladders(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    from dagr_jax.runtime.compile_cache import keep_compiled
    from dagr_jax.score import Scorer
    from dagr_jax.studies import ladders
    from dagr_jax.video.stream import VideoError

    check(arguments, parser)
    if not 0 < arguments.seconds < float("inf"):
        parser.error("report: --seconds must be above 0")
    keep_compiled()
    scorer = Scorer.from_checkpoint(arguments.checkpoint)
    rows, failed = [], 0
    for clip in arguments.clips:
        try:
            rows += ladders.ladders(scorer, Path(clip), arguments.seconds)
        except VideoError as error:
            failed += 1
            print(f"dagr: {error}", file=sys.stderr)
    shown = [{**row, "scores": " ".join(f"{one:.1f}" for one in row["scores"])} for row in rows]
    found = ladders.summary(rows)

    def render(form: str) -> str:
        if form == "json":
            whole = tables.defined({"rows": rows, "summary": found})
            return json.dumps(whole, indent=2) + "\n"
        text = tables.render(shown, form)
        return text + "\n" + tables.render(found, form) if form in ("table", "md") else text

    put(arguments, render)
    return 1 if failed else 0


def _check_picture(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    if Path(arguments.out).suffix.lower() != ".png":
        parser.error(f"report: {arguments.out}: the picture must be a .png file; use this suffix")


def _sweep(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    from dagr_jax.report import figures
    from dagr_jax.stages.sweep import summarise

    check(arguments, parser)
    home = Path(arguments.workdir)
    summary = json.loads(summarise(home).read_text())
    rows = figures.table(summary)
    put(arguments, lambda form: tables.render(rows, form))
    for name in summary["figures"]:
        print(home / "figures" / f"{name}.png", file=sys.stderr)
    return 0
