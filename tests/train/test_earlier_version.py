"""Checkpoints of version 0.1, which told frames, size and maps apart: they load and score as then.

`golden/checkpoint_0.1` and `golden/scores_0.1.npz` are described in golden/README.md.
"""

from pathlib import Path

import pytest

from dagr_jax import registry
from dagr_jax.score import Scorer
from dagr_jax.train.checkpoints import load_variables
from dagr_jax.video.inputs import InputSpec, Resize, Stream

CHECKPOINT = Path(__file__).parents[1] / "golden" / "checkpoint_0.1"


def test_a_checkpoint_of_version_0_1_scores_the_same(golden):
    """To the bit where version 0.1 runs on the same machine with the same compiler flags."""
    stored, scorer = golden("scores_0.1"), Scorer.from_checkpoint(CHECKPOINT)
    frames = stored["frames"]
    result = scorer.score(frames)
    assert result.score == pytest.approx(float(stored["score"]), rel=1e-6)
    assert (result.mos_range, result.step, result.frames) == ((1.0, 5.0), 6, 4)
    # Of another size, so that they are resized. XLA's flags alone move this score by 2e-6.
    large = frames.repeat(2, axis=1).repeat(3, axis=2)[:, :50]
    assert scorer.score(large).score == pytest.approx(float(stored["large_score"]), rel=1e-5)


def test_what_it_said_of_frames_size_and_maps_became_inputs_and_settings():
    _, meta = load_variables(CHECKPOINT)
    assert InputSpec.from_json(meta["inputs"]) == InputSpec(
        {"frames": Stream("linspace", 4, Resize((32, 48)))}
    )
    assert meta["settings"] == {"window": 0, "choice": "matched", "outside": False}
    assert not {"sampling", "resize", "maps"} & meta.keys()
    assert meta["version"] == "0.1.0" and meta["metrics"]["srcc"] == pytest.approx(0.4909, abs=1e-4)


def earlier(model="dagr", preset="paper", alpha=0.5, **maps):
    """What version 0.1 said of itself, as far as it was changed."""
    return {
        "model": model,
        "model_args": {"alpha": alpha} if model == "dagr" else {"widths": [2]},
        "preset": preset,
        "sampling": {"num_frames": 8, "rule": "segments"},
        "resize": {"size": [224, 398], "antialias": False},
        "maps": maps,
    }


@pytest.mark.parametrize("preset", ["paper", "release"])
def test_windows_are_read_where_maps_of_them_count(preset):
    upgrade = registry.contract("dagr").upgrade
    found = upgrade(earlier(preset=preset, window=8, choice="first"))
    inputs = InputSpec.from_json(found["inputs"])
    frames = Stream("segments", 8, Resize((224, 398)))
    # Version 0.1 read the frames of the release's windows antialiased, as the release does.
    own = Resize((224, 398), antialias=preset == "release")
    windows = Stream("windows", 0, own, of="frames", window=8, choice="first", chunk=8)
    assert inputs == InputSpec({"frames": frames, "windows": windows})
    assert found["settings"] == {"window": 8, "choice": "first", "outside": False}
    for told in (
        earlier(alpha=0.0, window=8, choice="first"),
        earlier(window=8, choice="first", outside=True),
        earlier("unet3d", window=8, choice="first"),  # alone it scores nothing
    ):
        assert InputSpec.from_json(upgrade(told)["inputs"]) == InputSpec({"frames": frames})


def test_what_this_version_says_stays_as_it_is():
    upgrade = registry.contract("dagr").upgrade
    once = upgrade(earlier(window=0, choice="matched"))
    assert upgrade(once) == once


def test_the_static_choice_is_the_first_map():
    upgrade = registry.contract("dagr").upgrade
    once = upgrade(earlier(window=8, choice="static"))
    assert once["settings"]["choice"] == once["inputs"]["windows"]["choice"] == "first_map"
    between = {**once, "settings": {**once["settings"], "choice": "static"}}
    between["inputs"] = {**once["inputs"], "windows": {**once["inputs"]["windows"]}}
    between["inputs"]["windows"]["choice"] = "static"
    assert upgrade(between) == once
