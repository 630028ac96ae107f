"""Shared fixtures: a tiny checkpoint with random weights, and clips to score."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from dagr_jax.models import dagr
from dagr_jax.score import Scorer
from dagr_jax.train.checkpoints import write_variables
from dagr_jax.train.meta import make_meta
from dagr_jax.video.inputs import InputSpec, Resize, Stream
from tests.video.clips import moving_bar, tone, write

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


def write_checkpoint(
    folder: Path, fill, alpha: float = 0.5, window: int = 0, choice: str = "matched"
) -> Path:
    """A model of four frames of 24 × 32; `window` and `choice` say how its maps are made."""
    model = dagr.Model(**ARGS)
    # With this seed no layer is dead, and the scores of the clips differ.
    variables = fill(model, jnp.zeros((1, 4, 24, 32, 3)), seed=5)
    streams = {"frames": Stream("linspace", 4, Resize((24, 32)))}
    if window:
        streams["windows"] = Stream(
            "windows", 0, Resize((24, 32)), of="frames", window=window, choice=choice, chunk=window
        )
    meta = make_meta(
        model="dagr",
        model_args={"alpha": alpha, "preset": "paper", "saliency_size": None, **ARGS},
        preset="paper",
        dataset="made-up",
        mos_range=(1.0, 5.0),
        inputs=InputSpec(streams).to_json(),
        settings={"window": window, "choice": choice, "outside": False},
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
    """A scorer with maps of every frame, as in the release."""
    folder = tmp_path_factory.mktemp("checkpoint") / "of-windows"
    return Scorer.from_checkpoint(write_checkpoint(folder, fill, window=4, choice="linspace"))


@pytest.fixture(params=["scorer", "windows_scorer"])
def any_scorer(request) -> Scorer:
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def no_maps_checkpoint(fill, tmp_path_factory) -> Path:
    """The same networks, of which the score uses one: alpha is 0."""
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "of-no-maps", fill, alpha=0.0)


@pytest.fixture(scope="session")
def clips(tmp_path_factory) -> list[str]:
    """Five clips of 20, 23, … frames at 25 fps; tests only read them."""
    home = tmp_path_factory.mktemp("clips")
    return [str(write(home / f"{i}.mp4", moving_bar(20 + 3 * i))) for i in range(5)]


def make_hundred(home: Path) -> tuple[list[str], dict[str, str]]:
    """Makes 100 files, ten of them bad; returns their paths and {name: message} of the bad ones."""
    bad = make_bad(home)
    good = []
    for number in range(90):
        good.append(str(home / f"{number:02}.mp4"))
        write(good[-1], moving_bar(5 + number % 7, width=64 + 2 * (number % 5)))
    return sorted([*good, *(str(home / name) for name in bad)]), bad


def make_bad(home: Path) -> dict[str, str]:
    """Makes ten files that are bad in different ways; returns {name: message}."""
    good = write(home / "whole.mp4", moving_bar(30), movflags="faststart").read_bytes()
    (home / "whole.mp4").unlink()
    random = np.random.default_rng(0)
    (home / "empty.mp4").touch()
    (home / "random.mp4").write_bytes(random.bytes(20_000))
    (home / "text.mp4").write_text("not a video\n" * 500)
    tone(home / "sound.mp4")
    (home / "head.mp4").write_bytes(good[: good.index(b"moov") - 4])
    data = good.index(b"mdat") + 4
    (home / "no-frames.mp4").write_bytes(good[:data] + bytes(len(good) - data))
    (home / "large.mp4").write_bytes(b"")
    write(home / "large.mp4", moving_bar(3, height=200, width=200))
    write(home / "long.mp4", moving_bar(90))
    (home / "folder.mp4").mkdir()
    return {
        "empty.mp4": "the file is empty",
        "random.mp4": "FFmpeg cannot read it",
        "text.mp4": "FFmpeg cannot read it",
        "sound.mp4": "it holds no video stream",
        "head.mp4": "FFmpeg cannot read it",
        "no-frames.mp4": "FFmpeg cannot read it",
        "large.mp4": "frames of 200 x 200 are more than 10000 pixels",
        "long.mp4": "it is longer than 3 s",
        "folder.mp4": "it is a folder without videos",
        "gone.mp4": "there is no such file",
    }


def steady(rows: list[dict]) -> list[dict]:
    """Returns rows without fields that differ between calls or that CSV cannot represent."""
    return [
        {k: v for k, v in row.items() if k != "seconds" and v not in ("", None)} for row in rows
    ]
