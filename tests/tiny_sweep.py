"""A tiny ablation: two seeds, and one run of each kind."""

from ml_collections import config_dict

from dagr_jax.configs import ablation
from tests.tiny_run import shrink

RUNS = ("all", "alpha0", "alpha25", "n4", "second_n4", "static", "first_map", "trained")


def get_config() -> config_dict.ConfigDict:
    """`configs/ablation.py` with a few runs on eleven contents."""
    config = ablation.get_config()
    with config.unlocked():
        shrink(config.base)
        config.seeds = (0, 1)
        config.runs = {name: config.runs[name] for name in RUNS}
        config.runs.trained.vqa.batch_size = 8  # for the eight devices of the tests
        figures = config.figures
        figures.table6.runs = tuple(bar for bar in figures.table6.runs if bar[1] in RUNS)
        figures.figure5.columns = ("with registers",)
        figures.figure5.rows = tuple(
            (label, (own,)) for label, (_, own) in figures.figure5.rows if own in ("", *RUNS)
        )
        for figure in (figures.figure7, figures.figure7_saliency, figures.figure8):
            figure.lines = tuple(
                (label, tuple(point for point in points if point[1] in RUNS))
                for label, points in figure.lines
            )
        for args in (config.base.dataset.args, config.saliency_sets.capture.args):
            args.update({"contents": (6, 2, 3), "frames": 10, "fixations": 4})
        config.base.saliency.steps = 2
        config.base.vqa.steps = 2
    return config.lock()
