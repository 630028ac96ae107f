"""Saliency pretraining only.

    python -m dagr_jax.main --config=configs/saliency.py --workdir=runs/saliency

The configuration is in `dagr_jax/configs/saliency.py`.
"""

from dagr_jax.configs.saliency import get_config

__all__ = ["get_config"]
