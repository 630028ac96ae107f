"""Figure 4: trained on one data set in five folds, tested on others.

    python -m dagr_jax.main --config=configs/cross_dataset.py --workdir=runs/cross
    python -m dagr_jax.main --config=configs/cross_dataset.py:lsvq --workdir=runs/cross_lsvq \\
        --config.dataset.args.source=LSVQ --config.saliency.data_dir=data/dhf1k \\
        --config.test.others.konvid1k.args.source=KoNViD-1k \\
        --config.test.others.live_vqc.args.source=LIVE-VQC

The argument names the data set and the recipe as in `configs/vqa.py`; the default are two embedded
corpora with other contents and other distortions, and the recipe `small`. Each fold's model is
tested on what it left out of its own set, and on all of the others. The embedded corpus's folds
share no content, but photographs, which the other corpus does not: its own box is the easier one.
"""

from ml_collections import config_dict

from dagr_jax.configs import vqa

OTHERS = ("konvid1k", "live_vqc")


def get_config(choice: str = "synthetic,small") -> config_dict.ConfigDict:
    """The configuration of the five folds.

    Args:
        choice: "DATASET" or "DATASET,RECIPE".
    """
    config = vqa.get_config(choice)
    config.split.update({"protocol": "kfold", "folds": 5, "fold": -1})
    with config.unlocked():
        if config.dataset.name == "synthetic":
            # Of the photographs of the training part alone here, and of the test part's there.
            config.dataset.args.update({"seed": 14, "contents": (60, 0, 0)})
            other = {**config.dataset.args, "seed": 15, "contents": (0, 0, 24)}
            other.update({"distortions": "capture", "patches": 0.3})
            others = {"capture": {"name": "synthetic", "args": other}}
        else:
            args = {"source": "", "labels": "", "max_failures": -1}
            names = [name for name in OTHERS if name != config.dataset.name]
            others = {name: {"name": name, "args": dict(args)} for name in names}
        # data_dir: a prepared set; "": <workdir>/others/NAME, made if it is not there.
        config.test.others = {k: {**v, "data_dir": ""} for k, v in others.items()}
        config.test.extras = False
    return config.lock()
