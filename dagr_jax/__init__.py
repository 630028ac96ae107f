"""DAGR-VQA in JAX/Flax: no-reference video quality with saliency from register tokens.

`Scorer` (scores video files with a checkpoint) and `convert` (PyTorch weights) are imported on
first use, so that `import dagr_jax.models` needs neither PyAV nor Orbax.
"""

import importlib

__version__ = "0.1.0"
__all__ = ["Scorer", "__version__", "convert"]


def __getattr__(name: str):
    if name == "Scorer":
        return importlib.import_module("dagr_jax.score").Scorer
    if name == "convert":
        return importlib.import_module("dagr_jax.convert")
    raise AttributeError(f"module 'dagr_jax' has no attribute {name!r}")
