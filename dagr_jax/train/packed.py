"""A checkpoint as one .safetensors file in half precision, small enough to be part of a package.

Kernels are float16. Vectors, such as the statistics of norms, are float32, because their values may
be outside the range of float16. Weights become float32 again when they are read. The metadata of
the checkpoint is JSON in the metadata of the file.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from dagr_jax.runtime.atomic import atomic_file
from dagr_jax.train.meta import CheckpointError
from dagr_jax.train.state import Tree

SUFFIX = ".safetensors"
_META = "dagr_jax"  # key of the metadata in the file


def write_packed(path: str | Path, variables: Mapping[str, Tree], meta: Mapping[str, Any]) -> None:
    """Writes a checkpoint to one file, atomically.

    Args:
        path: File to write, with the suffix `SUFFIX`.
        variables: {'params', 'batch_stats'} of a model.
        meta: Metadata of the checkpoint, as `checkpoints.load_variables` returns it.

    Raises:
        CheckpointError: The suffix is wrong, or a kernel has a value outside the range of float16.
        DagrError: The file cannot be written.
    """
    path = Path(path)
    if path.suffix != SUFFIX:
        raise CheckpointError(path, f"its suffix is not {SUFFIX}", "use this suffix")
    arrays: dict[str, np.ndarray] = {}
    for keys, leaf in jax.tree_util.tree_leaves_with_path(dict(variables)):
        name = "/".join(str(key.key) for key in keys)
        value = np.asarray(leaf, np.float32)
        if not np.isfinite(value).all():
            raise CheckpointError(path, f"{name} has values that are not finite", "train it again")
        with np.errstate(over="ignore"):  # refused below
            half = value.astype(np.float16) if value.ndim > 1 else value
        if not np.isfinite(half).all():
            raise CheckpointError(
                path,
                f"the values of {name} do not fit into float16",
                "keep the checkpoint as it is",
            )
        arrays[name] = half
    told = {name: _plain(value) for name, value in meta.items()}
    with atomic_file(path) as partial:
        partial.write_bytes(safetensors.numpy.save(arrays, {_META: json.dumps(told)}))


def is_packed(path: Path) -> bool:
    """Returns whether a path names a file that `read_packed` may read."""
    return path.suffix == SUFFIX and path.is_file()


def read_packed(path: Path) -> tuple[dict[str, Tree], dict[str, Any]]:
    """Reads a checkpoint that `write_packed` wrote.

    Args:
        path: The file.

    Returns:
        ({'params', 'batch_stats'} as float32 on the default device, metadata).

    Raises:
        CheckpointError: The file cannot be read, or holds something else.
    """
    try:
        with safetensors.safe_open(path, "np") as file:
            told = (file.metadata() or {}).get(_META)
            meta = json.loads(told) if told else None
            if not isinstance(meta, dict) or not {"model", "model_args"} <= meta.keys():
                raise CheckpointError(
                    path,
                    "is not a checkpoint of this package",
                    "convert PyTorch weights with dagr convert first",
                )
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except CheckpointError:
        raise
    except (safetensors.SafetensorError, OSError, ValueError, AttributeError) as error:
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(path, f"cannot be read ({said})", "copy it again") from error
    variables: dict[str, Tree] = {"params": {}, "batch_stats": {}}
    for name, value in arrays.items():
        *parents, last = name.split("/")
        node = variables
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = jnp.asarray(value, jnp.float32)
    return variables, meta


def _plain(value: Any) -> Any:
    """Returns a value as JSON data, which has no NaN."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value
