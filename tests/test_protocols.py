"""Folds, tests on other data sets, and maps of other models."""

import csv
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from dagr_jax import cli, stages
from dagr_jax.data.records import read_list
from dagr_jax.metrics import resampling
from dagr_jax.models import dagr
from dagr_jax.runtime.errors import DagrError
from dagr_jax.score import Scorer
from dagr_jax.stages.folds import spread
from dagr_jax.stages.split import rows_of as rows_of_parts
from dagr_jax.train.checkpoints import load_variables
from dagr_jax.video.decode import probe, read_clip
from tests.tiny_run import tiny_config


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    """Reduces resamples: 1,000 logistic fits take ten seconds, and the intervals are not tested."""
    real = resampling.bootstrap
    monkeypatch.setattr(resampling, "bootstrap", lambda *a, n, **k: real(*a, n=min(n, 50), **k))


@pytest.fixture(scope="module")
def other(tmp_path_factory) -> Path:
    """Another embedded corpus with the same names and contents, but different pictures."""
    home = tmp_path_factory.mktemp("other")
    config = tiny_config()
    config.dataset.args.update({"seed": 99, "contents": (2, 1, 1)})
    stages.run_stages(config, home, ["prepare"])
    return home / "data"


def rows_of(path):
    with open(path, newline="") as stream:
        return list(csv.DictReader(stream))


def test_another_data_set_is_predicted_whole(tiny_run, other, tmp_path, capsys):
    arguments = ["evaluate", str(other), "--checkpoint", str(tiny_run), "--format", "csv"]
    assert cli.main([*arguments, "--workdir", str(tmp_path / "cross")]) == 0
    (row,) = csv.DictReader(capsys.readouterr().out.splitlines())
    assert (row["dataset"], row["n"], row["left_out"]) == ("synthetic", "20", "0")
    home = tmp_path / "cross" / "data"
    assert [r["video"] for r in rows_of(home / "predictions.csv")] == [
        listed.video for listed in read_list(other)
    ]
    result = json.loads((home / "metrics.json").read_text())
    assert float(row["srcc"]) == pytest.approx(result["srcc"]["value"])
    assert set(result["baselines"]) == {
        "bitrate", "laplacian_variance", "luminance", "colourfulness",
    }  # fmt: skip
    assert (home / "overview.png").stat().st_size > 10000
    assert sorted(p.name for p in home.iterdir()) == [
        "metrics.json", "overview.png", "predictions.csv",
    ]  # fmt: skip
    assert cli.main([*arguments, "--workdir", str(tmp_path / "cross")]) == 1
    assert "exists already; use another" in capsys.readouterr().err


def test_of_its_own_set_a_checkpoint_predicts_the_test_part_alone(tiny_run, tmp_path, capsys):
    for name, checkpoint in (("a", tiny_run), ("b", tiny_run / "vqa")):
        arguments = ["evaluate", str(tiny_run / "data"), "--checkpoint", str(checkpoint)]
        assert cli.main([*arguments, "--workdir", str(tmp_path / name)]) == 0
        ours = tmp_path / name / "data" / "predictions.csv"
        assert ours.read_bytes() == (tiny_run / "test" / "predictions.csv").read_bytes()
        table = capsys.readouterr().out.splitlines()
        assert table[1].split()[1:4] == ["synthetic", "15", "40"]


def test_a_set_decoded_otherwise_is_refused(tiny_run, other, tmp_path, capsys):
    shutil.copytree(other, tmp_path / "set")
    held = json.loads((other / "prepared.json").read_text())
    held["stream"]["frames"] = 2
    (tmp_path / "set" / "prepared.json").write_text(json.dumps(held))
    arguments = ["--checkpoint", str(tiny_run), "--workdir", str(tmp_path / "cross")]
    assert cli.main(["evaluate", str(tmp_path / "set"), *arguments]) == 1
    said = capsys.readouterr()
    assert "prepare it with --frames 4 --rule linspace --size 32 48" in said.err
    assert not (tmp_path / "cross").exists()


def test_usage_of_evaluate(tmp_path, capsys):
    for more in (["a", "b/a"], ["a", "b", "--maps", "m"], ["a", "--batch-size", "0"]):
        with pytest.raises(SystemExit) as stop:
            cli.main(["evaluate", *more, "--checkpoint", "c", "--workdir", str(tmp_path / "x")])
        assert stop.value.code == 2
    assert cli.main(["evaluate", "a", "--checkpoint", str(tmp_path), "--workdir", "x"]) == 1
    assert "no complete checkpoint" in capsys.readouterr().err


