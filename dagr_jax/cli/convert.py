"""`dagr convert`."""

import argparse
from collections.abc import Iterator
from typing import Any


def add(commands: Any) -> None:
    """Adds the command `dagr convert`."""
    convert = commands.add_parser(
        "convert",
        help="convert PyTorch weights to a checkpoint, and back",
        description="IN --out DIR: convert one network, as a start for training. "
        "--PART FILE … --out DIR: make a checkpoint for scoring from the networks of a model. "
        "DIR --to-torch FILE: convert a checkpoint back to PyTorch's names. "
        "DIR --pack FILE: write a checkpoint to one small file.",
    )
    convert.add_argument(
        "source",
        nargs="?",
        metavar="IN",
        help="weights file (.pth, .pt or .safetensors), or checkpoint folder",
    )
    convert.add_argument("--out", metavar="DIR", help="checkpoint to write; must not exist")
    convert.add_argument("--to-torch", metavar="FILE", help="safetensors file to write")
    convert.add_argument(
        "--pack",
        metavar="FILE",
        help="safetensors file to write, in half precision; it can be used like a checkpoint",
    )
    convert.add_argument(
        "--dataset",
        default="unknown",
        metavar="NAME",
        help="data set on which the complete model was trained (default: unknown)",
    )
    convert.add_argument(
        "--mos-range",
        type=float,
        nargs=2,
        default=(0.0, 1.0),
        metavar=("LOW", "HIGH"),
        help="lowest and highest MOS of that data set; scores are on this scale (default: 0 1)",
    )
    convert.late = _add_models
    convert.set_defaults(run=_run)


def _contracts() -> Iterator[Any]:
    """Yields the contracts of the models whose networks can be converted."""
    from dagr_jax import registry

    contracts, _ = registry.contracts()
    return (contract for contract in contracts.values() if contract.torch)


def _add_models(convert: argparse.ArgumentParser) -> None:
    """Adds the networks and options of each model, from its contract."""
    for contract in _contracts():
        group = convert.add_argument_group(f"{contract.facts.title}, for a checkpoint for scoring")
        for network in contract.torch:
            if network.part:
                group.add_argument(
                    f"--{network.part}",
                    dest=f"{contract.name}.part.{network.part}",
                    metavar="FILE",
                    help=f"weights file of the {network.part} network",
                )
        for option in contract.convert_options:
            group.add_argument(
                f"--{option.name}",
                dest=f"{contract.name}.option.{option.name}",
                type=type(option.default),
                choices=option.choices or None,
                metavar=None if option.choices else "N",
                help=f"{option.meaning} (default: {option.default})",
            )


def _given(arguments: argparse.Namespace, model: str, kind: str) -> dict[str, Any]:
    """Returns {name: value} of the parts or options of a model that the command line gives."""
    start = f"{model}.{kind}."
    return {
        name.removeprefix(start): value
        for name, value in vars(arguments).items()
        if name.startswith(start) and value is not None
    }


def _run(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    parts = {c.name: _given(arguments, c.name, "part") for c in _contracts()}
    options = {c.name: _given(arguments, c.name, "option") for c in _contracts()}
    chosen = [name for name, given in parts.items() if given]
    if len(chosen) + bool(arguments.source) != 1:
        parser.error("convert: give either IN, or the networks of one model (see --help)")
    files = [name for name in (arguments.to_torch, arguments.pack) if name]
    if bool(arguments.out) + len(files) != 1 or (chosen and files):
        parser.error(
            "convert: give either --out DIR, or one checkpoint DIR and --to-torch or --pack FILE"
        )
    if unused := [f"--{o}" for name, given in options.items() if name not in chosen for o in given]:
        parser.error(f"convert: {', '.join(unused)} has no effect on what is converted here")
    if not arguments.mos_range[0] < arguments.mos_range[1]:
        parser.error("convert: --mos-range LOW must be below HIGH")
    from dagr_jax.convert import exchange
    from dagr_jax.convert.state_dict import torch_network

    if arguments.pack:
        from dagr_jax.train.checkpoints import load_variables
        from dagr_jax.train.packed import write_packed

        write_packed(arguments.pack, *load_variables(arguments.source))
        print(arguments.pack)
        return 0
    if arguments.to_torch:
        for path in exchange.export_torch(arguments.source, arguments.to_torch):
            print(path)
        return 0
    if chosen:
        use = exchange.Use(
            options=options[chosen[0]],
            dataset=arguments.dataset,
            mos_range=tuple(arguments.mos_range),
        )
        networks = exchange.import_model(parts[chosen[0]], use, arguments.out)
    else:
        network = exchange.import_network(arguments.source, arguments.out)
        networks = {network.name: network}
    described = [torch_network(n.name).describe(n.model) for n in networks.values()]
    print(f"{arguments.out}: {' and '.join(described)}, preset 'release'")
    return 0
