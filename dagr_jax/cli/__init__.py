"""The `dagr` command."""

import io
import os
import sys
from collections.abc import Sequence

from dagr_jax import __version__
from dagr_jax.cli import bench, convert, evaluate, models, prepare, report, score, watch
from dagr_jax.cli.options import Parser, add_debug
from dagr_jax.runtime import startup
from dagr_jax.runtime.errors import DagrError, show_tracebacks


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `dagr`.

    A `DagrError` is printed as one line. Any other exception is a defect, and is raised.

    Args:
        argv: Command line without the program name; None: the command line of the process.

    Returns:
        Exit code: 0 success, 1 failure, 2 usage error.
    """
    parser = Parser(prog="dagr", description=__doc__)
    parser.add_argument("--version", action="version", version=f"dagr_jax {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    for command in (score, watch, convert, prepare, evaluate, models, report, bench):
        command.add(commands)
    for added in commands.choices.values():
        add_debug(added)
    arguments = parser.parse_args(argv)
    show_tracebacks(arguments.debug)
    for stream in (sys.stdin, sys.stdout):
        if isinstance(stream, io.TextIOWrapper):
            # Names of files are bytes; what is not UTF-8 is read and printed as it is.
            stream.reconfigure(errors="surrogateescape")
    if argv is None:
        startup.set_up()
    try:
        return arguments.run(arguments, parser)
    except BrokenPipeError:  # the reader of stdout has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print("dagr: interrupted", file=sys.stderr)
        return 130
    except DagrError as error:
        if arguments.debug:
            raise
        print(f"dagr: {error}", file=sys.stderr)
        return 1
