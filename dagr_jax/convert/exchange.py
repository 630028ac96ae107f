"""Files of PyTorch weights → checkpoints that score or can be trained on, and back."""

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
from dagr_jax.train.checkpoints import load_variables, write_variables
from dagr_jax.train.meta import make_meta
from dagr_jax.video.inputs import InputSpec


@dataclasses.dataclass(frozen=True)
class Use:
    """How converted weights are to be used; what no file of weights says.

    Attributes:
      options: of the model, such as alpha, window and choice (`Contract.assemble`).
      dataset: on which the complete model was trained.
      mos_range: (lowest, highest) MOS of that data set.
    """

    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    dataset: str = "unknown"
    mos_range: tuple[float, float] = (0.0, 1.0)


def import_network(source: str | Path, out: str | Path) -> Network:
    """Converts one network, to start training from (`config.<stage>.init`).

    Args:
      source: as `convert.read_weights` takes.
      out: folder of the checkpoint; must not exist.

    Raises:
      WeightsError: the file cannot be read, or is none of the known networks.
      CheckpointError: `out` exists.
    """
    network = _read(source)
    contract: Contract = registry.contract_of(network.name)
    inputs, settings = contract.converted({})
    meta = _meta(
        network.name, fields_of(network.model), None, inputs, settings, "unknown", [source]
    )
    write_variables(out, network.variables, {**meta, "counters": {network.name: network.counters}})
    return network


def import_model(
    sources: Mapping[str, str | Path], use: Use, out: str | Path
) -> dict[str, Network]:
    """Converts the networks of a complete model into a checkpoint that scores.

    Args:
      sources: part of the model → file, as `convert.read_weights` takes.
      use: how.
      out: folder of the checkpoint; must not exist.

    Returns:
      The networks, by their part of the model.

    Raises:
      WeightsError: a file cannot be read, or holds another network than it was named for.
      CheckpointError: `out` exists.
      DagrError: a network that the options need is missing, or an option is out of range.
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
    args = contract.assemble(fields, use.options)
    contract.build(args)  # refuses what does not go together
    variables = {
        kind: {
            part: network.variables[kind]
            for part, network in networks.items()
            if kind in network.variables
        }
        for kind in ("params", "batch_stats")
    }
    inputs, settings = contract.converted({**args, **use.options})
    paths = list(sources.values())
    meta = _meta(contract.name, args, use.mos_range, inputs, settings, use.dataset, paths)
    counters = {network.name: network.counters for network in networks.values()}
    write_variables(out, variables, {**meta, "counters": counters})
    return networks


def export_torch(checkpoint: str | Path, out: str | Path) -> list[Path]:
    """Writes the networks of a checkpoint under the release's key names.

    Args:
      checkpoint: as `checkpoints.load_variables` takes.
      out: a .safetensors file. A checkpoint of two networks becomes two files, whose names end in
        `.saliency.safetensors` and `.vqa.safetensors`.

    Returns:
      The files.

    Raises:
      CheckpointError: there is no complete checkpoint.
      WeightsError: `out` has another suffix, or PyTorch has no names for the networks.
    """
    out = Path(out)
    if out.suffix != ".safetensors":
        raise WeightsError(out, "its suffix is not .safetensors", "name it so")
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
        # A checkpoint that was trained here has counted nothing.
        counters = meta["counters"][name] if "counters" in meta else None
        write_safetensors(path, to_state_dict(name, network, own, counters), about)
    return [path for *_, path in networks]


def fields_of(model: nn.Module) -> dict[str, Any]:
    """The fields that build a model again, as JSON holds them."""
    values = {
        field.name: getattr(model, field.name)
        for field in dataclasses.fields(model)
        if field.name not in ("parent", "name")
    }
    return {name: list(v) if isinstance(v, tuple) else v for name, v in values.items()}


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
