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
    "cold": "fresh dagr score processes from launch to score, beside PyTorch's",
    "decode": "8 frames of a 1080p clip, against decoding or converting more of it",
    "loader": "whether the data keep up with a step of 50 ms",
    "saliency": "a window of the saliency network, beside PyTorch where it is installed",
    "scaling": "a score against resolution, frames, batch and devices",
    "table4": "ten 1080p clips from file to score, beside PyTorch where it is installed",
    "train": "a training step of each network, beside PyTorch where it is installed",
    "vqa": "the quality network, beside PyTorch where it is installed",
}


def add(commands: Any) -> None:
    """Adds the command."""
    listed = "; ".join(f"{name}: {what}" for name, what in BENCHES.items())
    bench = commands.add_parser(
        "bench", help="measurements on this machine", description=f"{listed}."
    )
    bench.add_argument("what", choices=BENCHES, metavar="WHAT", help=" or ".join(BENCHES))
    bench.add_argument("--out", metavar="FILE", help="also write machine, rows and ratios: .json")
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
