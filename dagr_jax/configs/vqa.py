"""DAGR-VQA: saliency pretraining, saliency maps, quality model, test.

    python -m dagr_jax.main --config=configs/vqa.py --workdir=runs/embedded

The argument after a colon selects the data set and, after a comma, the recipe:

    --config=configs/vqa.py:konvid1k,release

The default data set is `synthetic`, the embedded corpus. A recipe sets sizes, learning rates and
schedules. The arithmetic is set by a separate field, `preset`.

* `paper`: the settings stated in the paper; the default for every data set but the embedded corpus.
* `release`: the settings of the PyTorch release.
* `embedded`: small networks, high learning rates and few steps; the default for the embedded
  corpus. The recipe of the paper, 300 epochs at 1e-5 from ImageNet weights, cannot train from
  scratch in minutes.
* `small`: like `embedded`, but with less data and fewer steps, in one to two minutes. It is used to
  compare many runs (`configs/ablation.py`, `configs/cross_dataset.py`).
"""

from ml_collections import config_dict

from dagr_jax.models.dagr.config import default_config


def get_config(choice: str = "synthetic") -> config_dict.ConfigDict:
    """Returns the configuration of a run.

    Args:
        choice: "DATASET" or "DATASET,RECIPE"; a key of `dagr_jax.registry.datasets()`, and a recipe
            of the model.

    Raises:
        DagrError: The recipe is unknown.
    """
    dataset, _, recipe = choice.partition(",")
    return default_config(dataset, recipe)
