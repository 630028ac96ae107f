"""The paper's ablations: Table 6 and figures 5, 7 and 8, each cell for three seeds.

    python -m dagr_jax.main --config=configs/ablation.py --workdir=runs/ablation

The argument names the data set and the recipe as in `configs/vqa.py`; all fields of one run are
under `base` (`--config.base.vqa.steps=100`). Runs can be named after the flags. On the embedded
corpus the recipe is a smaller one, chosen so that all 66 runs take about two hours on two cores.
The same command in several processes, also on several machines with a common file system, divides
the runs among them.
"""

from ml_collections import config_dict

from configs import vqa

REGISTERS = (0, 2, 4, 8, 16)
ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0)


def get_config(choice: str = "synthetic") -> config_dict.ConfigDict:
    """The configuration of the sweep (`dagr_jax.stages.sweep`).

    Args:
        choice: "DATASET" or "DATASET,RECIPE".
    """
    base = vqa.get_config(choice)
    config = config_dict.ConfigDict()
    config.base = base
    config.seeds = (0, 1, 2)
    # On which sets the saliency network is trained, besides `base.saliency.data_dir`.
    with base.unlocked():
        if base.dataset.name == "synthetic":
            first, second = "", "capture"
            config.saliency_sets = {"capture": _small(base)}
        else:
            first, second = "dhf1k", "diem"
            gaze = {"source": "", "labels": "", "max_failures": -1}
            config.saliency_sets = {
                name: {"name": name, "args": dict(gaze)} for name in (first, second)
            }
            base.saliency.data_dir = first
        base.model.args.alpha = 0.5
        base.model.args.vqa.head = "full"
        base.test.update({"extras": False, "bootstrap": 100})
    # All frames of fewer videos, so that a step of the embedded recipe takes as long.
    whole = {"frames": 0, "batch_size": base.vqa.batch_size // 6} if base.vqa.frames else {}
    config.runs = {
        # Table 6.
        "spatial": {"model": {"args": {"alpha": 0.0, "vqa": {"head": "spatial"}}}},
        "temporal": {"model": {"args": {"alpha": 0.0, "vqa": {"head": "temporal"}}}},
        "spatial_saliency": {"model": {"args": {"vqa": {"head": "spatial"}}}},
        "all": {},
        # Figure 5: one map for all frames; without registers see n0.
        "static": {"maps": {"choice": "static"}},
        "static_n0": {"maps": {"choice": "static"}, **_registers(0)},
        # Figure 7, on two saliency sets; 4 registers on the first one are "all".
        **{f"n{n}": _registers(n) for n in REGISTERS if n != 4},
        **{f"second_n{n}": {**_registers(n), "saliency": {"data_dir": second}} for n in REGISTERS},
        # Figure 8; 0.5 is "all".
        **{f"alpha{int(100 * a)}": {"model": {"args": {"alpha": a}}} for a in ALPHAS if a != 0.5},
        # These two need all frames of a video in every step.
        "trained": {"vqa": {**whole, "train_saliency": True}},
        "release": {"vqa": whole, "preset": "release"},
    }
    if base.vqa.frames:  # what they are to be compared with
        config.runs.frozen = {"vqa": whole}
    config.figures = {
        "table6": {
            "kind": "bars",
            "runs": (
                ("spatial only", "spatial"),
                ("temporal only", "temporal"),
                ("spatial + saliency", "spatial_saliency"),
                ("all", "all"),
                ("all, whole videos*", "frozen" if base.vqa.frames else "all"),
                ("all, saliency trained on*", "trained"),
                ("all, preset release*", "release"),
            ),
            "note": "* all frames of a video in every step",
        },
        "figure5": {
            "kind": "grid",
            "columns": ("without registers", "with registers"),
            "rows": (
                ("static saliency", ("static_n0", "static")),
                ("dynamic saliency", ("n0", "all")),
            ),
        },
        "figure7": {
            "kind": "curves",
            "x": "register tokens N",
            "lines": tuple(
                (
                    f"saliency learned on {name}",
                    tuple(
                        (n, "all" if (n, prefix) == (4, "") else f"{prefix}n{n}") for n in REGISTERS
                    ),
                )
                for name, prefix in ((first or base.dataset.name, ""), (second, "second_"))
            ),
        },
        "figure8": {
            "kind": "curves",
            "x": "weight of the saliency, \N{GREEK SMALL LETTER ALPHA}",
            "lines": (
                (
                    "",
                    tuple((a, "all" if a == 0.5 else f"alpha{int(100 * a)}") for a in ALPHAS),
                ),
            ),
        },
    }
    return config.lock()


def _registers(count: int) -> dict:
    return {"model": {"args": {"saliency": {"num_registers": count}}}}


def _small(base: config_dict.ConfigDict) -> dict:
    """Makes the base small, and gives the second saliency set: another embedded corpus."""
    own = dict(base.dataset.args, seed=11, contents=(60, 4, 24), frames=16)
    base.dataset.args.update(own)
    base.sampling.num_frames = 4
    base.saliency.update({"steps": 40, "eval_every": 40})
    base.vqa.update({"steps": 130, "batch_size": 32, "eval_every": 130})
    base.vqa.augment.crop = (72, 100)
    base.workers = 0
    other = {"seed": 12, "contents": (32, 4, 1), "distortions": "capture", "patches": 0.3}
    return {"name": "synthetic", "args": {**own, **other}}
