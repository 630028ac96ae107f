"""A tiny run from end to end: every stage, its output, and the scorer."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from dagr_jax import cli, convert, stages
from dagr_jax.data import scenes, synthetic
from dagr_jax.metrics import agreement
from dagr_jax.runtime.errors import DagrError
from dagr_jax.score import Scorer
from dagr_jax.stages.artifacts import write_json
from dagr_jax.stages.evaluate import per_video
from dagr_jax.stages.quality import gather
from dagr_jax.train.checkpoints import load_variables
from dagr_jax.train.meta import CheckpointError
from dagr_jax.video.decode import VideoError, iter_frames
from tests.convert.small import arrays_of, small_resnet_shapes
from tests.tiny_run import tiny_config


@pytest.fixture(scope="module")
def workdir(tiny_run: Path) -> Path:
    return tiny_run


@pytest.fixture(scope="module")
def scorer(workdir: Path) -> Scorer:
    return Scorer.from_checkpoint(workdir)


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as stream:
        return list(csv.DictReader(stream))


def test_labels_split_contents_and_photographs(workdir):
    rows = rows_of(workdir / "data" / "labels.csv")
    assert len(rows) == 11 * 5
    parts = {s: {r["content"] for r in rows if r["split"] == s} for s in ("train", "val", "test")}
    assert [len(parts[s]) for s in ("train", "val", "test")] == [6, 2, 3]
    assert not parts["train"] & parts["val"] and not parts["test"] & (parts["train"] | parts["val"])
    used = synthetic.PHOTOGRAPHS
    assert sorted(sum(used.values(), [])) == sorted(scenes.PHOTOGRAPHS)
    assert len(used["test"]) >= 3
    assert all(1 < float(r["mos"]) <= 5 for r in rows)
    assert "not human opinion" in (workdir / "data" / "README.txt").read_text()


def test_heavier_compression_has_a_lower_label(workdir):
    rows = rows_of(workdir / "data" / "labels.csv")
    for content in {r["content"] for r in rows}:
        light, heavy = sorted(
            (r for r in rows if r["content"] == content and r["video"][11] in "01"),
            key=lambda r: float(r["level"]),
        )
        assert float(light["mos"]) > float(heavy["mos"])


def test_predictions_hold_every_test_video_once(workdir):
    predictions = rows_of(workdir / "test" / "predictions.csv")
    labels = {r["video"]: r for r in rows_of(workdir / "data" / "labels.csv")}
    assert list(predictions[0]) == ["video", "mos", "prediction"]
    expected = [v for v, r in labels.items() if r["split"] == "test"]
    assert [r["video"] for r in predictions] == expected
    for row in predictions:
        # Labels are stored as float32.
        assert float(row["mos"]) == pytest.approx(float(labels[row["video"]]["mos"]), rel=1e-6)


def test_metrics_agree_with_the_predictions(workdir):
    rows = rows_of(workdir / "test" / "predictions.csv")
    predictions, mos = (np.array([float(r[k]) for r in rows]) for k in ("prediction", "mos"))
    result = json.loads((workdir / "test" / "metrics.json").read_text())
    assert result["n"] == 15 and result["dataset"] == "synthetic"
    for name in ("srcc", "plcc", "krcc", "rmse"):
        value = getattr(agreement, name)(predictions, mos)
        assert result[name]["value"] == pytest.approx(value, abs=1e-6)
        assert result[name]["low"] <= result[name]["value"] + 1e-9
        assert result[name]["value"] <= result[name]["high"] + 1e-9
    fit = agreement.fit_logistic(predictions, mos)
    fitted = dict(zip(("plcc_fitted", "rmse_fitted"), fit.scores(mos), strict=True))
    for name, value in fitted.items():
        assert result[name]["value"] == pytest.approx(value, abs=1e-5)
        assert result[name]["low"] <= result[name]["high"]
    assert result["logistic"]["converged"] == fit.converged
    assert set(result["baselines"]) == {
        "bitrate", "laplacian_variance", "luminance", "colourfulness", "all_features",
    }  # fmt: skip
    saliency = result["saliency"]
    for values in (saliency, saliency["centre_bias"], saliency["training_mean"]):
        assert -1 <= values["cc"] <= 1 and np.isfinite(values["nss"]) and values["kld"] > 0
        for name in ("sim", "auc_judd", "auc_borji", "auc_shuffled"):
            assert 0 <= values[name] <= 1
    # A static map never changes more than the frames.
    assert saliency["centre_bias"]["temporal_consistency"] == 1.0
    assert -1 <= saliency["temporal_consistency"] <= 1


def test_logs_hold_losses_and_validation(workdir):
    for stage, steps, metric in (("saliency", 4, "val_cc"), ("vqa", 6, "val_srcc")):
        lines = [json.loads(x) for x in (workdir / stage / "log.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines] == list(range(1, steps + 1))
        assert all(np.isfinite(line["loss"]) for line in lines)
        assert [line["step"] for line in lines if metric in line] == list(range(2, steps + 1, 2))


def test_the_quality_checkpoint_holds_the_pretrained_saliency_net(workdir):
    pretrained, _ = load_variables(workdir / "saliency")
    whole, meta = load_variables(workdir)
    kernel = ("encoder1", "conv1", "kernel")
    ours, theirs = whole["params"]["saliency"], pretrained["params"]
    for key in kernel:
        ours, theirs = ours[key], theirs[key]
    np.testing.assert_array_equal(ours, theirs)
    assert meta["mos_range"] == [1.0, 5.0] and meta["inputs"]["frames"]["frames"] == 4


def test_a_second_run_repeats_nothing(workdir):
    def state():
        files = [p for p in workdir.rglob("*") if p.is_file()]
        return {p: p.stat().st_mtime_ns for p in files}

    before = state()
    stages.run_stages(tiny_config(), workdir)
    after = state()
    assert before == after


def test_a_run_from_another_runs_weights_that_trains_nothing_predicts_the_same(workdir, tmp_path):
    config = tiny_config()
    config.data_dir = str(workdir / "data")
    for section in (config.saliency, config.vqa):
        section.update({"init": str(workdir), "steps": 0})
    stages.run_stages(config, tmp_path / "tuned", config.stages[:-1])
    ours, theirs = (run / "test" / "predictions.csv" for run in (tmp_path / "tuned", workdir))
    assert ours.read_bytes() == theirs.read_bytes()


def test_a_stage_waits_for_the_end_of_the_one_before(workdir, tmp_path):
    config = tiny_config()
    config.data_dir = str(workdir / "data")
    for stage, before, steps in (("maps", "saliency", 4), ("test", "vqa", 6)):
        said = f"{before}: saved at step 0 of {steps}; run the stage {before} to its end first"
        with pytest.raises(stages.StageError, match=said):
            stages.run_stages(config, tmp_path / "run", [stage])


@pytest.mark.slow
@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_the_temporal_head_which_has_no_statistics(workdir, tmp_path, alpha):
    config = tiny_config()
    config.data_dir = str(workdir / "data")
    config.model.args.alpha = alpha
    config.model.args.vqa.update({"head": "temporal", "temporal_dim": 8})
    config.saliency.update({"init": str(workdir), "steps": 0})
    config.vqa.update({"steps": 2})
    stages.run_stages(config, tmp_path)
    predictions = rows_of(tmp_path / "test" / "predictions.csv")
    assert len({row["prediction"] for row in predictions}) > 1
    # Another run can start from its weights.
    config.vqa.update({"init": str(tmp_path), "steps": 0})
    config.data_dir = str(workdir / "data")
    stages.run_stages(config, tmp_path / "again")
    again = rows_of(tmp_path / "again" / "test" / "predictions.csv")
    assert again == predictions


def test_the_backbone_starts_from_a_file(workdir, tmp_path):
    """The backbone is loaded by torchvision's names; other weights keep their random start."""
    sizes = tiny_config().model.args.vqa
    arrays = arrays_of(small_resnet_shapes(tuple(sizes.stage_sizes), sizes.width))
    path = tmp_path / "resnet.safetensors"
    convert.write_safetensors(path, arrays, {})
    config = tiny_config()
    config.data_dir = str(workdir / "data")
    config.model.args.alpha = 0.0
    config.vqa.update({"steps": 0, "epochs": 0})
    starts = []
    for backbone in ("", str(path)):
        config.vqa.backbone = backbone
        home = tmp_path / f"run{len(starts)}"
        stages.run_stages(config, home, ["prepare", "vqa"])
        starts.append(load_variables(home)[0]["params"]["vqa"])
    fresh, started = starts
    kernel = started["resnet"]["layer1_0"]["conv2"]["kernel"]
    np.testing.assert_array_equal(kernel, arrays["layer1.0.conv2.weight"].transpose(2, 3, 1, 0))
    np.testing.assert_array_equal(started["projector"]["kernel"], fresh["projector"]["kernel"])


