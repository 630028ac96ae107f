"""DAGR-VQA: saliency pretraining, saliency maps, quality model, test.

    python -m dagr_jax.main --config=configs/vqa.py --workdir=runs/embedded

The argument after a colon names the data set; `synthetic`, the embedded corpus, is the default.
It has a recipe of its own (small nets, high rates, few steps): the paper's 300 epochs at 1e-5
from an ImageNet start cannot learn from scratch in minutes.
"""

from ml_collections import config_dict


def get_config(dataset: str = "synthetic") -> config_dict.ConfigDict:
    """The configuration of a run.

    Args:
        dataset: A key of `dagr_jax.registry.DATASETS`.
    """
    config = config_dict.ConfigDict()
    # Weights, order of the data, augmentation and dropout follow from it.
    seed = config_dict.FieldReference(0)
    config.seed = seed
    # Arithmetic only: "paper", or "release" for weights of the PyTorch release.
    preset = config_dict.FieldReference("paper")
    config.preset = preset

    saliency_size = (56, 100)
    config.dataset = {
        "name": dataset,
        # The corpus is fixed by its own seed, so that runs with other seeds share it.
        "args": {"seed": 0, "contents": (84, 12, 24), "frames": 32, "fixations": 20},
    }
    # A prepared set that runs share; "": <workdir>/data.
    config.data_dir = ""
    # Which frames of a video are used, and the size (height, width) they are resized to.
    config.sampling = {"num_frames": 8, "rule": "linspace", "size": (224, 398)}

    config.model = {
        "name": "dagr",
        "args": {
            "alpha": 0.5,
            "preset": preset,
            "dtype": "float32",
            # The saliency net sees the frames at this size; None: at the size above.
            "saliency_size": saliency_size,
            "saliency": {
                "widths": (8, 16, 32, 64),
                "bottleneck": 64,
                "num_registers": 4,
                "register_dim": 64,
            },
            "vqa": {
                "head": "full",
                "stage_sizes": (1, 1, 1, 1),
                "width": 16,
                "num_layers": 2,
                "num_heads": 4,
                "mlp_dim": 128,
                "projection_dim": 256,
                "temporal_dim": 256,
                "regressor": (128, 64),
                "dropout": 0.1,
                "normalize": False,
            },
        },
    }

    config.saliency = {
        "seed": seed,
        "steps": 160,
        "batch_size": 8,
        "log_every": 10,
        "eval_every": 80,
        "gamma": 0.01,
        "flip": True,
        "optim": {
            "name": "adam",
            "learning_rate": 5e-3,
            "weight_decay": 0.0,
            "schedule": "cosine",
            "warmup_steps": 10,
            "end_value": 0.0,
            "clip_norm": 1.0,
            "accumulate": 1,
        },
    }

    config.vqa = {
        "seed": seed,
        "steps": 300,
        "batch_size": 24,
        "log_every": 10,
        "eval_every": 100,
        # L1 + rank_weight · (1 − Spearman), the rank made differentiable by a sigmoid of
        # prediction differences divided by their standard deviation and this temperature.
        "rank_weight": 0.1,
        "temperature": 0.1,
        "augment": {
            "flip": True,
            "jitter": 0.0,
            # A window of the frames, the same for all of a video; None: whole frames.
            "crop": (112, 160),
            # A random subset of the sampled frames, in order; None: all of them.
            "frames": None,
        },
        "optim": {
            "name": "adamw",
            "learning_rate": 2e-3,
            "weight_decay": 1e-4,
            "schedule": "cosine",
            "warmup_steps": 20,
            "end_value": 0.0,
            "clip_norm": 1.0,
            "accumulate": 1,
        },
    }

    config.maps = {"batch_size": 8}
    config.test = {"batch_size": 8, "bootstrap": 1000}
    # Processes that read records beside the training process; 0: threads only.
    config.workers = 1
    return config.lock()
