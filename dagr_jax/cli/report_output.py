"""Output of the `dagr report` subcommands: shared options, and writing the result."""

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
    """Adds the options --format, --out and --bootstrap.

    Args:
        command: Parser of the subcommand.
        forms: Formats that the subcommand supports.
        bootstrap: Whether to add --bootstrap.
    """
    if bootstrap:
        command.add_argument(
            "--bootstrap",
            type=int,
            default=1000,
            metavar="N",
            help="number of bootstrap resamples (default: 1000)",
        )
    command.set_defaults(forms=forms)
    command.add_argument(
        "--format",
        choices=forms,
        default="table",
        help="format of the printed result (default: table)",
    )
    command.add_argument(
        "--out",
        metavar="FILE",
        help="also write the result to this file, in the format of its suffix: .txt, .json, "
        ".jsonl, .csv, .md (not for compare) or .tex (only for table)",
    )


def put(arguments: argparse.Namespace, render: Callable[[str], str]) -> None:
    """Prints the result in the format of --format, and writes it in the format of --out's suffix.

    Args:
        arguments: Parsed arguments.
        render: Function: format → text of the result.
    """
    sys.stdout.write(render(arguments.format))
    if arguments.out:
        with atomic_file(arguments.out) as partial:
            partial.write_text(render(_form_of(arguments.out)), encoding="utf-8")


def _form_of(path: str) -> str:
    grids = {".md": "md", ".tex": "latex"}
    return grids.get(os.path.splitext(path)[1].lower()) or tables.form_of(path)


def check(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Exits with a usage error if --out has an unsupported format, or a number is below 1."""
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
            parser.error(
                f"report: {arguments.out}: {arguments.kind} cannot write this format; "
                "see --format in its --help"
            )
