"""Table 3 in this project: saliency with registers, with registers that start at 0, and without.

    python -m dagr_jax.main --config=configs/registers.py --workdir=runs/registers

The argument after a colon selects the data set and the recipe, as in `configs/vqa.py`. Only the
saliency network is trained, with a constant learning rate and until its validation no longer
improves, so that the start of a run does not decide the result. `dagr report saliency` measures the
networks.
"""

from ml_collections import config_dict

from dagr_jax.configs import saliency


def get_config(choice: str = "synthetic") -> config_dict.ConfigDict:
    """Returns the configuration of the sweep (`dagr_jax.stages.sweep`).

    Args:
        choice: "DATASET" or "DATASET,RECIPE".
    """
    config = config_dict.ConfigDict()
    config.base = saliency.get_config(choice)
    config.base.stages = ("prepare", "saliency")
    # At most 4000 updates; training ends after ten evaluations without a new best one.
    section = config.base.saliency
    section.optim.schedule = "constant"
    batches = section.optim.accumulate
    section.update({"steps": 4000 * batches, "epochs": 0, "eval_every": 20 * batches})
    section.patience = 10
    config.seeds = (0, 1, 2)
    config.saliency_sets = {}
    config.runs = {
        "published": _network(register_scale=1.0),
        "zero": _network(register_scale=0.0),
        "none": _network(num_registers=0),
    }
    config.figures = {}
    return config.lock()


def _network(**fields: float) -> dict:
    return {"model": {"args": {"saliency": fields}}}
