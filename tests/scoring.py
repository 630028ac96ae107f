"""A checkpoint of random weights and toy size, and clips to score: fixtures of several folders."""

from pathlib import Path

import jax.numpy as jnp
import pytest

from dagr_jax.models import dagr
from dagr_jax.score import Scorer
from dagr_jax.train.checkpoints import write_variables
from dagr_jax.train.meta import make_meta
from tests.video.clips import moving_bar, write

ARGS = {
    "saliency": {"widths": (2, 3), "bottleneck": 4, "num_registers": 2, "register_dim": 3},
    "vqa": {
        "stage_sizes": (1, 1),
        "width": 4,
        "num_layers": 1,
        "num_heads": 2,
        "mlp_dim": 8,
        "projection_dim": 8,
        "regressor": (8, 4),
    },
}


def write_checkpoint(folder: Path, fill, **maps) -> Path:
    """A model of four frames of 24 × 32; `maps` says how their saliency maps are made."""
    model = dagr.Model(**ARGS)
    # With this seed, no layer is dead and the scores of the clips differ.
    variables = fill(model, jnp.zeros((1, 4, 24, 32, 3)), seed=5)
    meta = make_meta(
        model="dagr",
        model_args={"alpha": 0.5, "preset": "paper", "saliency_size": None, **ARGS},
        preset="paper",
        dataset="made-up",
        mos_range=(1.0, 5.0),
        sampling={"num_frames": 4, "rule": "linspace"},
        resize={"size": (24, 32), "antialias": False},
        maps={"window": 0, "choice": "matched", **maps},
        config_digest="",
        worker_count=0,
    )
    write_variables(folder, variables, meta)
    return folder


@pytest.fixture(scope="session")
def checkpoint(fill, tmp_path_factory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "of-frames", fill)


@pytest.fixture(scope="session")
def scorer(checkpoint) -> Scorer:
    return Scorer.from_checkpoint(checkpoint)


@pytest.fixture(scope="session")
def windows_scorer(fill, tmp_path_factory) -> Scorer:
    """Its maps are of every frame, as the release's are."""
    folder = tmp_path_factory.mktemp("checkpoint") / "of-windows"
    return Scorer.from_checkpoint(write_checkpoint(folder, fill, window=4, choice="linspace"))


@pytest.fixture(scope="session")
def clips(tmp_path_factory) -> list[str]:
    """Five clips of 20, 23, … frames at 25 a second; not to be changed."""
    home = tmp_path_factory.mktemp("clips")
    return [str(write(home / f"{i}.mp4", moving_bar(20 + 3 * i))) for i in range(5)]
