"""Figure 4: training on one data set in five folds, test on other data sets.

    python -m dagr_jax.main --config=configs/cross_dataset.py --workdir=runs/cross
    python -m dagr_jax.main --config=configs/cross_dataset.py:lsvq --workdir=runs/cross_lsvq \\
        --config.dataset.args.source=LSVQ --config.saliency.data_dir=data/dhf1k \\
        --config.test.others.konvid1k.args.source=KoNViD-1k \\
        --config.test.others.live_vqc.args.source=LIVE-VQC

The argument after a colon selects the data set and the recipe, as in `configs/vqa.py`. The default
is two embedded corpora with different contents and distortions, and the recipe `small`. The model
of each fold is tested on the held-out fold of its own set and on all videos of the other sets. The
folds of the embedded corpus share photographs, although no content. The other corpus has different
photographs, so the test on the own set is easier.
"""

from ml_collections import config_dict

from dagr_jax.configs import vqa

OTHERS = ("konvid1k", "live_vqc")


def get_config(choice: str = "synthetic,small") -> config_dict.ConfigDict:
    """Returns the configuration of the five folds.

    Args:
        choice: "DATASET" or "DATASET,RECIPE".
    """
    config = vqa.get_config(choice)
    config.split.update({"protocol": "kfold", "folds": 5, "fold": -1})
    with config.unlocked():
        if config.dataset.name == "synthetic":
            # This set uses the photographs of the training part, the other set those of the test
            # part.
            config.dataset.args.update({"seed": 14, "contents": (60, 0, 0)})
            other = {**config.dataset.args, "seed": 15, "contents": (0, 0, 24)}
            other.update({"distortions": "capture", "patches": 0.3})
            others = {"capture": {"name": "synthetic", "args": other}}
        else:
            args = {"source": "", "labels": "", "max_failures": -1}
            names = [name for name in OTHERS if name != config.dataset.name]
            others = {name: {"name": name, "args": dict(args)} for name in names}
        # data_dir: folder of a prepared set; "": <workdir>/others/NAME, prepared if missing.
        config.test.others = {k: {**v, "data_dir": ""} for k, v in others.items()}
        config.test.extras = False
    return config.lock()
