"""Saliency pretraining alone.

    python -m dagr_jax.main --config=configs/saliency.py --workdir=runs/saliency

`dagr_jax/configs/saliency.py` holds it.
"""

from dagr_jax.configs.saliency import get_config

__all__ = ["get_config"]
