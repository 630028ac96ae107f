"""The configurations of DAGR-VQA: sizes, rates and schedules by recipe. Imports no JAX.

* `paper`: what the paper states; the default of every data set but the embedded one.
* `release`: what the PyTorch release runs with.
* `embedded`: small nets, high rates and few steps, the default of the embedded corpus; 300 epochs
  at 1e-5 from an ImageNet start cannot learn from scratch in minutes.
* `small`: that in a tenth of the time, less data and fewer steps, where many runs are compared
  (`configs/ablation.py`, `configs/cross_dataset.py`).

The arithmetic is another field, `preset`.
"""

from ml_collections import config_dict

from dagr_jax.runtime.errors import DagrError

# Data sets that say themselves what trains, validates and tests.
OFFICIAL = ("synthetic", "dhf1k")
# torchvision's IMAGENET1K_V1 weights of ResNet-50.
IMAGENET = "timm/resnet50.tv_in1k"


def default_config(dataset: str, recipe: str = "") -> config_dict.ConfigDict:
    """The configuration of a run.

    Args:
        dataset: Name of the data set, a key of `dagr_jax.registry.datasets()`.
        recipe: One of `RECIPES`; "" for the default of the data set.

    Raises:
        DagrError: The recipe is unknown.
    """
    recipe = recipe or ("embedded" if dataset == "synthetic" else "paper")
    if recipe not in RECIPES:
        raise DagrError(f"recipe {recipe!r} is unknown; one of {', '.join(RECIPES)}")
    config = config_dict.ConfigDict()
    # Weights, order of the data, augmentation and dropout follow from it.
    seed = config_dict.FieldReference(0)
    config.seed = seed
    # Arithmetic only: "paper", or "release" for weights of the PyTorch release.
    preset = config_dict.FieldReference("paper")
    config.preset = preset
    config.recipe = recipe
    config.stages = ("prepare", "saliency", "maps", "vqa", "test", "report")

    config.dataset = {"name": dataset, "args": {}}
    if dataset == "synthetic":
        # The corpus is fixed by its own seed, so that runs with other seeds can share it.
        config.dataset.args = {
            "seed": 5,
            "contents": (200, 24, 24),
            "frames": 24,
            "fixations": 20,
            # What happens to the clips, "delivery" or "capture", and the share of photographs in
            # the backgrounds.
            "distortions": "delivery",
            "patches": 0.6,
        }
    else:
        config.dataset.args = {
            # Folder of the videos, and the label file ("": the official one in that folder).
            "source": "",
            "labels": "",
            # Videos that may be missing or unreadable; -1: one in a hundred.
            "max_failures": -1,
        }
    # A prepared set that several runs share; "": <workdir>/data.
    config.data_dir = ""
    # Which videos train, validate and test: `dagr_jax.data.splits.Protocol`, or a CSV file with
    # video,part. fold -1: all folds of "kfold", or `folds` of "repeated", one after the other.
    config.split = {
        "protocol": "official" if dataset in OFFICIAL else "random",
        "file": "",
        "test": 0.1,
        "val": 0.1,
        "folds": 5,
        "fold": 0,
        "seed": 0,
    }
    # Which frames of a video are used, and the size (height, width) they are resized to.
    config.sampling = {"num_frames": 8, "rule": "linspace", "size": (224, 398)}

    config.model = {
        "name": "dagr",
        "args": {
            "alpha": 0.5,
            "preset": preset,
            "dtype": "float32",
            # Size (height, width) at which the saliency net sees the frames.
            "saliency_size": (224, 398),
            "saliency": {
                "widths": (64, 128, 256, 512),
                "bottleneck": 1024,
                "num_registers": 4,
                "register_dim": 64,
                # How its convolutions are computed (docs/performance.md), and what training
                # computes again instead of keeping it: none, norms or blocks.
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

    # Steps, or epochs where steps is 0. The rows of the log and the evaluations count in steps;
    # eval_every 0: once an epoch. init: a workdir, or a stage's folder in one, whose weights are
    # the start; with epochs and steps 0 they stay as they are.
    config.saliency = {
        "seed": seed,
        "init": "",
        # A prepared saliency set; "": the one beside the quality set.
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
        # ImageNet start of the ResNet-50: a .pth or .safetensors file with torchvision's names, or
        # a Hugging Face id; "": random.
        "backbone": "",
        "steps": 0,
        "epochs": 300,
        "batch_size": 5,
        "log_every": 10,
        "eval_every": 0,
        # L1 + rank_weight · (1 − Spearman), the rank made differentiable.
        "rank_weight": 0.1,
        # How many of the sampled frames, a random subset in order; 0: all.
        "frames": 0,
        # Whether the saliency network is trained on, through the fused frames, or stays as it is.
        "train_saliency": False,
        "augment": {
            "flip": True,
            # Brightness, contrast and saturation, one draw a video.
            "jitter": 0.0,
            # A window of the frames, (height, width), the same for all of a video.
            "crop": (),
        },
        "optim": _adam(learning_rate=1e-5),
    }
    # window 0: the sampled frames are one window of the saliency net. Otherwise the net runs over
    # every frame of the source file in windows of so many, and choice picks the maps that go with
    # the sampled frames: "matched", "linspace", "first", or "static", the first for all
    # (`dagr_jax.video.sampling.map_indices`). folder: maps that another model made, a folder of
    # grey pictures for each video (`dagr_jax.data.map_folder`); "": those of the saliency net.
    config.maps = {"window": 0, "choice": "matched", "folder": "", "batch_size": 4}
    # extras: also what trivial features predict, and all metrics of the saliency maps. others: data
    # sets that the model is tested on as well, name → {"name", "args"} as in `dataset`, "data_dir".
    config.test = {"batch_size": 4, "bootstrap": 1000, "extras": True, "others": {}}
    # Processes that read records beside the training process; 0: threads of it.
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
        # Decay of the average of the weights that is evaluated and kept; 0: none.
        "ema": 0.0,
        # (regular expression, factor on the rate, factor on the decay) by parameter name.
        "groups": (),
    }


def _paper(config: config_dict.ConfigDict) -> None:
    """The paper's recipe: the fields as they stand above, and a backbone from ImageNet."""
    config.vqa.backbone = IMAGENET
    config.model.args.vqa.normalize = True


def _release(config: config_dict.ConfigDict) -> None:
    """The recipe of the PyTorch release: it trains the spatial head alone, without saliency."""
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
    """Minutes on two cores, everything from scratch."""
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
    # A window of one frame of many videos teaches more in a second than all frames of a few.
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
            # A memory of 33 updates: of the usual 1000 these few steps would see little.
            "b2": 0.97,
            "clip_norm": 1.0,
        }
    )
    config.maps.batch_size = 8
    config.test.batch_size = 8
    config.workers = 1