def test_a_workdir_of_saliency_alone_is_a_start_and_gives_no_score(workdir, tmp_path):
    shutil.copytree(workdir / "saliency", tmp_path / "saliency")
    _, meta = load_variables(tmp_path)
    assert (meta["model"], meta["mos_range"]) == ("unet3d", None)
    with pytest.raises(CheckpointError, match="holds one network, which gives no score by itself"):
        Scorer.from_checkpoint(tmp_path)


def test_undefined_metrics_are_null(tmp_path):
    write_json(tmp_path / "m.json", {"a": float("nan"), "b": [1.0, float("inf")], "c": "NaN"})
    assert json.loads((tmp_path / "m.json").read_text()) == {
        "a": None,
        "b": [1.0, None],
        "c": "NaN",
    }


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"preset": "release"}, "its preset is paper and the preset of this run is release"),
        (
            {"model.args.saliency.bottleneck": 5},
            r"its saliency network does not match \(\d+ differ",
        ),
        (
            {"model.args.saliency.register_layout": "channels"},
            "its saliency network has register_layout time, and that of this run has channels",
        ),
    ],
)
def test_weights_of_another_network_are_refused(workdir, tmp_path, change, says):
    config = tiny_config()
    config.data_dir = str(workdir / "data")
    config.saliency.init = str(workdir / "saliency")
    config.update_from_flattened_dict(change)
    with pytest.raises(stages.StageError, match=says):
        stages.run_stages(config, tmp_path / "other", ["saliency"])


