"""Files of weights: PyTorch's .pth and .pt, and .safetensors.

A .pth is a pickle. It is only ever read with `weights_only=True`, which builds tensors and plain
containers and refuses everything else; nothing in the file is executed.
"""

import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from dagr_jax.convert.state_dict import CONTAINERS
from dagr_jax.runtime.atomic import atomic_file
from dagr_jax.runtime.errors import DagrError

PICKLES = (".pth", ".pt")
SUFFIXES = (*PICKLES, ".safetensors")


class WeightsError(DagrError):
    """A file of weights that cannot be used."""


def read_weights(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads a file of weights.

    Args:
      path: `.safetensors`, or `.pth` / `.pt` (needs PyTorch, the extra `torch`).

    Returns:
      name → numpy array; of a .pth also what else the checkpoint held, its state_dict inside as
      it was saved.

    Raises:
      WeightsError: no such file, another suffix, not readable, or not of weights alone.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise WeightsError(path, "its suffix is unknown", f"give one of {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise WeightsError(path, "there is no such file", "check the path")
    return _read_pickle(path) if path.suffix in PICKLES else _read_safetensors(path)


def write_safetensors(
    path: str | os.PathLike[str], arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> None:
    """Writes arrays, whole or not at all, so that PyTorch reads them as tensors.

    Raises:
      DagrError: the file cannot be written.
    """
    import safetensors.numpy  # here: converting in memory needs JAX alone

    with atomic_file(path) as partial:
        partial.write_bytes(safetensors.numpy.save(dict(arrays), {"format": "pt", **metadata}))


def _read_safetensors(path: Path) -> dict[str, Any]:
    import safetensors.numpy

    try:
        return safetensors.numpy.load_file(path)
    except (safetensors.SafetensorError, OSError, ValueError, KeyError) as error:
        raise WeightsError(path, f"cannot be read ({_first(error)})", "copy it again") from error


def _read_pickle(path: Path) -> dict[str, Any]:
    try:
        import torch
    except ImportError as error:
        raise WeightsError(
            path, "reading it needs PyTorch", "pip install torch, or give it as .safetensors"
        ) from error
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            path,
            f"it is not a file of weights alone and was not opened ({_first(error)})",
            "save the state_dict by itself",
        ) from error
    except (RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        raise WeightsError(path, f"cannot be read ({_first(error)})", "copy it again") from error
    if not isinstance(held, Mapping):
        raise WeightsError(
            path, f"it holds a {type(held).__name__}, not a state_dict", "save model.state_dict()"
        )
    arrays = {key: _to_numpy(value) for key, value in held.items()}
    for name in CONTAINERS:
        if isinstance(held.get(name), Mapping):
            arrays[name] = {key: _to_numpy(value) for key, value in held[name].items()}
    return arrays


def _to_numpy(value: Any) -> Any:
    """A tensor as numpy array, to the bit; what is no tensor stays as it is."""
    import torch

    if not isinstance(value, torch.Tensor):
        return value
    value = value.detach().contiguous()
    if value.dtype == torch.bfloat16:  # numpy knows no bfloat16
        return value.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return value.numpy()


def _first(error: Exception) -> str:
    """The first line of what an error says."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
