"""Golden numbers of the PyTorch release: how their weights and inputs are made, and how far off.

The recipe is in `tests/golden/README.md`. It needs numpy alone, so that a machine with nothing but
JAX can check the networks.
"""

import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

# In the repository; the wheel does not hold it.
FOLDER = Path(__file__).resolve().parents[2] / "tests" / "golden"


def arrays(name: str, folder: Path = FOLDER) -> dict[str, np.ndarray]:
    """The arrays of `<name>.npz`."""
    with np.load(folder / f"{name}.npz") as found:
        return dict(found)


def weights(name: str, folder: Path = FOLDER) -> dict[str, np.ndarray]:
    """The state_dict of the network `keys_<name>.json`, under PyTorch's names."""
    shapes = json.loads((folder / f"keys_{name}.json").read_text())
    return {key: weight(key, tuple(shape)) for key, shape in shapes.items()}


def weight(key: str, shape: tuple[int, ...], seed: int = 7) -> np.ndarray:
    """The value of one entry of a state_dict."""
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
    """The input of a key: float32 in [0, 1] of that shape."""
    return np.random.default_rng(list(key)).uniform(0, 1, shape).astype(np.float32)


def gradient_errors(
    expected: Mapping[str, np.ndarray], gradients: Mapping[str, np.ndarray]
) -> dict[str, float]:
    """The error of each gradient, in units of 1e-3 of its norm plus 1e-5.

    Args:
        expected: Golden arrays; `grad/<key>` holds the L2 norm of a gradient and its first values.
        gradients: By PyTorch's keys.

    Returns:
        Key to the larger one of the errors of the norm and of the first values.
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