def test_clips_of_one_video_are_averaged():
    facts = [{"video": v, "mos": m} for v, m in ((b"b", 2.0), (b"a", 3.0), (b"b", 2.0))]
    first, mean = per_video(facts, np.array([1.0, 5.0, 4.0]))
    assert first.tolist() == [0, 1] and mean.tolist() == [2.5, 5.0]
    facts[2]["mos"] = 2.5
    with pytest.raises(stages.StageError, match="b: its clips have different MOS"):
        per_video(facts, np.array([1.0, 5.0, 4.0]))


def test_every_record_is_predicted_once():
    whole = [(np.array([1, 0]), np.array([4.0, 3.0])), (np.array([2]), np.array([5.0]))]
    assert gather(iter(whole), 3).tolist() == [3.0, 4.0, 5.0]
    with pytest.raises(stages.StageError, match="1 of 4 records have no prediction and 0 have"):
        gather(iter(whole), 4)
    with pytest.raises(stages.StageError, match="0 of 3 records have no prediction and 1 have"):
        gather(iter([*whole, whole[1]]), 3)


def test_another_configuration_is_refused_by_name(workdir):
    config = tiny_config()
    config.vqa.optim.learning_rate = 0.5
    with pytest.raises(stages.StageError, match=r"vqa.optim.learning_rate was 0.003 and is now"):
        stages.run_stages(config, workdir)


def test_an_unknown_stage_is_refused_before_anything_is_made(tmp_path):
    with pytest.raises(stages.StageError, match="unknown stage tset; one of prepare"):
        stages.run_stages(tiny_config(), tmp_path / "work", ["tset"])
    assert not (tmp_path / "work").exists()


