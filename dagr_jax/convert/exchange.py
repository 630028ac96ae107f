"""Converts PyTorch weights files to checkpoints for scoring or training, and back."""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn

from dagr_jax import __version__, registry
from dagr_jax.convert.files import WeightsError, read_weights, write_safetensors
from dagr_jax.convert.layers import StateDictError
from dagr_jax.convert.state_dict import Network, read_network, to_state_dict, torch_network
from dagr_jax.models.contract import Contract
from dagr_jax.runtime.errors import DagrError
from dagr_jax.train.checkpoints import load_variables, write_variables
from dagr_jax.train.meta import make_meta
from dagr_jax.video.inputs import InputSpec


@dataclasses.dataclass(frozen=True)
class Use:
    """How converted weights are used: facts that a weights file does not contain.

    Attributes:
        options: Values of options of the model (`Contract.convert_options`) that differ from their
            defaults.
        dataset: Name of the data set on which the complete model was trained.
        mos_range: (lowest, highest) MOS of that data set.
    """

    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    dataset: str = "unknown"
    mos_range: tuple[float, float] = (0.0, 1.0)


def import_network(source: str | Path, out: str | Path) -> Network:
    """Converts one network to a checkpoint from which training can start (`config.<stage>.init`).

    Args:
        source: Weights file, as `convert.read_weights` takes it.
        out: Folder of the checkpoint; must not exist.

    Returns:
        The converted network.

    Raises:
        WeightsError: The file cannot be read, or holds no known network.
        CheckpointError: `out` exists.
    """
    network = _read(source)
    contract: Contract = registry.contract_of(network.name)
    inputs, settings = contract.converted(_options(contract, {}))
    meta = _meta(
        network.name, fields_of(network.model), None, inputs, settings, "unknown", [source]
    )
    write_variables(out, network.variables, {**meta, "counters": {network.name: network.counters}})
    return network


def import_model(
    sources: Mapping[str, str | Path], use: Use, out: str | Path
) -> dict[str, Network]:
    """Converts the networks of a complete model to a checkpoint for scoring.

    Args:
        sources: Part of the model → weights file, as `convert.read_weights` takes it.
        use: How the converted weights are used.
        out: Folder of the checkpoint; must not exist.

    Returns:
        Part of the model → converted network.

    Raises:
        WeightsError: A file cannot be read, or holds the network of another part.
        CheckpointError: `out` exists.
        DagrError: A network that the options need is missing, or an option is unknown or out of
            range.
    """
    networks: dict[str, Network] = {}
    for part, path in sources.items():
        networks[part] = _read(path)
        found = torch_network(networks[part].name)
        if found.part != part:
            described = found.describe(networks[part].model)
            raise WeightsError(path, f"it holds {described}", f"pass it as --{found.part}")
    contract: Contract = registry.contract_of(next(iter(networks.values())).name)
    fields = {part: fields_of(network.model) for part, network in networks.items()}
    options = _options(contract, use.options)
    args = contract.assemble(fields, options)
    contract.build(args)  # raises an error if the networks and options do not fit together
    variables = {
        kind: {
            part: network.variables[kind]
            for part, network in networks.items()
            if kind in network.variables
        }
        for kind in ("params", "batch_stats")
    }
    inputs, settings = contract.converted({**args, **options})
    paths = list(sources.values())
    meta = _meta(contract.name, args, use.mos_range, inputs, settings, use.dataset, paths)
    counters = {network.name: network.counters for network in networks.values()}
    write_variables(out, variables, {**meta, "counters": counters})
    return networks


def export_torch(checkpoint: str | Path, out: str | Path) -> list[Path]:
    """Writes the networks of a checkpoint with the key names of the PyTorch release.

    Args:
        checkpoint: Folder of a checkpoint, as `checkpoints.load_variables` takes it.
        out: Name of a .safetensors file. A checkpoint of two networks becomes two files, whose
            names end in `.PART.safetensors`, with the part of the model.

    Returns:
        Paths of the written files.

    Raises:
        CheckpointError: There is no complete checkpoint.
        WeightsError: `out` has another suffix, or the PyTorch names of the networks are unknown.
    """
    out = Path(out)
    if out.suffix != ".safetensors":
        raise WeightsError(out, "its suffix is not .safetensors", "use this suffix")
    variables, meta = load_variables(checkpoint)
    contract: Contract = registry.contract_of(meta["model"])
    networks = []
    if meta["model"] == contract.name:
        model = contract.build(meta["model_args"])
        for one in contract.torch:
            if not one.part:  # the complete model is one network
                networks.append((one.name, model, variables, out))
            elif one.part in variables["params"]:
                own = {kind: tree.get(one.part, {}) for kind, tree in variables.items()}
                path = out.with_suffix(f".{one.part}.safetensors")
                networks.append((one.name, getattr(model, one.part), own, path))
    else:
        kind, _ = contract.networks[meta["model"]]
        networks.append((meta["model"], kind(**meta["model_args"]), variables, out))
    if not networks:
        raise WeightsError(
            checkpoint,
            "it holds no network whose PyTorch names are known",
            "give a checkpoint of another model",
        )
    about = {"dagr_jax": __version__, "preset": meta["preset"]}
    for name, network, own, path in networks:
        # Training in this package keeps no BatchNorm counters; converted checkpoints have them.
        counters = meta["counters"][name] if "counters" in meta else None
        write_safetensors(path, to_state_dict(name, network, own, counters), about)
    return [path for *_, path in networks]


def fields_of(model: nn.Module) -> dict[str, Any]:
    """Returns the fields from which a model can be rebuilt, in a form that JSON can hold."""
    values = {
        field.name: getattr(model, field.name)
        for field in dataclasses.fields(model)
        if field.name not in ("parent", "name")
    }
    return {name: list(v) if isinstance(v, tuple) else v for name, v in values.items()}


def _options(contract: Contract, given: Mapping[str, Any]) -> dict[str, Any]:
    defaults = {option.name: option.default for option in contract.convert_options}
    if others := given.keys() - defaults.keys():
        raise DagrError(f"{contract.facts.title} has no option {', '.join(sorted(others))}")
    return {**defaults, **given}


def _read(source: str | Path) -> Network:
    try:
        return read_network(read_weights(source))
    except StateDictError as error:
        raise WeightsError(source, str(error), "give a network of the PyTorch release") from error


def _meta(
    name: str,
    args: Mapping[str, Any],
    mos_range: tuple[float, float] | None,
    inputs: InputSpec,
    settings: Mapping[str, Any],
    dataset: str,
    sources: Sequence[str | Path],
) -> dict[str, Any]:
    digest = hashlib.sha256()
    for source in sources:
        with open(source, "rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return make_meta(
        model=name,
        model_args=args,
        preset=args.get("preset", ""),
        dataset=dataset,
        mos_range=mos_range,
        inputs=inputs.to_json(),
        settings=settings,
        config_digest=digest.hexdigest()[:12],
        worker_count=0,
    )
