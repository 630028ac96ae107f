"""The recipes in `dagr_jax/configs/vqa.py`."""

from pathlib import Path

import pytest

from dagr_jax.configs import saliency, vqa
from dagr_jax.models.dagr.config import IMAGENET
from dagr_jax.runtime.errors import DagrError
from dagr_jax.stages import Run


def test_the_recipe_is_apart_from_data_set_and_preset():
    assert vqa.get_config().recipe == "embedded"
    assert vqa.get_config("konvid1k").recipe == "paper"
    config = vqa.get_config("synthetic,release")
    assert (config.dataset.name, config.recipe, config.preset) == ("synthetic", "release", "paper")
    assert config.dataset.args.contents == vqa.get_config().dataset.args.contents
    with pytest.raises(DagrError, match="recipe 'quick' is unknown; one of paper, release, embe"):
        vqa.get_config("lsvq,quick")
    only = saliency.get_config("dhf1k,release")
    assert only.stages == ("prepare", "saliency", "report") and only.saliency.optim.accumulate == 4
    trained = [stage.name for stage in Run(only, Path("unused")).gaze_stages]
    assert trained == ["saliency"]  # whatever α the quality recipe has


def test_recipes_of_paper_and_release():
    """The values of docs/reference.md, sections 2 and 3."""
    paper = vqa.get_config("lsvq")
    assert (paper.saliency.epochs, paper.saliency.batch_size, paper.saliency.gamma) == (
        180,
        4,
        0.01,
    )
    assert (paper.vqa.epochs, paper.vqa.batch_size, paper.vqa.rank_weight) == (300, 5, 0.1)
    for section, rate in ((paper.saliency, 5e-3), (paper.vqa, 1e-5)):
        optim = section.optim
        assert (optim.name, optim.schedule, optim.learning_rate) == ("adam", "cosine", rate)
    assert paper.model.args.vqa.head == "full" and paper.model.args.alpha == 0.5
    assert paper.vqa.backbone == IMAGENET and paper.model.args.vqa.normalize
    assert (paper.maps.window, paper.maps.choice) == (0, "matched")

    release = vqa.get_config("lsvq,release")
    first, second = release.saliency.optim, release.vqa.optim
    assert (release.saliency.epochs, release.saliency.batch_size) == (200, 5)
    assert (first.name, first.learning_rate, first.schedule) == ("adam", 5e-3, "torch_cosine")
    assert (first.period, first.end_value, first.clip_norm, first.accumulate) == (20, 0.0, 1.0, 4)
    assert (release.vqa.epochs, release.vqa.batch_size) == (300, 16)
    assert (second.name, second.learning_rate, second.weight_decay) == ("adamw", 5e-6, 5e-4)
    assert (second.schedule, second.period, second.end_value) == ("torch_cosine", 50, 1e-8)
    assert (release.model.args.alpha, release.model.args.vqa.head) == (0.0, "spatial")
    assert release.vqa.backbone == IMAGENET and not release.model.args.vqa.normalize
    assert (release.maps.window, release.maps.choice) == (8, "first")
    assert vqa.get_config("konvid1k,release").maps.choice == "linspace"
    assert (release.vqa.augment.flip, release.vqa.augment.jitter) == (True, 0.2)


def test_the_preset_reaches_the_model_whatever_the_recipe():
    config = vqa.get_config("lsvq,paper")
    config.preset = "release"
    assert config.model.args.preset == "release"