def test_all_folds_in_one_command(tiny_run, other, tmp_path):
    """Every content is tested once; each fold trains its own saliency network on its contents."""
    config = tiny_config()
    config.data_dir = str(tiny_run / "data")
    config.split.update({"protocol": "kfold", "folds": 2, "fold": -1})
    config.model.args.alpha = 0.0
    config.vqa.steps = 0  # the weights do not matter here
    with config.unlocked():
        config.stages = ("prepare", "vqa", "test")
        config.test.others = {"other": {"name": "synthetic", "args": {}, "data_dir": str(other)}}
        args = dict(config.dataset.args, seed=99, contents=(2, 1, 1))
        config.test.others.other.args = args
    stages.run_stages(config, tmp_path)
    summary = json.loads((tmp_path / "folds.json").read_text())
    tested = []
    for k, value in enumerate(summary["srcc"]["values"]):
        home = tmp_path / f"fold{k}"
        assert json.loads((home / "test" / "metrics.json").read_text())["srcc"]["value"] == value
        tested += [row["video"] for row in rows_of(home / "test" / "predictions.csv")]
        parts = {row["part"]: set() for row in rows_of(home / "split.csv")}
        for row in rows_of(home / "split.csv"):
            parts[row["part"]].add(row["content"])
        assert sum(map(len, parts.values())) == 11 and len(parts) == 3
    assert sorted(tested) == sorted(row.video for row in read_list(tiny_run / "data"))
    assert summary["srcc"]["low"] <= summary["srcc"]["median"] <= summary["srcc"]["high"]
    # Figure 4: the model of each fold predicts the whole other set, and the box plot is drawn.
    elsewhere = summary["others"]["other"]["srcc"]["values"]
    for k, value in enumerate(elsewhere):
        result = json.loads((tmp_path / f"fold{k}" / "test_other" / "metrics.json").read_text())
        assert (result["srcc"]["value"], result["n"], result["left_out"]) == (value, 20, 0)
    assert len(elsewhere) == 2
    assert Image.open(tmp_path / "folds.png").size[1] > 300
    # A second call does no work again.
    before = {p: p.stat().st_mtime_ns for p in tmp_path.glob("fold*/*/*")}
    assert len(before) > 10
    stages.run_stages(config, tmp_path)
    assert before == {p: p.stat().st_mtime_ns for p in tmp_path.glob("fold*/*/*")}


def test_a_saliency_set_of_its_own_has_one_split_for_all_folds(tiny_run, other, tmp_path):
    config = tiny_config()
    config.data_dir, config.saliency.data_dir = str(tiny_run / "data"), str(other)
    config.split.update({"protocol": "kfold", "folds": 2, "fold": -1})
    run = stages.Run(config, tmp_path)
    (stage,) = run.gaze_stages
    parts = rows_of_parts(run.gaze_parts(stage))
    assert {part: len(rows) for part, rows in parts.items()} == {"train": 10, "val": 5, "test": 5}


def test_spread():
    # A fold with equal scores for all videos has no SRCC, but is counted.
    assert spread([0.8, None, 0.7])["median"] == pytest.approx(0.75)
    assert spread([0.8, None])["values"] == [0.8, None] and spread([None]) == {"values": [None]}
    assert spread([0.8, 0.9, 0.7]) == {
        "median": 0.8,
        "mean": pytest.approx(0.8),
        "std": pytest.approx(0.1),
        "low": 0.7,
        "high": 0.9,
        "values": [0.8, 0.9, 0.7],
    }


def test_one_split_has_no_folds(tiny_run, tmp_path):
    config = tiny_config()
    config.data_dir = str(tiny_run / "data")
    config.split.fold = -1
    with pytest.raises(stages.StageError, match="the protocol official has only one; use kfold or"):
        stages.run_stages(config, tmp_path)


