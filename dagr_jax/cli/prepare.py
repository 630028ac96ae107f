"""`dagr prepare`."""

import argparse
import sys
from pathlib import Path
from typing import Any

from dagr_jax.video.sampling import RULES


def add(commands: Any) -> None:
    """Adds the command."""
    prepare = commands.add_parser(
        "prepare",
        help="decode a data set of rated videos or of gaze, once",
        description="Samples, resizes and packs the videos of a data set. A call that was "
        "interrupted goes on where it stopped. report.csv says of every video whether it is used.",
    )
    prepare.add_argument("dataset", metavar="DATASET", help="konvid1k, lsvq, …, or folder")
    prepare.add_argument("--source", required=True, metavar="DIR", help="folder of the videos")
    prepare.add_argument("--out", required=True, metavar="DIR", help="prepared set, for data_dir")
    prepare.add_argument(
        "--labels",
        nargs="+",
        default=[],
        metavar="FILE",
        help="label files, official or lists 'path, x, x, mos' (the official one in --source)",
    )
    prepare.add_argument(
        "--max-failures",
        type=int,
        default=-1,
        metavar="N",
        help="videos that may be missing or unreadable (one in a hundred)",
    )
    prepare.add_argument("--frames", type=int, default=8, metavar="N", help="frames of a video (8)")
    prepare.add_argument("--rule", choices=RULES, default="linspace", help="which frames")
    prepare.add_argument(
        "--size", type=int, nargs=2, default=(224, 398), metavar=("H", "W"), help="(224 398)"
    )
    prepare.add_argument(
        "--map-size",
        type=int,
        nargs=2,
        default=(224, 398),
        metavar=("H", "W"),
        help="of gaze maps and of the frames beside them (224 398)",
    )
    prepare.set_defaults(run=_run)


def _run(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    if arguments.frames < 1 or min(*arguments.size, *arguments.map_size) < 1:
        parser.error("prepare: --frames, --size and --map-size must be at least 1")
    from dagr_jax.registry import dataset_module
    from dagr_jax.stages.prepare import prepare_set

    args = {
        "source": arguments.source,
        "labels": arguments.labels,
        "max_failures": arguments.max_failures,
    }
    sampling = {
        "num_frames": arguments.frames,
        "rule": arguments.rule,
        "size": list(arguments.size),
    }
    try:
        if not hasattr(dataset_module(arguments.dataset), "DATASET"):
            parser.error(f"prepare: {arguments.dataset} is made by the prepare stage of its config")
        dataset = {"name": arguments.dataset, "args": args}
        print(prepare_set(Path(arguments.out), dataset, sampling, arguments.map_size))
    except KeyboardInterrupt:
        print("dagr: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    return 0
