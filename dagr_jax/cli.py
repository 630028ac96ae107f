"""The `dagr` command."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dagr_jax import __version__, process
from dagr_jax.report import tables
from dagr_jax.video.sampling import MAP_CHOICES, RULES

# The columns that the table for people shows; the other formats hold every field.
_TABLE = ("file", "score", "mos", "frames", "width", "height", "fps", "rotation", "error")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `dagr`; returns the exit code: 0 all done, 1 something failed, 2 usage."""
    parser = argparse.ArgumentParser(prog="dagr", description=__doc__)
    parser.add_argument("--version", action="version", version=f"dagr_jax {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    score = commands.add_parser("score", help="score videos without a reference")
    score.add_argument("files", nargs="+", metavar="FILE", help="video files")
    _add_checkpoint(score)
    score.add_argument(
        "--maps",
        metavar="DIR",
        help="saliency maps, a folder of pictures for each file: for a checkpoint that was "
        "trained with those of another model",
    )
    _add_output(score)
    score.set_defaults(run=_score)
    _add_convert(commands)
    _add_prepare(commands)
    _add_evaluate(commands)
    _add_bench(commands)
    arguments = parser.parse_args(argv)
    if argv is None:
        process.set_up()
    return arguments.run(arguments, parser)


def _add_checkpoint(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--checkpoint", required=True, metavar="DIR", help="a run's workdir, or its vqa/ folder"
    )


def _add_output(command: argparse.ArgumentParser) -> None:
    """What every command that prints rows takes."""
    command.add_argument("--format", choices=tables.FORMATS, default="table", help="of stdout")
    command.add_argument(
        "--out", metavar="FILE", help="also write the rows here: .json, .jsonl, .csv or .txt"
    )


def _check_output(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    if arguments.out:
        try:
            tables.form_of(arguments.out)
        except ValueError as error:
            parser.error(str(error))


def _add_convert(commands: Any) -> None:
    convert = commands.add_parser(
        "convert",
        help="weights of the PyTorch release to a checkpoint, and back",
        description="IN --out DIR: one network, to start training from. --saliency A --vqa B "
        "--out DIR: a checkpoint that scores. DIR --to-torch FILE: back to PyTorch's names.",
    )
    convert.add_argument("source", nargs="?", metavar="IN", help=".pth, .pt, .safetensors, or DIR")
    convert.add_argument("--saliency", metavar="A", help="weights of the saliency network")
    convert.add_argument("--vqa", metavar="B", help="weights of the quality network")
    convert.add_argument("--out", metavar="DIR", help="checkpoint to write; must not exist")
    convert.add_argument("--to-torch", metavar="FILE", help="safetensors file to write")
    convert.add_argument(
        "--alpha", type=float, default=0.5, help="weight of the saliency, 0 to 1 (0.5)"
    )
    convert.add_argument(
        "--maps",
        choices=MAP_CHOICES,
        default="linspace",
        help="which maps go with the 8 frames: linspace (the release for KoNViD-1k, LIVE-VQC and "
        "YouTube-UGC; default), first (for LSVQ), or matched",
    )
    convert.add_argument(
        "--window",
        type=int,
        default=8,
        metavar="N",
        help="the saliency net sees every frame in windows of N (8, the release); "
        "0: the sampled frames alone",
    )
    convert.add_argument(
        "--dataset", default="unknown", metavar="NAME", help="what the network was trained on"
    )
    convert.add_argument(
        "--mos-range",
        type=float,
        nargs=2,
        default=(0.0, 1.0),
        metavar=("LOW", "HIGH"),
        help="lowest and highest MOS of that data set, for scores on its scale (0 1)",
    )
    convert.set_defaults(run=_convert)


def _convert(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    pair = bool(arguments.vqa or arguments.saliency)
    if pair == bool(arguments.source):
        parser.error("convert: give IN, or --vqa (and --saliency)")
    if bool(arguments.out) == bool(arguments.to_torch) or (pair and arguments.to_torch):
        parser.error("convert: give --out DIR, or one DIR and --to-torch FILE")
    if pair and not arguments.vqa:
        parser.error("convert: a checkpoint that scores needs --vqa too; one network alone is IN")
    if arguments.window < 0 or not arguments.mos_range[0] < arguments.mos_range[1]:
        parser.error("convert: --window must be 0 or more, and --mos-range ascend")
    from dagr_jax.registry import model_module
    from dagr_jax.train import exchange

    try:
        if arguments.to_torch:
            for path in exchange.export_torch(arguments.source, arguments.to_torch):
                print(path)
            return 0
        if pair:
            use = exchange.Use(
                alpha=arguments.alpha,
                window=arguments.window,
                choice=arguments.maps,
                dataset=arguments.dataset,
                mos_range=tuple(arguments.mos_range),
            )
            networks = exchange.import_dagr(arguments.saliency, arguments.vqa, use, arguments.out)
        else:
            network = exchange.import_network(arguments.source, arguments.out)
            networks = {network.name: network}
    except (ValueError, OSError) as error:
        print(f"dagr: {error}", file=sys.stderr)
        return 1
    described = [model_module(n.name).describe(n.model) for n in networks.values()]
    print(f"{arguments.out}: {' and '.join(described)}, preset 'release'")
    return 0


def _add_prepare(commands: Any) -> None:
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
    prepare.set_defaults(run=_prepare)


def _prepare(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    if arguments.frames < 1 or min(*arguments.size, *arguments.map_size) < 1:
        parser.error("prepare: --frames, --size and --map-size must be at least 1")
    from dagr_jax.registry import dataset_module
    from dagr_jax.stages.prepare import has_gaze, prepare_set

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
        map_size = list(arguments.map_size) if has_gaze(arguments.dataset) else None
        print(prepare_set(Path(arguments.out), dataset, sampling, map_size))
    except (ValueError, OSError) as error:
        print(f"dagr: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("dagr: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


def _add_evaluate(commands: Any) -> None:
    evaluate = commands.add_parser(
        "evaluate",
        help="a checkpoint on prepared sets that it has not seen",
        description="Predicts whole prepared sets, as for cross-data-set figures. What the "
        "checkpoint was trained or validated on is left out and counted.",
    )
    evaluate.add_argument("data", nargs="+", metavar="DATA", help="folders of dagr prepare")
    _add_checkpoint(evaluate)
    evaluate.add_argument(
        "--workdir",
        required=True,
        metavar="DIR",
        help="a folder for each set goes here: predictions.csv, metrics.json, overview.png",
    )
    evaluate.add_argument(
        "--maps", default="", metavar="DIR", help="saliency maps of the one set, as for dagr score"
    )
    evaluate.add_argument(
        "--batch-size", type=int, default=4, metavar="N", help="videos at once (4)"
    )
    _add_output(evaluate)
    evaluate.set_defaults(run=_evaluate)


def _evaluate(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    _check_output(arguments, parser)
    sets = [Path(path) for path in arguments.data]
    if len({path.resolve().name for path in sets}) < len(sets):
        parser.error("evaluate: two DATA folders have one name; their results would too")
    if arguments.maps and len(sets) > 1:
        parser.error("evaluate: --maps are of one set; give one DATA")
    if arguments.batch_size < 1:
        parser.error("evaluate: --batch-size must be at least 1")
    from dagr_jax.stages.evaluate import evaluate, summary
    from dagr_jax.train.compiled import keep_compiled

    keep_compiled()
    rows, failed = [], 0
    for path in sets:
        home = Path(arguments.workdir) / path.resolve().name
        try:
            result = evaluate(
                Path(arguments.checkpoint),
                path,
                home,
                batch_size=arguments.batch_size,
                maps=arguments.maps,
            )
        except (ValueError, OSError) as error:
            print(f"dagr: {error}", file=sys.stderr)
            failed += 1
            continue
        rows.append({"data": str(path), **summary(result)})
    sys.stdout.write(tables.render(rows, arguments.format) if rows else "")
    if arguments.out and rows:
        tables.write(rows, arguments.out)
    return 1 if failed else 0


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


def _add_bench(commands: Any) -> None:
    listed = "; ".join(f"{name}: {what}" for name, what in BENCHES.items())
    bench = commands.add_parser(
        "bench", help="measurements on this machine", description=f"{listed}."
    )
    bench.add_argument("what", choices=BENCHES, metavar="WHAT", help=" or ".join(BENCHES))
    bench.add_argument("--out", metavar="FILE", help="also write machine, rows and ratios: .json")
    bench.set_defaults(run=_bench)


def _bench(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    if arguments.out and Path(arguments.out).suffix != ".json":
        parser.error("bench: --out must end in .json")
    import importlib

    try:
        result = importlib.import_module(f"dagr_jax.bench.{arguments.what}").measure()
    except RuntimeError as error:
        print(f"dagr: {error}", file=sys.stderr)
        return 1
    told = result["machine"]
    print(f"{told['cpu']}, {told['cores']} cores, {told['memory_gib']} GiB; {told['devices']}")
    sys.stdout.write(tables.render(result["rows"], "table"))
    for name, value in result["ratios"].items():
        print(f"{name}  {value:.3f}")
    if arguments.out:
        tables.write_text(Path(arguments.out), json.dumps(result, indent=2) + "\n")
    return 0


def _score(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    _check_output(arguments, parser)
    # Imported here: `dagr --help` and usage errors need no JAX.
    from dagr_jax.data.map_folder import folder_of
    from dagr_jax.score import Scorer
    from dagr_jax.train.compiled import keep_compiled

    keep_compiled()
    try:
        scorer = Scorer.from_checkpoint(arguments.checkpoint)
    except (ValueError, OSError) as error:
        print(f"dagr: {error}", file=sys.stderr)
        return 1
    rows, failed = [], 0
    for file in arguments.files:
        try:
            maps = arguments.maps and folder_of(arguments.maps, Path(file).name)
            rows.append(scorer.score(file, maps=maps or None).to_dict())
        except (ValueError, OSError) as error:
            print(f"dagr: {error}", file=sys.stderr)
            rows.append({"file": file, "error": str(error)})
            failed += 1
    shown = rows
    if arguments.format == "table":
        shown = [{key: row[key] for key in _TABLE if key in row} for row in rows]
    sys.stdout.write(tables.render(shown, arguments.format))
    if arguments.format == "table" and failed < len(rows):
        first = next(row for row in rows if "error" not in row)
        low, high = first["mos_range"]
        print(
            f"score: 0-100, not clipped. mos: on the scale {low:g}-{high:g} of "
            f"{first['dataset']!r}. {first['model']}, preset {first['preset']!r}."
        )
    if arguments.out:
        tables.write(rows, arguments.out)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
