"""Runs all measurements on one GPU.

python -m dagr_jax.bench.gpu --out DIR [--minutes 8]
python -m dagr_jax.bench.gpu --publish DIR
"""

import argparse
import datetime
import sys
from pathlib import Path
from typing import Any

from dagr_jax import __version__
from dagr_jax.bench.gpu import summary
from dagr_jax.bench.gpu.parts import PARTS, run_parts
from dagr_jax.runtime.errors import DagrError, environment


def main(arguments: list[str] | None = None) -> int:
    """Runs all parts and writes the results after each.

    Args:
        arguments: Command line without the program name; None: that of the process.

    Returns:
        Exit code: 0, or 1 after a `DagrError` or if a part did not complete. The measured values
        do not affect it.
    """
    parser = argparse.ArgumentParser(prog="python -m dagr_jax.bench.gpu", description=__doc__)
    parser.add_argument("--out", metavar="DIR", default="gpu", help="output folder (default: gpu)")
    parser.add_argument(
        "--minutes",
        type=float,
        default=8.0,
        metavar="N",
        help="time limit for all parts together, in minutes (default: 8)",
    )
    parser.add_argument(
        "--small", action="store_true", help="use small sizes, to test the command on a CPU"
    )
    parser.add_argument(
        "--publish",
        metavar="DIR",
        help="only copy the results of a real GPU from DIR to docs/results/gpu",
    )
    chosen = parser.parse_args(arguments)
    if chosen.minutes <= 0:
        parser.error("--minutes must be above 0")
    try:
        if not chosen.publish:
            return measure(Path(chosen.out), 60 * chosen.minutes, small=chosen.small)
        files = summary.publish(Path(chosen.publish))
    except DagrError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print("\n".join(map(str, files)))
    return 0


def measure(folder: Path, seconds: float, *, small: bool, parts: Any = PARTS) -> int:
    """Runs the parts and writes `results.json`, `results.md`, `log.txt`, HLO and traces.

    Args:
        folder: Output folder; it is created if missing.
        seconds: Time limit for all parts together, in seconds.
        small: Use small sizes.
        parts: Parts to run, in the order of their importance.

    Returns:
        Exit code: 0, or 1 if a part did not complete.
    """
    with environment(folder):
        folder.mkdir(parents=True, exist_ok=True)
    (folder / "log.txt").unlink(missing_ok=True)
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    result: dict[str, Any] = {"version": __version__, "time": now, "small": small, "parts": []}
    for part in run_parts(parts, folder, seconds, small=small):
        result["parts"].append(part)
        summary.write(folder, result)
        error = f": {part['error']}" if "error" in part else ""
        print(f"{part['name']}: {part['status']} in {part['seconds']} s{error}", file=sys.stderr)
    print((folder / "results.md").read_text(), end="")
    return 0 if all(part["status"] == "complete" for part in result["parts"]) else 1


if __name__ == "__main__":
    sys.exit(main())
