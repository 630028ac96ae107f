"""The `dagr` command."""

import argparse
import os
import sys
from collections.abc import Sequence

from dagr_jax import __version__
from dagr_jax.cli import bench, convert, evaluate, models, prepare, report, score, watch
from dagr_jax.runtime import startup


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `dagr`.

    Args:
        argv: Command line without the program name; None: that of the process.

    Returns:
        Exit code: 0 success, 1 failure, 2 usage error.
    """
    parser = argparse.ArgumentParser(prog="dagr", description=__doc__)
    parser.add_argument("--version", action="version", version=f"dagr_jax {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    for command in (score, watch, convert, prepare, evaluate, models, report, bench):
        command.add(commands)
    for added in commands.choices.values():
        added.add_argument("--debug", action="store_true", help="show the traceback of an error")
    arguments = parser.parse_args(argv)
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
    except Exception as error:
        if arguments.debug:
            raise
        told = " ".join(str(error).split())[:500]
        print(f"dagr: {type(error).__name__}: {told}; --debug shows the traceback", file=sys.stderr)
        return 1
