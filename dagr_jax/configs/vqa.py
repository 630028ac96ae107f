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
* `small`: like `embedded`, but with less data and fewer steps, in a tenth of the time. It is used
  to compare many runs (`configs/ablation.py`, `configs/cross_dataset.py`).
"""

from ml_collections import config_dict

# Data sets that define their own training, validation and test parts.
OFFICIAL = ("synthetic", "dhf1k")
# torchvision's IMAGENET1K_V1 weights of ResNet-50.
IMAGENET = "timm/resnet50.tv_in1k"


def get_config(choice: str = "synthetic") -> config_dict.ConfigDict:
    """Returns the configuration of a run.

    Args:
        choice: "DATASET" or "DATASET,RECIPE": a key of `dagr_jax.registry.DATASETS` and a key of
            `RECIPES`.

    Raises:
        ValueError: The recipe is unknown.
    """
    dataset, _, recipe = choice.partition(",")
    recipe = recipe or ("embedded" if dataset == "synthetic" else "paper")
    if recipe not in RECIPES:
        raise ValueError(f"recipe {recipe!r} is unknown; one of {', '.join(RECIPES)}")
    config = config_dict.ConfigDict()
    # Seed of weights, data order, augmentation and dropout.
    seed = config_dict.FieldReference(0)
    config.seed = seed
    # Arithmetic only: "paper", or "release" for weights of the PyTorch release.
    preset = config_dict.FieldReference("paper")
    config.preset = preset
    config.recipe = recipe
    config.stages = ("prepare", "saliency", "maps", "vqa", "test", "report")

    config.dataset = {"name": dataset, "args": {}}
    if dataset == "synthetic":
        # The corpus has its own seed, so that runs with different seeds can share it.
        config.dataset.args = {
            "seed": 5,
            "contents": (200, 24, 24),
            "frames": 24,
            "fixations": 20,
            # Plan of the distortions, "delivery" or "capture", and the share of photographs in the
            # backgrounds.
            "distortions": "delivery",
            "patches": 0.6,
        }
    else:
        config.dataset.args = {
            # Folder of the videos, and the label file ("": the official one in that folder).
            "source": "",
            "labels": "",
            # Number of videos that may be missing or unusable; -1: one in a hundred.
            "max_failures": -1,
        }
    # Folder of a prepared set that several runs share; "": <workdir>/data.
    config.data_dir = ""
    # Split into training, validation and test part: fields of `dagr_jax.data.splits.Protocol`, or
    # a CSV file with the columns video and part. fold -1: run all folds of "kfold", or `folds`
    # folds of "repeated", one after the other.
    config.split = {
        "protocol": "official" if dataset in OFFICIAL else "random",
        "file": "",
        "test": 0.1,
        "val": 0.1,
        "folds": 5,
        "fold": 0,
        "seed": 0,
    }
    # Which frames of a video are used, and the size (height, width) to which they are resized.
    config.sampling = {"num_frames": 8, "rule": "linspace", "size": (224, 398)}

    config.model = {
        "name": "dagr",
        "args": {
            "alpha": 0.5,
            "preset": preset,
            "dtype": "float32",
            # Input size (height, width) of the saliency network.
            "saliency_size": (224, 398),
            "saliency": {
                "widths": (64, 128, 256, 512),
                "bottleneck": 1024,
                "num_registers": 4,
                "register_dim": 64,
                # Form of the convolutions (docs/performance.md), and what training recomputes
                # instead of keeping it in memory: none, norms or blocks.
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
        },
    }

    # Length of the training: steps, or epochs if steps is 0. log_every and eval_every are in steps;
    # eval_every 0: once per epoch. init: working directory of a run, or folder of a stage, with the
    # initial weights; with epochs and steps 0 these weights are used without training.
    config.saliency = {
        "seed": seed,
        "init": "",
        # Folder of a prepared saliency set; "": the saliency set in the folder of the quality set.
        "data_dir": "",
        "steps": 0,
        "epochs": 180,
        "batch_size": 4,
        "log_every": 10,
        "eval_every": 0,
        "gamma": 0.01,
        "flip": False,
        "optim": _adam(learning_rate=5e-3),
    }
    config.vqa = {
        "seed": seed,
        "init": "",
        # ImageNet weights of the ResNet-50: a .pth or .safetensors file with torchvision's names,
        # or a Hugging Face id; "": random initialisation.
        "backbone": "",
        "steps": 0,
        "epochs": 300,
        "batch_size": 5,
        "log_every": 10,
        "eval_every": 0,
        # Loss: L1 + rank_weight · (1 − Spearman), with a differentiable rank.
        "rank_weight": 0.1,
        # Number of sampled frames used per step, a random subset in temporal order; 0: all.
        "frames": 0,
        # Whether the saliency network is also trained, through the fused frames, or kept frozen.
        "train_saliency": False,
        "augment": {
            "flip": True,
            # Range of brightness, contrast and saturation, drawn once per video.
            "jitter": 0.0,
            # Random window (height, width), the same for all frames of a video; (): no crop.
            "crop": (),
        },
        "optim": _adam(learning_rate=1e-5),
    }
    # window 0: the sampled frames are one window of the saliency network. window N: the network
    # gets every frame of the source file, in windows of N frames, and choice selects the maps for
    # the sampled frames: "matched", "linspace", "first", or "static" (the first map for all frames)
    # (`dagr_jax.video.sampling.map_indices`). folder: maps of another model, one folder of grey
    # pictures per video (`dagr_jax.data.map_folder`); "": maps of the saliency network.
    config.maps = {"window": 0, "choice": "matched", "folder": "", "batch_size": 4}
    # extras: also evaluate the trivial baselines, and all metrics of the saliency maps. others:
    # further data sets for testing, {name: {"name", "args", "data_dir"}}, as in `dataset`.
    config.test = {"batch_size": 4, "bootstrap": 1000, "extras": True, "others": {}}
    # Number of processes that read records; 0: threads of the training process.
    config.workers = 2

    RECIPES[recipe](config)
    return config.lock()


def _adam(learning_rate: float) -> dict:
    return {
        "name": "adam",
        "learning_rate": learning_rate,
        "weight_decay": 0.0,
        "schedule": "cosine",
        # T_max of the schedule "torch_cosine", in epochs.
        "period": 0,
        "warmup_steps": 0,
        "end_value": 0.0,
        "b2": 0.999,
        "clip_norm": 0.0,
        "accumulate": 1,
        # Decay of the moving average of the weights, which is evaluated and saved; 0: no average.
        "ema": 0.0,
        # (regular expression for parameter names, factor of learning rate, factor of weight decay).
        "groups": (),
    }


def _paper(config: config_dict.ConfigDict) -> None:
    """The recipe of the paper: the defaults of `get_config`, and a backbone from ImageNet."""
    config.vqa.backbone = IMAGENET
    config.model.args.vqa.normalize = True


def _release(config: config_dict.ConfigDict) -> None:
    """The recipe of the PyTorch release: it trains only the spatial head, without saliency."""
    config.saliency.update({"epochs": 200, "batch_size": 5})
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
    """Training from scratch in minutes on two cores."""
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
        {"steps": 70, "epochs": 0, "batch_size": 8, "eval_every": 35, "flip": True}
    )
    config.saliency.optim.update({"warmup_steps": 10, "clip_norm": 1.0})
    # Per second of training, one crop of one frame of many videos is more useful than all frames of
    # a few videos.
    config.vqa.update({"steps": 520, "epochs": 0, "batch_size": 96, "eval_every": 130})
    config.vqa.rank_weight = 1.0
    config.vqa.frames = 1
    config.vqa.augment.update({"crop": (80, 112), "jitter": 0.3})
    config.vqa.optim.update(
        {
            "name": "adamw",
            "learning_rate": 2e-3,
            "weight_decay": 0.05,
            "warmup_steps": 20,
            # An average over 33 updates; the usual 1000 is too long for so few steps.
            "b2": 0.97,
            "clip_norm": 1.0,
        }
    )
    config.maps.batch_size = 8
    config.test.batch_size = 8
    config.workers = 1


def _small(config: config_dict.ConfigDict) -> None:
    """One run of a sweep in one to two minutes on two cores."""
    _embedded(config)
    if config.dataset.name == "synthetic":
        config.dataset.args.update({"seed": 11, "contents": (72, 4, 24), "frames": 16})
    config.sampling.num_frames = 4
    config.saliency.update({"steps": 40, "eval_every": 40})
    config.vqa.update({"steps": 150, "batch_size": 48, "eval_every": 150})
    # Starting a reader process takes longer than it saves.
    config.workers = 0


RECIPES = {"paper": _paper, "release": _release, "embedded": _embedded, "small": _small}
