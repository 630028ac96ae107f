"""Options that several commands share."""

import argparse
from collections.abc import Callable
from typing import Any

from dagr_jax.report import tables
from dagr_jax.runtime.errors import DagrError


class Parser(argparse.ArgumentParser):
    """A parser whose further options are added when it is used.

    The options of a command that come from the contracts of models need JAX, whose import takes
    seconds. The other commands do not wait for it.

    Attributes:
        late: Function (parser) that adds the options; None after it was called, or if there are
            none.
    """

    late: Callable[[argparse.ArgumentParser], None] | None = None

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Adds the further options, and parses."""
        if self.late is not None:
            add, self.late = self.late, None
            add(self)
        return super().parse_known_args(args, namespace)


def add_debug(command: argparse.ArgumentParser, default: Any = False) -> None:
    """Adds the option --debug to a command and its subcommands, so that it may stand anywhere."""
    told = "show the traceback of an error"
    command.add_argument("--debug", action="store_true", default=default, help=told)
    for action in command._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                # Suppressed: its default must not undo what stands before the subcommand.
                add_debug(below, argparse.SUPPRESS)


def add_checkpoint(command: argparse.ArgumentParser) -> None:
    """Adds the option --checkpoint."""
    command.add_argument(
        "--checkpoint",
        required=True,
        metavar="DIR",
        help="working directory of a run, its vqa/ folder, or a file of `dagr convert --pack`",
    )


def add_max_pixels(command: argparse.ArgumentParser) -> None:
    """Adds the option --max-pixels."""
    command.add_argument(
        "--max-pixels",
        type=int,
        default=8192 * 8192,
        metavar="N",
        help="refuse videos with more pixels per frame (default: 8192 x 8192)",
    )


def add_output(command: argparse.ArgumentParser) -> None:
    """Adds the options --format and --out of commands that print rows."""
    command.add_argument(
        "--format",
        choices=tables.FORMATS,
        default="table",
        help="format of the printed rows (default: table)",
    )
    command.add_argument(
        "--out",
        metavar="FILE",
        help="also write the rows to this file (.json, .jsonl, .csv or .txt)",
    )


def check_output(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Exits with a usage error if rows cannot be written in the format of --out."""
    if arguments.out:
        try:
            tables.form_of(arguments.out)
        except DagrError as error:
            parser.error(str(error))
