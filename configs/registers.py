"""Saliency with registers, with registers that start at 0, and without registers.

    python -m dagr_jax.main --config=configs/registers.py --workdir=runs/registers

The configuration is in `dagr_jax/configs/registers.py`.
"""

from dagr_jax.configs.registers import get_config

__all__ = ["get_config"]
