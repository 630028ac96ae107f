"""`dagr evaluate`."""

import argparse
import sys
from pathlib import Path
from typing import Any

from dagr_jax.cli import options
from dagr_jax.report import tables
from dagr_jax.runtime.errors import DagrError


def add(commands: Any) -> None:
    """Adds the command `dagr evaluate`."""
    evaluate = commands.add_parser(
        "evaluate",
        help="evaluate a checkpoint on other data sets",
        description="Predicts all videos of prepared sets, for cross-data-set results. Videos on "
        "which the checkpoint was trained or validated are left out and counted.",
    )
    evaluate.add_argument(
        "data", nargs="+", metavar="DATA", help="prepared sets (folders written by dagr prepare)"
    )
    options.add_checkpoint(evaluate)
    evaluate.add_argument(
        "--workdir",
        required=True,
        metavar="DIR",
        help="output folder, with a subfolder for each set: predictions.csv, metrics.json, "
        "overview.png",
    )
    evaluate.add_argument(
        "--maps",
        default="",
        metavar="DIR",
        help="saliency maps of another model, one folder of pictures per video (for one DATA only)",
    )
    evaluate.add_argument(
        "--batch-size", type=int, default=4, metavar="N", help="videos per batch (default: 4)"
    )
    options.add_output(evaluate)
    evaluate.set_defaults(run=_run)


def _run(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    options.check_output(arguments, parser)
    sets = [Path(path) for path in arguments.data]
    if len({path.resolve().name for path in sets}) < len(sets):
        parser.error(
            "evaluate: two DATA folders have the same name, and so would their results; rename one"
        )
    if arguments.maps and len(sets) > 1:
        parser.error("evaluate: --maps holds the maps of one set; give only one DATA")
    if arguments.batch_size < 1:
        parser.error("evaluate: --batch-size must be at least 1")
    from dagr_jax.runtime.compile_cache import keep_compiled
    from dagr_jax.stages.evaluate import evaluate, summary

    keep_compiled()
    rows, failed = [], 0
    for path in sets:
        home = Path(arguments.workdir) / path.resolve().name
        try:
            result = evaluate(
                Path(arguments.checkpoint),
                path,
                home,
                batch_size=arguments.batch_size,
                maps=arguments.maps,
            )
        except DagrError as error:
            if arguments.debug:
                raise
            print(f"dagr: {error}", file=sys.stderr)
            failed += 1
            continue
        rows.append({"data": str(path), **summary(result)})
    sys.stdout.write(tables.render(rows, arguments.format) if rows else "")
    if arguments.out and rows:
        tables.write(rows, arguments.out)
    return 1 if failed else 0
