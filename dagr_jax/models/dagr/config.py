"""The configurations of DAGR-VQA: sizes, rates and schedules by recipe. Imports no JAX.

* `paper`: the settings that the paper states. The default of all data sets except the embedded one.
* `release`: the settings of the PyTorch release.
* `embedded`: small networks, high learning rates and few steps. The default of the embedded corpus:
  300 epochs at 1e-5, for a start from ImageNet weights, cannot learn from scratch in minutes.
* `small`: like `embedded`, with less data and fewer steps, in one to two minutes. For comparisons
  of many runs (`configs/ablation.py`, `configs/cross_dataset.py`).

The arithmetic is set by another field, `preset`.
"""

from ml_collections import config_dict

from dagr_jax.models.config import add_training, base_config
from dagr_jax.runtime.errors import DagrError

# torchvision's IMAGENET1K_V1 weights of ResNet-50.
IMAGENET = "timm/resnet50.tv_in1k"


def default_config(dataset: str, recipe: str = "") -> config_dict.ConfigDict:
    """Returns the configuration of a run.

    Args:
        dataset: Name of the data set, a key of `dagr_jax.registry.datasets()`.
        recipe: One of `RECIPES`; "" for the default of the data set.

    Raises:
        DagrError: The recipe is unknown.
    """
    recipe = recipe or ("embedded" if dataset == "synthetic" else "paper")
    if recipe not in RECIPES:
        raise DagrError(f"recipe {recipe!r} is unknown; one of {', '.join(RECIPES)}")
    # Arithmetic only: "paper", or "release" for weights of the PyTorch release.
    preset = config_dict.FieldReference("paper")
    args = {
        "alpha": 0.5,
        "preset": preset,
        "dtype": "float32",
        # Size (height, width) to which frames are resized for the saliency network.
        "saliency_size": (224, 398),
        "saliency": {
            "widths": (64, 128, 256, 512),
            "bottleneck": 1024,
            "num_registers": 4,
            "register_dim": 64,
            # Which frames a token reaches ("time" as in the release, "channels" as in the paper's
            # text), and the factor of the initial projection of the tokens: 1 as in the release;
            # with 0, the register channels are 0 until the first update.
            "register_layout": "time",
            "register_scale": 1.0,
            # How the convolutions are computed (docs/performance.md), and what training
            # recomputes instead of keeping it: none, norms or blocks.
            "conv_form": "auto",
            "remat": "none",
        },
        "vqa": {
            "head": "full",
            "stage_sizes": (3, 4, 6, 3),
            "width": 64,
            "num_layers": 2,
            "num_heads": 4,
            "mlp_dim": 128,
            "projection_dim": 2048,
            "temporal_dim": 1024,
            "regressor": (256, 128),
            "dropout": 0.3,
            "normalize": False,
            "stem_init": "kaiming",
        },
    }
    config = base_config("dagr", args, dataset, ("saliency", "maps", "vqa"))
    config.preset = preset
    config.recipe = recipe
    # Which frames of a video are used, and the size (height, width) to which they are resized.
    config.sampling = {"num_frames": 8, "rule": "linspace", "size": (224, 398)}

    add_training(config, "saliency", batch_size=4, learning_rate=5e-3, epochs=180)
    more = {
        # Folder of a prepared saliency set; "": the set next to the quality set.
        "data_dir": "",
        # Number of frames of a gaze record; 0: sampling.num_frames. Number of successive frames of
        # these that a training item contains, a divisor; 0: all.
        "num_frames": 0,
        "window": 0,
        "gamma": 0.01,
        "flip": False,
    }
    config.saliency.update(more)
    add_training(config, "vqa", batch_size=5, learning_rate=1e-5, epochs=300)
    more = {
        # ImageNet weights from which the ResNet-50 starts: a .pth or .safetensors file with
        # torchvision's names, or a Hugging Face id; "": random weights.
        "backbone": "",
        # Loss: L1 + rank_weight · (1 − SRCC), with differentiable ranks.
        "rank_weight": 0.1,
        # Number of frames in a training item, a random ordered subset of the sampled frames; 0:
        # all.
        "frames": 0,
        # Whether the saliency network is trained further, through the fused frames.
        "train_saliency": False,
        "augment": {
            "flip": True,
            # Strength for brightness, contrast and saturation, with one draw per video.
            "jitter": 0.0,
            # (height, width) of a crop of the frames, the same for all frames of a video.
            "crop": (),
        },
    }
    config.vqa.update(more)
    # window 0: the sampled frames are one window of the saliency network. Otherwise the network
    # runs over every frame of the source file in windows of `window` frames, and `choice` selects
    # the maps for the sampled frames: "matched", "linspace", "first", or "first_map", the first
    # map for all (`dagr_jax.video.sampling.map_indices`). folder: maps that another model made, one
    # folder of grey pictures per video (`dagr_jax.data.map_folder`); "": maps of the saliency
    # network.
    config.maps = {"window": 0, "choice": "matched", "folder": "", "batch_size": 4}
    RECIPES[recipe](config)
    return config.lock()


def _paper(config: config_dict.ConfigDict) -> None:
    """Sets the recipe of the paper: the default fields above, with an ImageNet backbone.

    The paper trains the saliency network on 4 clips of 60 frames at once, which do not fit into the
    memory of one GPU. An update is the mean of ten batches of 4 windows of 6 frames.
    """
    config.saliency.update({"num_frames": 60, "window": 6})
    config.saliency.optim.accumulate = 10
    config.vqa.backbone = IMAGENET
    config.model.args.vqa.normalize = True