def _small(config: config_dict.ConfigDict) -> None:
    """A run of a sweep in one to two minutes on two cores."""
    _embedded(config)
    if config.dataset.name == "synthetic":
        config.dataset.args.update({"seed": 11, "contents": (72, 4, 24), "frames": 16})
    config.sampling.num_frames = 4
    config.saliency.update({"steps": 40, "eval_every": 40})
    config.vqa.update({"steps": 150, "batch_size": 48, "eval_every": 150})
    # A reading process takes longer to start than it saves.
    config.workers = 0


RECIPES = {"paper": _paper, "release": _release, "embedded": _embedded, "small": _small}


def tiny_config() -> config_dict.ConfigDict:
    """The embedded recipe with eleven contents, frames of 32 × 48 and nets of a few channels."""
    config = shrink(default_config("synthetic"))
    config.dataset.args.update({"contents": (6, 2, 3), "frames": 10, "fixations": 4})
    return config


def shrink(config: config_dict.ConfigDict) -> config_dict.ConfigDict:
    """Frames of 32 × 48, nets of a few channels and a few steps."""
    with config.unlocked():
        config.sampling.update({"num_frames": 4, "size": (32, 48)})
        config.model.args.saliency_size = (16, 24)
        config.model.args.saliency.conv_form = "native"  # which compiles the fastest
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
        # Evaluation pads: its batches need not divide over the devices.
        config.maps.batch_size = 3
        config.test.update({"batch_size": 4, "bootstrap": 50})
        config.workers = 0
    return config.lock()
