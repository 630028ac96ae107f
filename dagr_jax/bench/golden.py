"""Golden numbers of the PyTorch release: their weights, their inputs, and errors against them.

The recipe is in `tests/golden/README.md`. It needs only numpy, so that a machine with JAX only can
check the networks.
"""

import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

# In the repository; it is not in the wheel.
FOLDER = Path(__file__).resolve().parents[2] / "tests" / "golden"


def arrays(name: str, folder: Path = FOLDER) -> dict[str, np.ndarray]:
    """Loads the arrays of `<name>.npz`.

    Args:
        name: Name of the file, without suffix.
        folder: Folder of the golden files.
    """
    with np.load(folder / f"{name}.npz") as found:
        return dict(found)


def weights(name: str, folder: Path = FOLDER) -> dict[str, np.ndarray]:
    """Makes the weights of a network.

    Args:
        name: Name of the network; `keys_<name>.json` lists its shapes.
        folder: Folder of the golden files.

    Returns:
        A state_dict with PyTorch's names.
    """
    shapes = json.loads((folder / f"keys_{name}.json").read_text())
    return {key: weight(key, tuple(shape)) for key, shape in shapes.items()}


def weight(key: str, shape: tuple[int, ...], seed: int = 7) -> np.ndarray:
    """Makes one entry of a state_dict.

    Args:
        key: PyTorch's name of the entry.
        shape: Shape of the entry.
        seed: Seed; the value depends on the seed and the key.
    """
    rng = np.random.default_rng([seed, zlib.crc32(key.encode())])
    if key.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    if key.endswith("running_var"):
        value = rng.uniform(0.5, 1.5, shape)
    elif key.endswith("running_mean"):
        value = 0.1 * rng.standard_normal(shape)
    elif len(shape) == 1 and key.endswith("bn3.weight"):
        value = rng.uniform(0.05, 0.25, shape)
    elif len(shape) == 1 and key.endswith("weight"):
        value = rng.uniform(0.5, 1.5, shape)
    elif len(shape) == 1:
        value = 0.1 * rng.standard_normal(shape)
    elif "register_tokens" in key:
        value = rng.standard_normal(shape)
    else:
        value = rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
    return value.astype(np.float32)


def data(key: Sequence[int], *shape: int) -> np.ndarray:
    """Makes a random input, float32 in [0, 1].

    Args:
        key: Seed of the input.
        *shape: Shape of the input.
    """
    return np.random.default_rng(list(key)).uniform(0, 1, shape).astype(np.float32)


def gradient_errors(
    expected: Mapping[str, np.ndarray], gradients: Mapping[str, np.ndarray]
) -> dict[str, float]:
    """Computes the error of each gradient, in units of (1e-3 of its norm + 1e-5).

    Args:
        expected: Golden arrays; `grad/<key>` holds the L2 norm of a gradient and its first values.
        gradients: {PyTorch's key: gradient}.

    Returns:
        {key: error}, the maximum of the errors of the norm and of the first values.
    """
    off = {}
    for name, want in expected.items():
        if name.startswith("grad/"):
            key = name.removeprefix("grad/")
            mine = np.asarray(gradients[key], np.float64).ravel()
            first = mine[: want.size - 1] - want[1 : 1 + mine.size]
            difference = [np.linalg.norm(mine) - want[0], *first]
            off[key] = float(np.abs(difference).max() / (1e-3 * want[0] + 1e-5))
    return off