def test_the_overview_is_a_picture(workdir):
    from PIL import Image

    with Image.open(workdir / "test" / "overview.png") as image:
        assert image.width > 1000 and len(image.convert("RGB").getcolors(1 << 24)) > 500


def test_a_file_scores_as_its_line_in_the_predictions(workdir, scorer):
    for row in rows_of(workdir / "test" / "predictions.csv")[:4]:
        result = scorer.score(workdir / "data" / "videos" / row["video"])
        # Batches of 8 and of 1 are compiled differently; the file has 7 decimals.
        assert result.mos == pytest.approx(float(row["prediction"]), abs=1e-5)
        assert result.mos == pytest.approx(1 + result.score / 25, abs=1e-9)


def test_scores_repeat_to_the_last_bit_and_frames_score_as_their_file(workdir, scorer):
    path = next((workdir / "data" / "videos").iterdir())
    first, again = scorer.score(path), scorer.score(path)
    assert first.score == again.score
    frames = np.stack(list(iter_frames(path)))
    assert scorer.score(frames).score == first.score
    assert (first.width, first.height) == (frames.shape[2], frames.shape[1])
    assert first.total_frames == len(frames) == 10 and first.frames == 4
    found = scorer.maps(frames)
    assert set(found) == {"saliency"}
    maps = found["saliency"]
    assert maps.shape == (4, 16, 24) and maps.min() >= 0 and maps.max() <= 1


def test_frames_of_another_type_are_refused(scorer):
    with pytest.raises(DagrError, match=r"float32 of shape \(2, 8, 8, 3\); give uint8"):
        scorer.score(np.zeros((2, 8, 8, 3), np.float32))


def test_the_command_lists_failures_and_says_so_in_the_exit_code(workdir, tmp_path, capsys):
    good = str(next((workdir / "data" / "videos").iterdir()))
    empty = tmp_path / "empty.mp4"
    empty.touch()
    arguments = ["score", good, str(empty), "--checkpoint", str(workdir)]
    assert cli.main([*arguments, "--format", "jsonl", "--out", str(tmp_path / "x.csv")]) == 1
    captured = capsys.readouterr()
    rows = [json.loads(line) for line in captured.out.splitlines()]
    assert [r["file"] for r in rows] == [good, str(empty)]
    assert 0 < rows[0]["frames"] == 4 and "error" not in rows[0]
    assert str(empty) in rows[1]["error"] and "score" not in rows[1]
    assert captured.err.count("\n") == 2 and str(empty) in captured.err
    assert [r["file"] for r in rows_of(tmp_path / "x.csv")] == [good, str(empty)]

    assert cli.main(["score", good, "--checkpoint", str(workdir)]) == 0
    table = capsys.readouterr().out
    assert "score" in table and "'synthetic'" in table


def test_a_folder_without_a_checkpoint_is_one_clear_line(tmp_path, capsys):
    with pytest.raises(CheckpointError, match="no complete checkpoint"):
        Scorer.from_checkpoint(tmp_path)
    assert cli.main(["score", "a.mp4", "--checkpoint", str(tmp_path)]) == 1
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1 and str(tmp_path) in captured.err


def test_usage_errors_exit_with_2(tmp_path):
    for arguments in ([], ["score"], ["score", "a.mp4", "--checkpoint", "x", "--out", "a.exe"]):
        with pytest.raises(SystemExit) as stop:
            cli.main(arguments)
        assert stop.value.code == 2


def test_a_checkpoint_needs_no_data_beside_it(workdir, scorer, tmp_path):
    shutil.copytree(workdir / "vqa", tmp_path / "vqa")
    moved = Scorer.from_checkpoint(tmp_path / "vqa")
    path = next((workdir / "data" / "videos").iterdir())
    assert moved.score(path).score == scorer.score(path).score


def test_a_missing_file_is_named(scorer):
    with pytest.raises(VideoError, match="nowhere.mp4"):
        scorer.score("nowhere.mp4")
