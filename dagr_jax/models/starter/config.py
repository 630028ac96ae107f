"""The configurations of the starter model. Imports no JAX."""

from ml_collections import config_dict

from dagr_jax.models.config import add_training, base_config
from dagr_jax.runtime.errors import DagrError

RECIPES = ("starter",)


def default_config(dataset: str, recipe: str = "") -> config_dict.ConfigDict:
    """Returns the configuration of a run.

    Args:
        dataset: Name of the data set, a key of `dagr_jax.registry.datasets()`.
        recipe: One of `RECIPES`; "" for the only one.

    Raises:
        DagrError: The recipe is unknown.
    """
    if (recipe or RECIPES[0]) not in RECIPES:
        raise DagrError(f"recipe {recipe!r} is unknown; one of {', '.join(RECIPES)}")
    args = {
        # Maps of the backbone whose means and deviations are used.
        "levels": ("stem", "1", "2", "3", "5", "head"),
        "width": 128,
        "num_layers": 1,
        "num_heads": 4,
        "mlp_dim": 128,
        "dropout": 0.3,
        "dtype": "float32",
    }
    config = base_config("starter", args, dataset, ("whole", "details", "vqa"))
    # Number of sampled frames; size (height, width) of a squeezed frame and of a native window.
    config.sampling = {"num_frames": 4, "size": (224, 398), "window": (224, 224)}
    # Number of videos whose features are computed at once.
    config.features = {"batch_size": 4}
    add_training(config, "vqa", batch_size=128, learning_rate=2e-3, steps=1000)
    config.vqa.update(
        {
            # Weights of EfficientNet-Lite0 from which the backbone starts: a .pth or .safetensors
            # file with the names of its PyTorch port; "": random weights.
            "backbone": "",
            # Weights of the soft SRCC and of the order within contents.
            "rank_weight": 0.1,
            "order_weight": 0.1,
            "eval_every": 100,
        }
    )
    config.vqa.optim.update(
        {"name": "adamw", "weight_decay": 0.05, "warmup_steps": 20, "clip_norm": 1.0}
    )
    # Features are small: a process takes longer to start than it saves.
    config.workers = 0
    return config.lock()


def tiny_config() -> config_dict.ConfigDict:
    """Returns a configuration that trains in seconds on 11 contents of the embedded corpus."""
    config = default_config("synthetic")
    with config.unlocked():
        config.dataset.args.update({"contents": (6, 2, 3), "frames": 10, "fixations": 4})
        config.sampling.update({"num_frames": 2, "size": (32, 48), "window": (32, 32)})
        config.model.args.update({"levels": ("stem", "2"), "width": 8, "num_heads": 2})
        config.model.args.update({"mlp_dim": 8})
        config.vqa.update({"steps": 6, "batch_size": 8, "eval_every": 2, "log_every": 1})
        config.vqa.optim.warmup_steps = 1
        config.test.update({"batch_size": 4, "bootstrap": 50})
    return config.lock()
