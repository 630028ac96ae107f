"""`dagr models`."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from dagr_jax.report import tables
from dagr_jax.runtime.errors import DagrError


def add(commands: Any) -> None:
    """Adds the command `dagr models`."""
    models = commands.add_parser(
        "models",
        help="list the models and their facts",
        description="Lists the models of this package and of installed packages that add models.",
    )
    models.add_argument(
        "--format",
        choices=("text", "md", "json", "jsonl", "csv"),
        default="text",
        help="format of stdout (default: text)",
    )
    models.set_defaults(run=_run)


def _run(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    rows, errors = facts()
    if arguments.format == "text":
        sys.stdout.write("\n\n".join(map(_paragraph, rows)) + "\n")
    else:
        sys.stdout.write(tables.render(rows, arguments.format))
    for error in errors:
        print(f"dagr: {error}", file=sys.stderr)
    return 1 if errors else 0


def facts() -> tuple[list[dict[str, Any]], Sequence[DagrError]]:
    """Returns a row of facts for each model, also of other packages, and the errors of the rest."""
    from dagr_jax import registry

    rows = []
    contracts, errors = registry.contracts()
    for name, contract in contracts.items():
        told = contract.facts
        rows.append(
            {
                "name": name,
                "model": told.title,
                "year": told.year,
                "paper": told.paper,
                "parameters": told.parameters,
                "score": told.score,
                "maps": "; ".join(f"{m}: {one.meaning}" for m, one in told.maps.items()) or "none",
                "public weights": told.weights or "none",
                "licence": told.licence or "none",
            }
        )
    return rows, errors


def _paragraph(row: Mapping[str, Any]) -> str:
    """Formats the facts of one model for a terminal."""
    lines = [f"{row['name']}: {row['model']} ({row['year']})"]
    for field in ("paper", "parameters", "score", "maps", "public weights", "licence"):
        value = f"{row[field]:,}" if isinstance(row[field], int) else row[field]
        if field != "licence" or value != "none":
            lines.append(f"  {field:<15} {value}")
    return "\n".join(lines)
