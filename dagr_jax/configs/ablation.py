"""Ablations of the paper: Table 6 and figures 5, 7 and 8, with three seeds per cell.

    python -m dagr_jax.main --config=configs/ablation.py --workdir=runs/ablation

The argument after a colon selects the data set and the recipe, as in `configs/vqa.py`. The default
is the embedded corpus with the recipe `small`. The fields of a run are under `base`
(`--config.base.vqa.steps=100`). Names of runs after the flags select these runs. If you start the
same command in several processes, on one machine or on several machines with a shared file system,
the processes divide the runs among themselves.
"""

from ml_collections import config_dict

from dagr_jax.configs import vqa

REGISTERS = (0, 2, 4, 8, 16)
ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0)


def get_config(choice: str = "synthetic,small") -> config_dict.ConfigDict:
    """Returns the configuration of the sweep (`dagr_jax.stages.sweep`).

    Args:
        choice: "DATASET" or "DATASET,RECIPE".
    """
    base = vqa.get_config(choice)
    config = config_dict.ConfigDict()
    config.base = base
    config.seeds = (0, 1, 2)
    # Sets for training the saliency network, in addition to `base.saliency.data_dir`.
    with base.unlocked():
        if base.dataset.name == "synthetic":
            first, second = "", "capture"
            args = {**base.dataset.args, "seed": 12, "contents": (32, 4, 12)}
            args.update({"distortions": "capture", "patches": 0.3})
            sets = {"capture": {"name": "synthetic", "args": args}}
        else:
            first, second = "dhf1k", "diem"
            gaze = {"source": "", "labels": "", "max_failures": -1}
            sets = {name: {"name": name, "args": dict(gaze)} for name in (first, second)}
            base.saliency.data_dir = first
        # data_dir: folder of a prepared set; "": <workdir>/data_NAME, prepared if missing.
        config.saliency_sets = {name: {**one, "data_dir": ""} for name, one in sets.items()}
        base.stages = tuple(stage for stage in base.stages if stage != "report")
        base.model.args.alpha = 0.5
        base.model.args.vqa.head = "full"
        base.test.update({"extras": False, "bootstrap": 100})
    whole, star, note = {}, "", ""
    if base.vqa.frames:
        # All frames, but fewer videos per batch, so that a step takes the same time.
        whole = {"frames": 0, "batch_size": base.vqa.batch_size // base.sampling.num_frames}
        star = "*"
        note = (
            "* learned on all frames of a video; the others on one, so that no transformer saw time"
        )
    # Single frames, as many in a batch as the windows of the other runs hold together.
    section = base.saliency
    frames = section.window or section.num_frames or base.sampling.num_frames
    single = {
        "saliency": {"window": 1, "batch_size": section.batch_size * frames},
        "maps": {"window": 1},
    }
    config.runs = {
        # Table 6.
        "spatial": {"model": {"args": {"alpha": 0.0, "vqa": {"head": "spatial"}}}},
        # The temporal-only network of the release, which sees mean colours, with its one attention
        # head; and the temporal branch of the paper, the transformer on the features of the ResNet.
        "temporal": {
            "model": {"args": {"alpha": 0.0, "vqa": {"head": "temporal", "num_heads": 1}}},
            "vqa": whole,
        },
        "transformer": {
            "model": {"args": {"alpha": 0.0, "vqa": {"head": "transformer"}}},
            "vqa": whole,
        },
        "spatial_saliency": {"model": {"args": {"vqa": {"head": "spatial"}}}},
        "all": {},
        # Figure 5: a network of single frames (the static saliency of the paper), and the first map
        # for all frames. The dynamic run without registers is n0, the run without saliency alpha0.
        # In the layout of the release, a single frame has one token; here it has all four.
        "static": _merged(single, _channels(4)),
        "static_n0": _merged(single, _registers(0)),
        "first_map": {"maps": {"choice": "first_map"}},
        "first_map_n0": {"maps": {"choice": "first_map"}, **_registers(0)},
        # Figure 7, on two saliency sets, with the layout in which each token is at all frames. In
        # the layout of the release, N tokens need N frames.
        "n0": _registers(0),
        **{f"n{n}": _channels(n) for n in REGISTERS if n},
        "second_n0": _merged(_registers(0), {"saliency": {"data_dir": second}}),
        **{
            f"second_n{n}": _merged(_channels(n), {"saliency": {"data_dir": second}})
            for n in REGISTERS
            if n
        },
        # Figure 8. The run with alpha 0.5 is "all".
        **{f"alpha{int(100 * a)}": {"model": {"args": {"alpha": a}}} for a in ALPHAS if a != 0.5},
        # These two need all frames of a video in every step.
        "trained": {
            "vqa": {**whole, "train_saliency": True},
            "maps": {"window": 0, "choice": "matched"},
        },
        "release": {"vqa": whole, "preset": "release"},
    }
    if star:  # the reference for the starred runs
        config.runs.frozen = {"vqa": whole}
    figure7 = {
        "kind": "curves",
        "x": "register tokens N, each at all frames",
        "lines": tuple(
            (
                f"saliency learned on {name}",
                tuple((n, f"{prefix}n{n}") for n in REGISTERS),
            )
            for name, prefix in ((first or base.dataset.name, ""), (second, "second_"))
        ),
    }
    config.figures = {
        "table6": {
            "kind": "bars",
            "runs": (
                ("spatial only", "spatial"),
                (f"mean colours over time{star}", "temporal"),
                (f"temporal only{star}", "transformer"),
                ("spatial + saliency", "spatial_saliency"),
                ("all", "all"),
                (f"all, whole videos{star}", "frozen" if star else "all"),
                (f"all, saliency trained on{star}", "trained"),
                (f"all, preset release{star}", "release"),
            ),
            "note": note,
        },
        "figure5": {
            "kind": "grid",
            "columns": ("without registers", "with registers"),
            "rows": (
                ("no saliency", ("alpha0", "")),
                ("static saliency", ("static_n0", "static")),
                ("first map for all", ("first_map_n0", "first_map")),
                ("dynamic saliency", ("n0", "all")),
            ),
        },
        "figure7": figure7,
        "figure7_saliency": {**figure7, "metric": "saliency_cc"},
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


def _channels(count: int) -> dict:
    fields = {"num_registers": count, "register_layout": "channels"}
    return {"model": {"args": {"saliency": fields}}}


def _merged(*changes: dict) -> dict:
    """Joins changes of different sections of the base."""
    made: dict = {}
    for one in changes:
        assert not made.keys() & one.keys()
        made.update(one)
    return made
