"""What the kinds of `dagr report` have in common: the options of their output, and writing it."""

import argparse
import os
import sys
from collections.abc import Callable

from dagr_jax.report import tables
from dagr_jax.runtime.atomic import atomic_file
from dagr_jax.runtime.errors import DagrError


def add_output(
    command: argparse.ArgumentParser, forms: tuple[str, ...], *, bootstrap: bool = True
) -> None:
    """Adds --format of these forms, --out and --bootstrap."""
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


def put(arguments: argparse.Namespace, render: Callable[[str], str]) -> None:
    """Prints in the format that is asked for, and writes in that of the file's suffix."""
    sys.stdout.write(render(arguments.format))
    if arguments.out:
        with atomic_file(arguments.out) as partial:
            partial.write_text(render(_form_of(arguments.out)), encoding="utf-8")


def _form_of(path: str) -> str:
    grids = {".md": "md", ".tex": "latex"}
    return grids.get(os.path.splitext(path)[1].lower()) or tables.form_of(path)


def check(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """A usage error for an --out that cannot be written, or a number below 1."""
    if getattr(arguments, "batch_size", 1) < 1:
        parser.error("report: --batch-size must be at least 1")
    if getattr(arguments, "bootstrap", 1) < 1:
        parser.error("report: --bootstrap must be at least 1")
    if arguments.out:
        try:
            form = _form_of(arguments.out)
        except DagrError as error:
            parser.error(f"report: {error}")
        if form not in arguments.forms:
            parser.error(f"report: {arguments.out}: {arguments.kind} has no such format")
