"""Saliency pretraining alone: `prepare` and `saliency` of `configs/vqa.py`.

    python -m dagr_jax.main --config=configs/saliency.py --workdir=runs/saliency

The argument after a colon names the data set, as in `configs/vqa.py`.
"""

from ml_collections import config_dict

from configs import vqa


def get_config(dataset: str = "synthetic") -> config_dict.ConfigDict:
    """The configuration of a saliency run.

    Args:
        dataset: A key of `dagr_jax.registry.DATASETS`.
    """
    config = vqa.get_config(dataset)
    config.stages = ("prepare", "saliency")
    return config
