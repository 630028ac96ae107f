"""Ladders: the steps get worse, and τ tells whether scores follow."""

import json

import numpy as np
import pytest

from dagr_jax import cli
from dagr_jax.runtime.errors import DagrError
from dagr_jax.score import Result
from dagr_jax.studies import ladders
from dagr_jax.video.decode import decode_frames
from tests.video.clips import write


class Judge:
    """Stands for a scorer: scores a file by the fine structure of its frames, at its own size."""

    def __init__(self, sign=1.0):
        self.sign, self.shapes = sign, []

    def score(self, path):
        frames = decode_frames(path, np.arange).astype(float)
        self.shapes.append(frames.shape[:3])
        fine = np.abs(np.diff(frames, axis=2)).mean() * frames.shape[1]
        return _result(self.sign * fine)


def _result(score):
    result = Result.__new__(Result)
    object.__setattr__(result, "score", score)
    return result


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (96, 130, 3), np.uint8)
    frames = np.stack([np.roll(picture, 2 * t, axis=1) for t in range(40)])
    path = tmp_path_factory.mktemp("ladders") / "noise.mp4"
    write(path, frames, rate=20)
    return path


def test_scores_that_follow_the_structure_fall_at_every_step(clip):
    judge = Judge()
    rows = ladders.ladders(judge, clip, 0.5)
    assert [row["ladder"] for row in rows] == ["crf", "resolution", "blur"]
    assert [len(row["scores"]) for row in rows] == [6, 5, 5]
    assert all(row["tau"] == pytest.approx(-1) for row in rows)
    # 0.5 seconds at 20 frames per second; the sizes of the second ladder are delivered as they are.
    assert {shape[0] for shape in judge.shapes} == {10}
    assert [shape[1:] for shape in judge.shapes[6:11]] == [
        (96, 130), (66, 90), (48, 64), (32, 44), (24, 32),
    ]  # fmt: skip
    assert {shape[1:] for shape in judge.shapes[11:]} == {(96, 130)}
    wrong = ladders.ladders(Judge(-1.0), clip, 0.5)
    assert all(row["tau"] == pytest.approx(1) for row in wrong)
    both = {row["ladder"]: row for row in ladders.summary([*rows, *wrong, *rows])}
    assert both["crf"]["clips"] == 3 and both["crf"]["median_tau"] == pytest.approx(-1)
    assert both["crf"]["in_order"] == pytest.approx(2 / 3)
    assert both["all"]["clips"] == 9


def test_a_model_that_says_always_the_same_orders_nothing(clip):
    class Constant:
        def score(self, path):
            return _result(50.0)

    found = ladders.summary(ladders.ladders(Constant(), clip, 0.2))
    assert all(row["median_tau"] == 0 and row["in_order"] == 0 for row in found)
    with pytest.raises(DagrError, match="no clip gave a ladder"):
        ladders.summary([])


def test_the_command_names_clips_that_cannot_be_read(checkpoint, clip, tmp_path, capsys):
    bad, out = tmp_path / "bad.mp4", tmp_path / "ladders.json"
    bad.write_bytes(b"x")
    command = ["report", "ladders", str(clip), str(bad), "--checkpoint", str(checkpoint)]
    assert cli.main([*command, "--seconds", "0.3", "--out", str(out)]) == 1
    said = capsys.readouterr()
    assert f"{bad}: " in said.err and said.err.count("\n") == 1
    held = json.loads(out.read_text())
    assert len(held["rows"]) == 3 and [row["ladder"] for row in held["summary"]][-1] == "all"
    assert "median_tau" in said.out and "in_order" in said.out
