"""Figure 4: training on one data set in five folds, test on other data sets.

    python -m dagr_jax.main --config=configs/cross_dataset.py --workdir=runs/cross

The configuration is in `dagr_jax/configs/cross_dataset.py`.
"""

from dagr_jax.configs.cross_dataset import get_config

__all__ = ["get_config"]