def test_a_split_of_ones_own(tiny_run, tmp_path):
    config = tiny_config()
    config.data_dir = str(tiny_run / "data")
    rows = rows_of(tiny_run / "split.csv")
    kept = [row for row in rows if row["content"] not in ("content000", "content010")]
    with open(tmp_path / "mine.csv", "w", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=["video", "part"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(kept)
    config.split.file = str(tmp_path / "mine.csv")
    stages.run_stages(config, tmp_path / "run", ["prepare"])
    assert rows_of(tmp_path / "run" / "split.csv") == kept
    run = stages.Run(config, tmp_path / "run")
    assert {part: len(numbers) for part, numbers in run.rows.items()} == {
        "train": 25, "val": 10, "test": 10,
    }  # fmt: skip


def test_the_test_part_is_read_by_the_test_stage_alone(tiny_run, tmp_path, monkeypatch):
    """Reading its records fails before the test stage; all other stages complete."""
    from dagr_jax.data import loader

    config = tiny_config()
    config.data_dir = str(tiny_run / "data")
    run = stages.Run(config, tiny_run)
    forbidden = set(run.rows["test"].tolist())
    read = []
    real = loader.Rows.__getitem__

    def watched(self, index):
        read.append(int(self._numbers[index]))
        assert not forbidden & set(read), "a test record was read"
        return real(self, index)

    monkeypatch.setattr(loader.Rows, "__getitem__", watched)
    config.saliency.update({"init": str(tiny_run), "steps": 0})
    stages.run_stages(config, tmp_path, ["prepare", "saliency", "maps", "vqa"])
    assert len(set(read)) == 40  # all other records were read
    with pytest.raises(AssertionError, match="a test record was read"):
        stages.run_stages(config, tmp_path, ["test"])
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "config.json", "maps", "saliency", "split.csv", "times.jsonl", "vqa",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def maps_folder(tiny_run, tmp_path_factory) -> Path:
    """Maps of "another model" for every clip: a moving bright square."""
    folder = tmp_path_factory.mktemp("maps")
    for row in read_list(tiny_run / "data"):
        home = folder / Path(row.video).stem
        home.mkdir()
        for t in range(probe(tiny_run / "data" / "videos" / row.video).num_frames):
            grey = np.zeros((18, 32), np.uint8)
            grey[4:10, 2 * t : 2 * t + 8] = 200
            Image.fromarray(grey).save(home / f"{t}.png")
    return folder


@pytest.mark.slow
def test_maps_of_another_model(tiny_run, maps_folder, tmp_path, capsys):
    config = tiny_config()
    config.data_dir = str(tiny_run / "data")
    config.maps.folder = str(maps_folder)
    config.vqa.steps = 2
    stages.run_stages(config, tmp_path / "run", ["prepare", "maps", "vqa", "test"])
    assert not (tmp_path / "run" / "saliency").exists()
    variables, meta = load_variables(tmp_path / "run")
    assert set(variables["params"]) == {"vqa"} and meta["settings"]["outside"]
    result = json.loads((tmp_path / "run" / "test" / "metrics.json").read_text())
    assert "saliency" not in result
    row = rows_of(tmp_path / "run" / "test" / "predictions.csv")[0]
    clip = tiny_run / "data" / "videos" / row["video"]
    scorer = Scorer.from_checkpoint(tmp_path / "run")
    mos = scorer.score(clip, maps=maps_folder / clip.stem).mos
    assert mos == pytest.approx(float(row["prediction"]), abs=2e-3)  # stored maps have 8 bits
    with pytest.raises(DagrError, match="trained with saliency maps of another model; give its"):
        scorer.score(clip)
    command = ["score", str(clip), "--checkpoint", str(tmp_path / "run"), "--format", "jsonl"]
    assert cli.main([*command, "--maps", str(maps_folder)]) == 0
    assert json.loads(capsys.readouterr().out)["mos"] == mos
    assert cli.main([*command, "--maps", str(tmp_path)]) == 1
    assert "holds no maps" in capsys.readouterr().err
    evaluate = ["evaluate", str(tiny_run / "data"), "--checkpoint", str(tmp_path / "run")]
    evaluate += ["--workdir", str(tmp_path / "again")]
    assert cli.main(evaluate) == 1
    assert "name the folder of the maps of this set with --maps" in capsys.readouterr().err
    assert cli.main([*evaluate, "--maps", str(maps_folder)]) == 0
    again = rows_of(tmp_path / "again" / "data" / "predictions.csv")
    assert again == rows_of(tmp_path / "run" / "test" / "predictions.csv")


def test_own_maps_and_given_ones(tiny_run, maps_folder):
    clip = next((tiny_run / "data" / "videos").iterdir())
    with pytest.raises(DagrError, match="makes its own saliency maps; leave these out"):
        Scorer.from_checkpoint(tiny_run).score(clip, maps=maps_folder / clip.stem)


@pytest.mark.slow
def test_static_maps_are_the_first_for_all_frames(tiny_run, tmp_path):
    config = tiny_config()
    config.data_dir = str(tiny_run / "data")
    config.maps.choice = "first_map"
    for section in (config.saliency, config.vqa):
        section.update({"init": str(tiny_run), "steps": 0})
    stages.run_stages(config, tmp_path, ["prepare", "saliency", "maps", "vqa", "test"])
    row = rows_of(tmp_path / "test" / "predictions.csv")[0]
    clip = tiny_run / "data" / "videos" / row["video"]
    scorer = Scorer.from_checkpoint(tmp_path)
    maps = scorer.maps(clip)["saliency"]
    frames, _ = read_clip(clip, 4, "linspace", (32, 48))
    network = jax.jit(lambda v, x: dagr.saliency_maps(scorer.model, v, x))
    moving = np.asarray(network(scorer.variables, frames[None])[0])
    np.testing.assert_array_equal(maps, np.broadcast_to(moving[0], maps.shape))
    assert not np.array_equal(moving[0], moving[-1])
    # Maps that the model makes itself, in one program with the score, round otherwise.
    inline = Scorer.from_checkpoint(tiny_run).maps(clip)["saliency"]
    np.testing.assert_allclose(inline, moving, atol=1e-4)
    assert scorer.score(clip).mos == pytest.approx(float(row["prediction"]), abs=2e-3)
