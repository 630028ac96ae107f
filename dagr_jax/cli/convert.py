"""`dagr convert`."""

import argparse
from typing import Any

from dagr_jax.video.sampling import MAP_CHOICES


def add(commands: Any) -> None:
    """Adds the command `dagr convert`."""
    convert = commands.add_parser(
        "convert",
        help="convert weights of the PyTorch release to a checkpoint, and back",
        description="IN --out DIR: convert one network, as a start for training. "
        "--saliency A --vqa B --out DIR: make a checkpoint for scoring. "
        "DIR --to-torch FILE: convert a checkpoint back to PyTorch's names.",
    )
    convert.add_argument(
        "source",
        nargs="?",
        metavar="IN",
        help="weights file (.pth, .pt or .safetensors), or checkpoint folder",
    )
    convert.add_argument("--saliency", metavar="A", help="weights file of the saliency network")
    convert.add_argument("--vqa", metavar="B", help="weights file of the quality network")
    convert.add_argument("--out", metavar="DIR", help="checkpoint to write; must not exist")
    convert.add_argument("--to-torch", metavar="FILE", help="safetensors file to write")
    convert.add_argument(
        "--alpha", type=float, default=0.5, help="weight of the saliency, 0 to 1 (default: 0.5)"
    )
    convert.add_argument(
        "--maps",
        choices=MAP_CHOICES,
        default="linspace",
        help="saliency maps for the 8 frames: linspace (as in the release for KoNViD-1k, LIVE-VQC "
        "and YouTube-UGC), first (as for LSVQ), or matched (default: linspace)",
    )
    convert.add_argument(
        "--window",
        type=int,
        default=8,
        metavar="N",
        help="the saliency network gets all frames, in windows of N; 0: only the sampled frames "
        "(default: 8, as in the release)",
    )
    convert.add_argument(
        "--dataset",
        default="unknown",
        metavar="NAME",
        help="data set on which the quality network was trained (default: unknown)",
    )
    convert.add_argument(
        "--mos-range",
        type=float,
        nargs=2,
        default=(0.0, 1.0),
        metavar=("LOW", "HIGH"),
        help="lowest and highest MOS of that data set; scores are on this scale (default: 0 1)",
    )
    convert.set_defaults(run=_run)


def _run(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    pair = bool(arguments.vqa or arguments.saliency)
    if pair == bool(arguments.source):
        parser.error("convert: give either IN, or --vqa (and --saliency)")
    if bool(arguments.out) == bool(arguments.to_torch) or (pair and arguments.to_torch):
        parser.error("convert: give either --out DIR, or one checkpoint DIR and --to-torch FILE")
    if pair and not arguments.vqa:
        parser.error(
            "convert: a checkpoint for scoring also needs --vqa; to convert one network, give it "
            "as IN"
        )
    if arguments.window < 0 or not arguments.mos_range[0] < arguments.mos_range[1]:
        parser.error("convert: --window must be at least 0, and --mos-range LOW below HIGH")
    from dagr_jax.convert import exchange
    from dagr_jax.convert.state_dict import torch_network

    if arguments.to_torch:
        for path in exchange.export_torch(arguments.source, arguments.to_torch):
            print(path)
        return 0
    if pair:
        use = exchange.Use(
            options={
                "alpha": arguments.alpha,
                "window": arguments.window,
                "choice": arguments.maps,
            },
            dataset=arguments.dataset,
            mos_range=tuple(arguments.mos_range),
        )
        given = {"saliency": arguments.saliency, "vqa": arguments.vqa}
        sources = {part: path for part, path in given.items() if path}
        networks = exchange.import_model(sources, use, arguments.out)
    else:
        network = exchange.import_network(arguments.source, arguments.out)
        networks = {network.name: network}
    described = [torch_network(n.name).describe(n.model) for n in networks.values()]
    print(f"{arguments.out}: {' and '.join(described)}, preset 'release'")
    return 0
