"""Ablations of the paper: Table 6 and figures 5, 7 and 8, with three seeds per cell.

    python -m dagr_jax.main --config=configs/ablation.py --workdir=runs/ablation

The configuration is in `dagr_jax/configs/ablation.py`.
"""

from dagr_jax.configs.ablation import get_config

__all__ = ["get_config"]
