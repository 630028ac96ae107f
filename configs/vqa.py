"""DAGR-VQA: saliency pretraining, saliency maps, quality model, test.

    python -m dagr_jax.main --config=configs/vqa.py --workdir=runs/embedded

The configuration is in `dagr_jax/configs/vqa.py`, which also describes the argument after a colon.
"""

from dagr_jax.configs.vqa import get_config

__all__ = ["get_config"]
