"""Weights files: PyTorch's .pth and .pt, and .safetensors.

A .pth file is a pickle. `pickles` reads it without PyTorch. It builds tensors and plain containers
and refuses everything else. Nothing in the file is executed.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dagr_jax.convert.pickles import UnsafePickle, read_pickle
from dagr_jax.runtime.atomic import atomic_file
from dagr_jax.runtime.errors import DagrError

PICKLES = (".pth", ".pt")
SUFFIXES = (*PICKLES, ".safetensors")


class WeightsError(DagrError):
    """A weights file cannot be used."""


def read_weights(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads a weights file.

    Args:
        path: `.safetensors`, or `.pth`, `.pt`.

    Returns:
        {name: numpy array}. For a .pth file also the other entries of the checkpoint. A state_dict
        inside a checkpoint stays under its own key.

    Raises:
        WeightsError: The file does not exist, its suffix is unknown, it cannot be read, or it
            contains something other than weights.
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
    """Writes arrays to a .safetensors file, atomically; PyTorch reads them as tensors.

    Args:
        path: File to write.
        arrays: {name: array}.
        metadata: Metadata of the file.

    Raises:
        DagrError: The file cannot be written.
    """
    import safetensors.numpy  # imported here, because conversion in memory needs only JAX

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
        held = read_pickle(path)
    except UnsafePickle as error:
        raise WeightsError(
            path,
            f"it is not a file of weights alone and was not opened ({_first(error)})",
            "save the state_dict by itself",
        ) from error
    except (OSError, ValueError) as error:
        raise WeightsError(path, f"cannot be read ({_first(error)})", "copy it again") from error
    if not isinstance(held, Mapping):
        raise WeightsError(
            path, f"it holds a {type(held).__name__}, not a state_dict", "save model.state_dict()"
        )
    return dict(held)


def _first(error: Exception) -> str:
    """Returns the first line of an error message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
