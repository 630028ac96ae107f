"""Saliency pretraining only: the stages `prepare` and `saliency` of `configs/vqa.py`.

    python -m dagr_jax.main --config=configs/saliency.py --workdir=runs/saliency

The argument after a colon selects the data set and the recipe, as in `configs/vqa.py`.
"""

from ml_collections import config_dict

from dagr_jax.configs import vqa


def get_config(choice: str = "synthetic") -> config_dict.ConfigDict:
    """Returns the configuration of a saliency run.

    Args:
        choice: "DATASET" or "DATASET,RECIPE".
    """
    config = vqa.get_config(choice)
    config.stages = ("prepare", "saliency", "report")
    # With alpha 0, as in the release's quality recipe, the saliency network would not be trained.
    config.model.args.alpha = config.model.args.alpha or 0.5
    return config
