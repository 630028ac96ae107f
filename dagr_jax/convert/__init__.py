"""Conversion of weights from and to PyTorch."""

from dagr_jax.convert.files import WeightsError, read_weights, write_safetensors
from dagr_jax.convert.imagenet import READERS, load_efficientnet, load_resnet
from dagr_jax.convert.layers import StateDictError
from dagr_jax.convert.state_dict import Network, from_state_dict, read_network, to_state_dict

__all__ = [
    "READERS",
    "Network",
    "StateDictError",
    "WeightsError",
    "from_state_dict",
    "load_efficientnet",
    "load_resnet",
    "read_network",
    "read_weights",
    "to_state_dict",
    "write_safetensors",
]
