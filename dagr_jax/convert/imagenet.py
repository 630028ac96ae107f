"""ResNet weights trained on ImageNet, to start the quality network from."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dagr_jax.convert import layers
from dagr_jax.convert.files import SUFFIXES, WeightsError, read_weights
from dagr_jax.convert.layers import StateDictError
from dagr_jax.convert.state_dict import strip
from dagr_jax.layers import resnet

_HUB_FILE = "model.safetensors"


def load_resnet(source: str, variables: Mapping[str, Any]) -> dict[str, Any]:
    """Reads a ResNet with torchvision's or timm's names (which are the same), without classifier.

    Args:
      source: a .pth, .pt or .safetensors file; or a Hugging Face id, "owner/name", whose
        `model.safetensors` is downloaded once and kept in the hub's cache.
      variables: {'params', 'batch_stats'} of the ResNet to fill, values or shapes.

    Returns:
      The same tree with the values of the file.

    Raises:
      WeightsError: the file or the id cannot be read, or it is another network; all missing,
        unexpected and misshapen keys are listed.
    """
    path = Path(source) if source.endswith(SUFFIXES) else _download(source)
    # The classifier has no place here; every other key must have one.
    arrays = {
        key: value
        for key, value in strip(read_weights(path)).items()
        if key not in ("fc.weight", "fc.bias")
    }
    names = resnet.torch_layers(_stage_sizes(variables["params"]))
    try:
        return layers.to_flax(names, variables, arrays, "this ResNet")[0]
    except StateDictError as error:
        raise WeightsError(
            source, str(error), "give the weights of a ResNet of config.model.args.vqa's sizes"
        ) from error


def _stage_sizes(params: Mapping[str, Any]) -> tuple[int, ...]:
    """Blocks in each stage, of the names layer<stage>_<block>."""
    stages = [int(m[1]) for m in (re.match(r"layer(\d+)_", name) for name in params) if m]
    return tuple(np.bincount(stages)[1:].tolist())


def _download(name: str) -> Path:
    """The weights of a Hugging Face id, from the cache or the network."""
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name):
        known = ", ".join(SUFFIXES)
        raise WeightsError(
            name, "it is neither a file of weights nor a Hugging Face id", f"give {known}, or an id"
        )
    otherwise = f"download its {_HUB_FILE} elsewhere and give the file as config.vqa.backbone"
    try:
        import huggingface_hub
    except ImportError as error:
        raise WeightsError(
            name, "a Hugging Face id needs huggingface_hub", f"pip install it, or {otherwise}"
        ) from error
    try:
        return Path(huggingface_hub.hf_hub_download(name, _HUB_FILE))
    # The hub's client lets the errors of its HTTP library through, whichever that is.
    except Exception as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise WeightsError(name, f"it could not be downloaded ({first})", otherwise) from error
