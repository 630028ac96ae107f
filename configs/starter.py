"""The starter model, trained on the starter corpus or on rated videos.

    python -m dagr_jax.main --config=configs/starter.py --workdir=runs/starter \\
        --config.dataset.args.source=SOURCES --config.vqa.backbone=efficientnet-lite0.pth

The configuration is in `dagr_jax/configs/starter.py`.
"""

from dagr_jax.configs.starter import get_config

__all__ = ["get_config"]
