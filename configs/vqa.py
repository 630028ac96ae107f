"""DAGR-VQA: saliency pretraining, saliency maps, quality model, test.

    python -m dagr_jax.main --config=configs/vqa.py --workdir=runs/embedded

`dagr_jax/configs/vqa.py` holds it, and says what may stand after a colon.
"""

from dagr_jax.configs.vqa import get_config

__all__ = ["get_config"]
