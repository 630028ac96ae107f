"""`dagr prepare`."""

import argparse
import sys
from pathlib import Path
from typing import Any

from dagr_jax.video.sampling import RULES


def add(commands: Any) -> None:
    """Adds the command `dagr prepare`."""
    prepare = commands.add_parser(
        "prepare",
        help="prepare a set of rated videos or a gaze set",
        description="Samples, resizes and packs the videos of a data set. An interrupted call "
        "continues where it stopped. report.csv lists every video and whether it is used.",
    )
    prepare.add_argument(
        "dataset", metavar="DATASET", help="name of the data set: konvid1k, lsvq, dhf1k, …"
    )
    prepare.add_argument("--source", required=True, metavar="DIR", help="folder of the videos")
    prepare.add_argument(
        "--out", required=True, metavar="DIR", help="prepared set to write (config field data_dir)"
    )
    prepare.add_argument(
        "--labels",
        nargs="+",
        default=[],
        metavar="FILE",
        help="label files: official ones, or lists 'path, x, x, mos' (default: the official one in "
        "--source)",
    )
    prepare.add_argument(
        "--max-failures",
        type=int,
        default=-1,
        metavar="N",
        help="number of videos that may be missing or unusable (default: one in a hundred)",
    )
    prepare.add_argument(
        "--frames",
        type=int,
        metavar="N",
        help="frames per video (default: 8; for gaze sets 60, as in the paper)",
    )
    prepare.add_argument(
        "--rule",
        choices=RULES,
        default="linspace",
        help="rule that selects the frames (default: linspace)",
    )
    prepare.add_argument(
        "--size",
        type=int,
        nargs=2,
        default=(224, 398),
        metavar=("H", "W"),
        help="height and width of the stored frames in pixels (default: 224 398)",
    )
    prepare.add_argument(
        "--map-size",
        type=int,
        nargs=2,
        default=(224, 398),
        metavar=("H", "W"),
        help="height and width of gaze maps, and of the frames of gaze sets (default: 224 398)",
    )
    prepare.set_defaults(run=_run)


def _run(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    given = [] if arguments.frames is None else [arguments.frames]
    if min(*given, *arguments.size, *arguments.map_size) < 1:
        parser.error("prepare: --frames, --size and --map-size must be at least 1")
    from dagr_jax.data.gaze import GazeSet
    from dagr_jax.registry import dataset_module
    from dagr_jax.stages.prepare import prepare_set
    from dagr_jax.video.inputs import Resize, Stream

    args = {
        "source": arguments.source,
        "labels": arguments.labels,
        "max_failures": arguments.max_failures,
    }
    height, width = arguments.size
    try:
        known = getattr(dataset_module(arguments.dataset), "DATASET", None)
        frames = arguments.frames or (60 if isinstance(known, GazeSet) else 8)
        stream = Stream(arguments.rule, frames, Resize((height, width)))
        if known is None:
            parser.error(
                f"prepare: {arguments.dataset} is made by the prepare stage of its config; run that"
            )
        dataset = {"name": arguments.dataset, "args": args}
        print(prepare_set(Path(arguments.out), dataset, stream, arguments.map_size))
    except KeyboardInterrupt:
        print("dagr: interrupted; run the same command again to continue", file=sys.stderr)
        return 130
    return 0
