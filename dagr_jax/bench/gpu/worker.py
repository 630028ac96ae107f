"""Process of one part: runs `measure` of a module and writes each row at once.

python -m dagr_jax.bench.gpu.worker MODULE ROWS BEFORE FOLDER SECONDS [--small]
"""

import importlib
import json
import sys
import time
from pathlib import Path

from dagr_jax.bench.gpu.plan import PAPER, SMALL, Plan

# Share of the time limit after which nothing new starts; the rest is for running measurements.
_SOFT = 0.85


def main(arguments: list[str]) -> None:
    """Runs one part. An exception ends the process with its traceback."""
    module, rows, before, folder, seconds, *flags = arguments
    plan = Plan(
        sizes=SMALL if "--small" in flags else PAPER,
        until=time.monotonic() + _SOFT * float(seconds),
        before=tuple(json.loads(Path(before).read_text())),
        folder=Path(folder),
    )
    with open(rows, "w") as stream:
        for row in importlib.import_module(module).measure(plan):
            stream.write(json.dumps(row) + "\n")
            stream.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