def _release(config: config_dict.ConfigDict) -> None:
    """Sets the recipe of the PyTorch release, which trains only the spatial head, no saliency."""
    config.saliency.update({"epochs": 200, "batch_size": 5, "num_frames": 60, "window": 6})
    config.saliency.optim.update(
        {"schedule": "torch_cosine", "period": 20, "clip_norm": 1.0, "accumulate": 4}
    )
    config.maps.update(
        {"window": 8, "choice": "first" if config.dataset.name == "lsvq" else "linspace"}
    )
    config.model.args.alpha = 0.0
    config.model.args.vqa.head = "spatial"
    config.vqa.backbone = IMAGENET
    config.vqa.batch_size = 16
    config.vqa.augment.jitter = 0.2
    config.vqa.optim.update(
        {
            "name": "adamw",
            "learning_rate": 5e-6,
            "weight_decay": 5e-4,
            "schedule": "torch_cosine",
            "period": 50,
            "end_value": 1e-8,
        }
    )


def _embedded(config: config_dict.ConfigDict) -> None:
    """Sets a recipe that trains everything from scratch in minutes on two cores."""
    config.model.args.saliency_size = (56, 100)
    config.model.args.saliency.update({"widths": (8, 16, 32, 64), "bottleneck": 64})
    config.model.args.vqa.update(
        {
            "stage_sizes": (1, 1, 1),
            "width": 16,
            "projection_dim": 256,
            "temporal_dim": 256,
            "regressor": (128, 64),
            "dropout": 0.0,
            "normalize": True,
            "stem_init": "gabor",
        }
    )
    config.saliency.update(
        {"steps": 36, "epochs": 0, "batch_size": 8, "eval_every": 36, "flip": True}
    )
    config.saliency.optim.update({"warmup_steps": 10, "clip_norm": 1.0})
    # Per second of training, a crop of one frame of many videos teaches more than all frames of a
    # few videos.
    config.vqa.update({"steps": 150, "epochs": 0, "batch_size": 96, "eval_every": 150})
    config.vqa.rank_weight = 1.0
    config.vqa.frames = 1
    config.vqa.augment.update({"crop": (80, 112), "jitter": 0.3})
    config.vqa.optim.update(
        {
            "name": "adamw",
            "learning_rate": 3e-3,
            "weight_decay": 0.05,
            "warmup_steps": 20,
            # Averages over about 33 updates. The usual 1000 is too long for so few steps.
            "b2": 0.97,
            "clip_norm": 1.0,
        }
    )
    config.maps.batch_size = 8
    config.test.batch_size = 8
    config.workers = 1


def _small(config: config_dict.ConfigDict) -> None:
    """Sets the recipe of a sweep run, which takes one to two minutes on two cores."""
    _embedded(config)
    if config.dataset.name == "synthetic":
        config.dataset.args.update({"seed": 11, "contents": (72, 4, 24), "frames": 16})
    config.sampling.num_frames = 4
    config.saliency.update({"steps": 40, "eval_every": 40})
    config.vqa.update({"steps": 150, "batch_size": 48, "eval_every": 150})
    config.vqa.optim.learning_rate = 2e-3
    # A worker process takes longer to start than it saves.
    config.workers = 0


RECIPES = {"paper": _paper, "release": _release, "embedded": _embedded, "small": _small}


def tiny_config() -> config_dict.ConfigDict:
    """Returns a tiny embedded recipe: 11 contents, frames of 32 × 48, few channels and steps."""
    config = shrink(default_config("synthetic"))
    config.dataset.args.update({"contents": (6, 2, 3), "frames": 10, "fixations": 4})
    return config


def shrink(config: config_dict.ConfigDict) -> config_dict.ConfigDict:
    """Shrinks a configuration in place: frames of 32 × 48, few channels and few steps.

    Args:
        config: Configuration of a run.

    Returns:
        The same configuration, locked.
    """
    with config.unlocked():
        config.sampling.update({"num_frames": 4, "size": (32, 48)})
        config.saliency.update({"num_frames": 0, "window": 0})
        config.model.args.saliency_size = (16, 24)
        config.model.args.saliency.conv_form = "native"  # compiles fastest
        config.model.args.saliency.update(
            {"widths": (2,), "bottleneck": 3, "num_registers": 2, "register_dim": 3}
        )
        config.model.args.vqa.update(
            {
                "stage_sizes": (1,),
                "width": 2,
                "num_layers": 1,
                "num_heads": 2,
                "mlp_dim": 8,
                "projection_dim": 8,
                "regressor": (8, 4),
            }
        )
        for section, steps in ((config.saliency, 4), (config.vqa, 6)):
            section.update({"steps": steps, "batch_size": 8, "eval_every": 2, "log_every": 1})
            section.optim.warmup_steps = 1
        config.vqa.frames = 2
        config.vqa.augment.crop = (24, 40)
        # Evaluation pads its batches, so they need not split evenly over the devices.
        config.maps.batch_size = 3
        config.test.update({"batch_size": 4, "bootstrap": 50})
        config.workers = 0
    return config.lock()
