"""The `dagr` command."""

import argparse
import sys
from collections.abc import Sequence

from dagr_jax import __version__
from dagr_jax.report import tables

# The columns that the table for people shows; the other formats hold every field.
_TABLE = ("file", "score", "mos", "frames", "width", "height", "fps", "rotation", "error")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `dagr`; returns the exit code: 0 all done, 1 something failed, 2 usage."""
    parser = argparse.ArgumentParser(prog="dagr", description=__doc__)
    parser.add_argument("--version", action="version", version=f"dagr_jax {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    score = commands.add_parser("score", help="score videos without a reference")
    score.add_argument("files", nargs="+", metavar="FILE", help="video files")
    score.add_argument(
        "--checkpoint", required=True, metavar="DIR", help="a run's workdir, or its vqa/ folder"
    )
    score.add_argument("--format", choices=tables.FORMATS, default="table", help="of stdout")
    score.add_argument(
        "--out", metavar="FILE", help="also write the rows here: .json, .jsonl, .csv or .txt"
    )
    score.set_defaults(run=_score)
    arguments = parser.parse_args(argv)
    return arguments.run(arguments, parser)


def _score(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    if arguments.out:
        try:
            tables.form_of(arguments.out)
        except ValueError as error:
            parser.error(str(error))
    # Imported here: `dagr --help` and usage errors need no JAX.
    from dagr_jax.score import Scorer

    try:
        scorer = Scorer.from_checkpoint(arguments.checkpoint)
    except (ValueError, OSError) as error:
        print(f"dagr: {error}", file=sys.stderr)
        return 1
    rows, failed = [], 0
    for file in arguments.files:
        try:
            rows.append(scorer.score(file).to_dict())
        except (ValueError, OSError) as error:
            print(f"dagr: {error}", file=sys.stderr)
            rows.append({"file": file, "error": str(error)})
            failed += 1
    shown = rows
    if arguments.format == "table":
        shown = [{key: row[key] for key in _TABLE if key in row} for row in rows]
    sys.stdout.write(tables.render(shown, arguments.format))
    if arguments.format == "table" and failed < len(rows):
        first = next(row for row in rows if "error" not in row)
        low, high = first["mos_range"]
        print(
            f"score: 0-100, not clipped. mos: on the scale {low:g}-{high:g} of "
            f"{first['dataset']!r}. {first['model']}, preset {first['preset']!r}."
        )
    if arguments.out:
        tables.write(rows, arguments.out)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
