"""`dagr prepare`, and all stages on a folder of labelled videos."""

import csv
import json

import numpy as np
import pytest

from dagr_jax import cli, stages
from dagr_jax.configs import vqa
from dagr_jax.data import decode_set
from dagr_jax.score import Scorer
from tests.data.test_decode_set import make_source
from tests.tiny_run import shrink
from tests.video.clips import moving_bar, write


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return make_source(tmp_path_factory.mktemp("konvid"), 12)


def prepare(source, out, *more):
    command = ["prepare", "konvid1k", "--source", str(source), "--out", str(out)]
    return cli.main([*command, "--frames", "4", "--size", "24", "32", *more])


def test_the_command_prints_counts_and_leaves_a_prepared_set(source, tmp_path, capsys):
    out = tmp_path / "set"
    assert prepare(source, out, "--max-failures", "6") == 0
    said = capsys.readouterr()
    assert said.out == f"{out}\n"
    counts = "KoNViD-1k: 12 of 18 videos used (left out: "
    assert counts in said.err and "; published: 1200\n" in said.err
    facts = json.loads((out / "dataset.json").read_text())
    assert facts["mos_range"] == [1.0, 5.0] and facts["videos"] == str(source)
    assert sorted(p.name for p in out.iterdir()) == [
        "dataset.json", "frames", "prepared.json", "quality", "report.csv", "videos.csv",
    ]  # fmt: skip
    # The set exists, so a call with the same arguments does nothing.
    assert prepare(source, out) == 0
    assert prepare(source, out, "--rule", "segments") == 1
    assert "stream.rule was linspace and is now segments" in capsys.readouterr().err


def test_a_set_that_version_0_1_prepared_is_used(source, tmp_path, capsys):
    out = tmp_path / "set"
    assert prepare(source, out, "--max-failures", "6") == 0
    held = json.loads((out / "prepared.json").read_text())
    del held["stream"]
    sampling = {"num_frames": 4, "rule": "linspace", "size": [24, 32]}
    held |= {"format": 2, "sampling": sampling}
    (out / "prepared.json").write_text(json.dumps(held))
    assert prepare(source, out) == 0
    assert prepare(source, out, "--frames", "5") == 1
    assert "stream.frames was 4 and is now 5" in capsys.readouterr().err


def test_too_many_failures_are_one_line_and_nothing_is_decoded_twice(
    source, tmp_path, capsys, monkeypatch
):
    out = tmp_path / "set"
    assert prepare(source, out) == 1
    said = capsys.readouterr().err.strip().splitlines()
    assert "6 of 18 videos cannot be used" in said[-1] and "report.csv" in said[-1]
    assert not out.exists()
    shards = sorted((tmp_path / ".set.partial" / "shards").iterdir())
    assert len(shards) == 13
    decoded, real = [], decode_set._decode_all

    def counting(found, reasons, work, folder, workers):
        decoded.append(sum(not p.exists() for p in shards))
        return real(found, reasons, work, folder, workers)

    monkeypatch.setattr(decode_set, "_decode_all", counting)
    assert prepare(source, out, "--max-failures", "6") == 0
    assert decoded == [0]  # no video was decoded again
    assert not (tmp_path / ".set.partial").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["nowhere", "--source", ".", "--out", "x"], 1, "unknown data set 'nowhere'; available"),
        (["diem", "--source", ".", "--out", "x"], 1, "no video of DIEM with gaze is in it"),
        (["dhf1k", "--source", ".", "--out", "x"], 1, "no video of DHF1K with gaze is in it"),
        (["lsvq", "--source", "gone", "--out", "x"], 1, "is not in it; give the label file with"),
        (["synthetic", "--source", ".", "--out", "x"], 2, "is made by the prepare stage"),
        (["lsvq", "--source", ".", "--out", "x", "--frames", "0"], 2, "must be at least 1"),
        (["lsvq", "--out", "x"], 2, "--source"),
    ],
)
def test_bad_input(tmp_path, monkeypatch, capsys, arguments, code, said):
    monkeypatch.chdir(tmp_path)
    if code == 2:
        with pytest.raises(SystemExit) as stop:
            cli.main(["prepare", *arguments])
        assert stop.value.code == 2
    else:
        assert cli.main(["prepare", *arguments]) == 1
    assert said in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


@pytest.mark.slow
def test_all_stages_on_a_labelled_folder(tmp_path):
    """Without gaze maps, the saliency network comes from another run, or α is 0."""
    clips = tmp_path / "clips"
    clips.mkdir()
    rows = ["file,mos,content"]
    for i in range(40):
        frames = moving_bar(6, height=32, width=48) // (1 + i % 4)
        frames[..., 0] = i  # no two files are equal
        write(clips / f"clip{i}.mp4", frames)
        rows.append(f"clip{i}.mp4,{10 + 20 * (i % 4)},scene{i // 2}")
    (clips / "labels.csv").write_text("\n".join(rows) + "\n")
    config = shrink(vqa.get_config("folder,embedded"))
    config.dataset.args.source = str(clips)
    config.split.update({"test": 0.2, "val": 0.2})
    with pytest.raises(stages.StageError, match="holds no gaze maps to train the saliency network"):
        stages.run_stages(config, tmp_path / "refused")
    assert not (tmp_path / "refused").exists()  # the error comes before anything is decoded
    config.model.args.alpha = 0.0
    home = tmp_path / "run"
    stages.run_stages(config, home)
    with open(home / "test" / "predictions.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 8 and "saliency" not in json.loads(
        (home / "test" / "metrics.json").read_text()
    )
    scorer = Scorer.from_checkpoint(home)
    assert scorer.meta["mos_range"] == [10.0, 70.0]
    for row in rows:
        result = scorer.score(clips / row["video"])
        assert result.mos == pytest.approx(float(row["prediction"]), abs=2e-4)
        assert np.isfinite(result.score)
    with open(home / "split.csv", newline="") as stream:
        split = list(csv.DictReader(stream))
    sides = {p: {r["content"] for r in split if r["part"] == p} for p in ("train", "val", "test")}
    assert sum(map(len, sides.values())) == 20
