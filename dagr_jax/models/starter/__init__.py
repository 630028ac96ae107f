"""The starter model: quality of real videos from ImageNet features (docs/starter.md).

The contract is imported on first use, so that `models.starter.config` can be imported without JAX.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dagr_jax.models.starter.contract import CONTRACT

__all__ = ["CONTRACT"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.contract"), name)
