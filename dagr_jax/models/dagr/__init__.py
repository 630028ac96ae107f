"""DAGR-VQA: frames → saliency maps → fused frames → score.

The names are imported on first use, so that `models.dagr.config` can be imported without JAX.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dagr_jax.models.dagr.contract import CONTRACT
    from dagr_jax.models.dagr.model import (
        Model,
        fuse,
        normalize_maps,
        release_maps,
        saliency_maps,
    )

__all__ = ["CONTRACT", "Model", "fuse", "normalize_maps", "release_maps", "saliency_maps"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = "contract" if name == "CONTRACT" else "model"
    return getattr(importlib.import_module(f"{__name__}.{home}"), name)
