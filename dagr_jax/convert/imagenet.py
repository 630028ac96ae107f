"""ImageNet weights, to initialise the backbone of a model."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dagr_jax.convert import layers
from dagr_jax.convert.files import SUFFIXES, WeightsError, read_weights
from dagr_jax.convert.layers import StateDictError
from dagr_jax.convert.state_dict import strip
from dagr_jax.layers import efficientnet, resnet

_HUB_FILE = "model.safetensors"


def load_resnet(source: str, variables: Mapping[str, Any]) -> dict[str, Any]:
    """Reads the weights of a ResNet with the names of torchvision or timm (which are the same).

    The classifier is ignored.

    Args:
        source: A .pth, .pt or .safetensors file; or a Hugging Face id, "owner/name", whose
            `model.safetensors` is downloaded once and kept in the cache of the hub.
        variables: {'params', 'batch_stats'} of the ResNet, as values or shapes.

    Returns:
        The same tree with the values of the file.

    Raises:
        WeightsError: The file or the id cannot be read, or the network does not match. The message
            lists all missing and unexpected keys, and all keys with a wrong shape.
    """
    path = Path(source) if source.endswith(SUFFIXES) else _download(source)
    # Drop the classifier; every other key must match.
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


def load_efficientnet(source: str, variables: Mapping[str, Any]) -> dict[str, Any]:
    """Reads the weights of EfficientNet-Lite0 with the names of its PyTorch port.

    The classifier is ignored.

    Args:
        source: A .pth, .pt or .safetensors file.
        variables: {'params', 'batch_stats'} of `efficientnet.EfficientNetLite0`, as values or
            shapes.

    Returns:
        The same tree with the values of the file.

    Raises:
        WeightsError: The file cannot be read, or the network does not match.
    """
    arrays = {
        key: value
        for key, value in strip(read_weights(Path(source))).items()
        if not key.startswith("_fc.")
    }
    try:
        names = efficientnet.torch_layers()
        return layers.to_flax(names, variables, arrays, "EfficientNet-Lite0")[0]
    except StateDictError as error:
        raise WeightsError(source, str(error), "give the weights of EfficientNet-Lite0") from error


# Reader of `models.weights.Pretrained` → function.
READERS = {"resnet": load_resnet, "efficientnet": load_efficientnet}


def _stage_sizes(params: Mapping[str, Any]) -> tuple[int, ...]:
    """Returns the number of blocks in each stage, from the names layer<stage>_<block>."""
    stages = [int(m[1]) for m in (re.match(r"layer(\d+)_", name) for name in params) if m]
    return tuple(np.bincount(stages)[1:].tolist())


def _download(name: str) -> Path:
    """Returns the weights file of a Hugging Face id, from the cache or the network."""
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
    # The client passes on the exceptions of its HTTP library, which can be any library.
    except Exception as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise WeightsError(name, f"it could not be downloaded ({first})", otherwise) from error
