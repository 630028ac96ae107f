"""DAGR-VQA: saliency pretraining, saliency maps, quality model, test.

    python -m dagr_jax.main --config=configs/vqa.py --workdir=runs/embedded

The argument after a colon names the data set, and after a comma the recipe:

    --config=configs/vqa.py:konvid1k,release

`synthetic`, the embedded corpus, is the default. A recipe is sizes, rates and schedules; the
arithmetic is another field, `preset`.

* `paper`: what the paper states; the default of every data set but the embedded one.
* `release`: what the PyTorch release runs with.
* `embedded`: small nets, high rates and few steps, the default of the embedded corpus; 300 epochs
  at 1e-5 from an ImageNet start cannot learn from scratch in minutes.
* `small`: that in a tenth of the time, less data and fewer steps, where many runs are compared
  (`configs/ablation.py`, `configs/cross_dataset.py`).
"""

from ml_collections import config_dict

from dagr_jax.models.dagr.config import default_config


def get_config(choice: str = "synthetic") -> config_dict.ConfigDict:
    """The configuration of a run.

    Args:
        choice: "DATASET" or "DATASET,RECIPE"; a key of `dagr_jax.registry.datasets()`, and a recipe
            of the model.

    Raises:
        ValueError: The recipe is unknown.
    """
    dataset, _, recipe = choice.partition(",")
    return default_config(dataset, recipe)
