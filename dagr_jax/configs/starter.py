"""The starter model, trained on the starter corpus or on rated videos.

    python -m dagr_jax.main --config=configs/starter.py --workdir=runs/starter \\
        --config.dataset.args.source=SOURCES --config.vqa.backbone=efficientnet-lite0.pth

The argument after a colon selects the data set: `configs/starter.py:folder`. docs/starter.md
describes the sources, the weights of the backbone, and the model.
"""

from ml_collections import config_dict

from dagr_jax.models.starter.config import default_config


def get_config(choice: str = "starter") -> config_dict.ConfigDict:
    """Returns the configuration of a run.

    Args:
        choice: "DATASET" or "DATASET,RECIPE".

    Raises:
        DagrError: The recipe is unknown.
    """
    dataset, _, recipe = choice.partition(",")
    return default_config(dataset, recipe)
