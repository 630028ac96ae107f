"""`dagr bench`."""

import argparse
import importlib
import json
import sys
from pathlib import Path
from typing import Any

from dagr_jax.report import tables
from dagr_jax.runtime.atomic import atomic_file

BENCHES = {
    "cold": "new dagr score processes from start to score, compared with PyTorch",
    "decode": "8 frames of a 1080p clip, compared with decoding or converting more frames",
    "loader": "data loading, compared with a training step of 50 ms",
    "saliency": "one window of the saliency network, compared with PyTorch if installed",
    "scaling": "scoring time by resolution, frames, batch size and devices",
    "table4": "ten 1080p clips from file to score, compared with PyTorch if installed",
    "train": "a training step of each network, compared with PyTorch if installed",
    "vqa": "the quality network, compared with PyTorch if installed",
}


def add(commands: Any) -> None:
    """Adds the command `dagr bench`."""
    listed = "; ".join(f"{name}: {what}" for name, what in BENCHES.items())
    bench = commands.add_parser(
        "bench", help="measure the speed on this machine", description=f"{listed}."
    )
    bench.add_argument("what", choices=BENCHES, metavar="WHAT", help=" or ".join(BENCHES))
    bench.add_argument(
        "--out", metavar="FILE", help="also write machine, rows and ratios to this .json file"
    )
    bench.set_defaults(run=_run)


def _run(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    if arguments.out and Path(arguments.out).suffix != ".json":
        parser.error("bench: --out must end in .json")
    result = importlib.import_module(f"dagr_jax.bench.{arguments.what}").measure()
    told = result["machine"]
    print(f"{told['cpu']}, {told['cores']} cores, {told['memory_gib']} GiB; {told['devices']}")
    sys.stdout.write(tables.render(result["rows"], "table"))
    for name, value in result["ratios"].items():
        print(f"{name}  {value:.3f}")
    if arguments.out:
        with atomic_file(arguments.out) as partial:
            partial.write_text(json.dumps(result, indent=2) + "\n")
    return 0
