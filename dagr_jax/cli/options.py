"""What several commands take."""

import argparse

from dagr_jax.report import tables
from dagr_jax.runtime.errors import DagrError


def add_checkpoint(command: argparse.ArgumentParser) -> None:
    """Adds --checkpoint."""
    command.add_argument(
        "--checkpoint", required=True, metavar="DIR", help="a run's workdir, or its vqa/ folder"
    )


def add_max_pixels(command: argparse.ArgumentParser) -> None:
    """Adds --max-pixels."""
    command.add_argument(
        "--max-pixels", type=int, default=8192 * 8192, metavar="N", help="of a frame (8192 x 8192)"
    )


def add_output(command: argparse.ArgumentParser) -> None:
    """Adds what every command that prints rows takes."""
    command.add_argument("--format", choices=tables.FORMATS, default="table", help="of stdout")
    command.add_argument(
        "--out", metavar="FILE", help="also write the rows here: .json, .jsonl, .csv or .txt"
    )


def check_output(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """A usage error for an --out that no rows can be written to."""
    if arguments.out:
        try:
            tables.form_of(arguments.out)
        except DagrError as error:
            parser.error(str(error))
