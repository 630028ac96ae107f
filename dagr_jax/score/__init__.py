"""Scores videos with a checkpoint.

The names are loaded on first use, so that `dagr_jax.score.ray_engine` can be imported without JAX.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dagr_jax.score.results import Failure, Result, Segment
    from dagr_jax.score.scorer import Scorer
else:
    _HOMES = {
        "Failure": "results",
        "Result": "results",
        "Scorer": "scorer",
        "Segment": "results",
    }

    def __getattr__(name: str):
        if name in _HOMES:
            return getattr(importlib.import_module(f"dagr_jax.score.{_HOMES[name]}"), name)
        raise AttributeError(f"module 'dagr_jax.score' has no attribute {name!r}")


__all__ = ["Failure", "Result", "Scorer", "Segment"]
