"""The paper's ablations: Table 6 and figures 5, 7 and 8, each cell for three seeds.

    python -m dagr_jax.main --config=configs/ablation.py --workdir=runs/ablation

`dagr_jax/configs/ablation.py` holds it.
"""

from dagr_jax.configs.ablation import get_config

__all__ = ["get_config"]
