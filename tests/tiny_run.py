"""A tiny run: `configs/vqa.py` with small sizes."""

from ml_collections import config_dict

from dagr_jax.configs import vqa


def tiny_config() -> config_dict.ConfigDict:
    """`configs/vqa.py` with eleven contents, frames of 32 × 48 and networks of a few channels."""
    config = shrink(vqa.get_config())
    config.dataset.args.update({"contents": (6, 2, 3), "frames": 10, "fixations": 4})
    return config


def shrink(config: config_dict.ConfigDict) -> config_dict.ConfigDict:
    """Sets frames of 32 × 48, networks of a few channels and a few steps."""
    with config.unlocked():
        config.sampling.update({"num_frames": 4, "size": (32, 48)})
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
        # Evaluation pads, so its batch size need not be a multiple of the number of devices.
        config.maps.batch_size = 3
        config.test.update({"batch_size": 4, "bootstrap": 50})
        config.workers = 0
    return config.lock()


# The program uses this file as its --config.
get_config = tiny_config
