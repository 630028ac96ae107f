"""Files of PyTorch weights → checkpoints that score or can be trained on, and back."""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn

from dagr_jax import __version__
from dagr_jax.convert import (
    Network,
    StateDictError,
    WeightsError,
    read_network,
    read_weights,
    to_state_dict,
    write_safetensors,
)
from dagr_jax.registry import model_module
from dagr_jax.runtime.errors import DagrError
from dagr_jax.train.checkpoints import load_variables, write_variables
from dagr_jax.train.meta import make_meta

# What the release does with every video (REFERENCE section 1).
SAMPLING = {"num_frames": 8, "rule": "linspace"}
RESIZE = {"size": [224, 398], "antialias": False}

# Part of the whole model → name of its network in registry.MODELS.
PARTS = {"saliency": "unet3d", "vqa": "vqa"}


@dataclasses.dataclass(frozen=True)
class Use:
    """How converted weights are to be used; what no file of weights says.

    Attributes:
      alpha: weight of the saliency in the fused frames, in [0, 1].
      window, choice: as in `score.MapPlan`.
      dataset: on which the quality network was trained.
      mos_range: (lowest, highest) MOS of that data set.
    """

    alpha: float = 0.5
    window: int = 8
    choice: str = "linspace"
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
    meta = _meta(network.name, fields_of(network.model), None, Use(), [source])
    write_variables(out, network.variables, {**meta, "counters": {network.name: network.counters}})
    return network


def import_dagr(
    saliency: str | Path | None, vqa: str | Path, use: Use, out: str | Path
) -> dict[str, Network]:
    """Converts a saliency and a quality network into a checkpoint that scores.

    Args:
      saliency: as `convert.read_weights` takes; None only with α = 0.
      vqa: the same.
      use: how.
      out: folder of the checkpoint; must not exist.

    Returns:
      The networks, by their part of the model.

    Raises:
      WeightsError: a file cannot be read, or holds another network than it was named for.
      CheckpointError: `out` exists.
      DagrError: α > 0 without a saliency network, or α is not in [0, 1].
    """
    if saliency is None and use.alpha:
        raise DagrError(f"alpha {use.alpha} needs a saliency network; give one, or alpha 0")
    sources = {"saliency": saliency, "vqa": vqa}
    networks: dict[str, Network] = {}
    for part, path in sources.items():
        if path is None:
            continue
        networks[part] = _read(path)
        if networks[part].name != PARTS[part]:
            described = _describe(networks[part])
            raise WeightsError(path, f"it holds {described}", f"give it another place than {part}")
    args: dict[str, Any] = {
        "saliency": None,
        **{part: fields_of(network.model) for part, network in networks.items()},
        "alpha": use.alpha,
        "preset": "release",
    }
    model_module("dagr").Model(**args)  # refuses what does not go together
    variables = {
        kind: {
            part: network.variables[kind]
            for part, network in networks.items()
            if kind in network.variables
        }
        for kind in ("params", "batch_stats")
    }
    meta = _meta("dagr", args, use.mos_range, use, [p for p in sources.values() if p is not None])
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
      WeightsError: `out` has another suffix.
    """
    out = Path(out)
    if out.suffix != ".safetensors":
        raise WeightsError(out, "its suffix is not .safetensors", "name it so")
    variables, meta = load_variables(checkpoint)
    model = model_module(meta["model"]).Model(**meta["model_args"])
    networks = [(meta["model"], model, variables, out)]
    if meta["model"] not in PARTS.values():
        networks = [
            (
                name,
                getattr(model, part),
                {kind: tree.get(part, {}) for kind, tree in variables.items()},
                out.with_suffix(f".{part}.safetensors"),
            )
            for part, name in PARTS.items()
            if part in variables["params"]
        ]
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


def _describe(network: Network) -> str:
    return model_module(network.name).describe(network.model)


def _meta(
    name: str,
    args: Mapping[str, Any],
    mos_range: tuple[float, float] | None,
    use: Use,
    sources: Sequence[str | Path],
) -> dict[str, Any]:
    digest = hashlib.sha256()
    for source in sources:
        with open(source, "rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return make_meta(
        model=name,
        model_args=args,
        preset="release",
        dataset=use.dataset,
        mos_range=mos_range,
        sampling=SAMPLING,
        resize=RESIZE,
        maps={"window": use.window, "choice": use.choice},
        config_digest=digest.hexdigest()[:12],
        worker_count=0,
    )
