"""Figure 4: trained on one data set in five folds, tested on others.

    python -m dagr_jax.main --config=configs/cross_dataset.py --workdir=runs/cross

`dagr_jax/configs/cross_dataset.py` holds it.
"""

from dagr_jax.configs.cross_dataset import get_config

__all__ = ["get_config"]
