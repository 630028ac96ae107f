"""`dagr report saliency`, `registers` and `strips`: Tables 3 and 5, figure 6."""

import json
import shutil

import jax
import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import silhouette_score

from dagr_jax import cli
from dagr_jax.report import strips
from dagr_jax.score import Scorer
from dagr_jax.stages import StageError, gaze
from dagr_jax.stages.gaze import Judged
from dagr_jax.studies import saliency_table
from dagr_jax.studies.registers import registers_of, without_registers
from dagr_jax.studies.saliency_table import network_of, records_of


def report(capsys, *arguments):
    """(exit code, stdout, stderr) of `dagr report`."""
    code = cli.main(["report", *map(str, arguments)])
    told = capsys.readouterr()
    return code, told.out, told.err


def test_table_3_is_what_the_test_stage_measured(tiny_run, capsys):
    both = (f"A={tiny_run}", f"B={tiny_run / 'saliency'}")
    common = ("--data", tiny_run / "data", "--bootstrap", 30, "--format", "json", "--published")
    code, out, _ = report(capsys, "saliency", *both, *common)
    assert code == 0
    rows = {row["network"]: row for row in json.loads(out)["rows"] if row["source"] == "measured"}
    assert list(rows) == ["A", "B", "A - B", "centre_bias", "training_mean"]
    measured = json.loads((tiny_run / "test" / "metrics.json").read_text())["saliency"]
    for name in gaze.NAMES:
        # One batch size here, another there: XLA may sum in another order.
        assert rows["A"][name]["value"] == pytest.approx(measured[name], rel=1e-4)
        for side in ("centre_bias", "training_mean"):
            assert rows[side][name]["value"] == pytest.approx(measured[side][name], rel=1e-9)
        assert rows["A"][name] == rows["B"][name]  # the same weights in both folders
        assert rows["A - B"][name] == {"value": 0.0, "low": 0.0, "high": 0.0}
        assert rows["A"][name]["low"] <= rows["A"][name]["value"] <= rows["A"][name]["high"]
    paper = [row for row in json.loads(out)["rows"] if row["source"] == "published"]
    assert [row["nss"]["value"] for row in paper] == [3.683, 2.856, 2.945, 2.72]


def test_a_network_averages_over_its_seeds_and_frames_without_fixations_count_for_nothing():
    contents = ("a", "a", "b", "c")
    sums = {name: np.array([1.0, 3.0, 2.0, 0.0]) for name in gaze.NAMES}
    counts = {name: np.array([2, 2, 1, 0]) for name in gaze.NAMES}
    one = Judged(contents, sums, counts)
    assert one.means()["nss"] == 6 / 5
    doubled = Judged(contents, {k: 2 * v for k, v in sums.items()}, counts)
    row = saliency_table._row("both", [one, doubled], 20)
    assert row["networks"] == 2 and row["nss"]["value"] == pytest.approx(1.5 * 6 / 5)
    less = saliency_table._row("one - two", [one], 20, [doubled])
    assert less["nss"]["value"] == pytest.approx(-6 / 5)


@pytest.mark.parametrize(("by_seed", "by_content"), [(1.0, 0.3), (0.3, 1.0), (0.0, 1.0)])
def test_intervals_of_table_3_cover_seeds_and_contents(by_seed, by_content):
    """Two equal networks with three seeds each: of the intervals of their difference, 95 % hold 0.

    In 400 trials, the share has a standard error of 1.1 %. Contents alone would hold it in half.
    """
    rng, hits = np.random.default_rng(6), 0
    contents, ones = tuple(f"c{i}" for i in range(20)), np.ones(20, int)

    def seeds():
        shared = by_content * rng.normal(size=20)
        for _ in range(3):
            values = by_seed * rng.normal() + shared + 0.3 * rng.normal(size=20)
            yield Judged(
                contents, dict.fromkeys(gaze.NAMES, values), dict.fromkeys(gaze.NAMES, ones)
            )

    for _ in range(400):
        found = saliency_table._row("a - b", [*seeds()], 100, [*seeds()])["nss"]
        hits += found["low"] <= 0 <= found["high"]
    assert hits / 400 >= 0.92


def test_metrics_of_fixations_are_those_of_their_own_size():
    """Fixations that share a cell of the map count each; a plain NSS of the resized map."""
    rng = np.random.default_rng(7)
    small = rng.random((14, 25))
    points = np.unique(rng.integers(0, (180, 320), (40, 2)), axis=0)
    points = np.concatenate([points, points[:5] + 1])
    found = gaze.fixated(small, points, (180, 320), np.ones((180, 320)))
    full = plain_resize(small, 180, 320)
    values = [(full[y, x] - full.mean()) / full.std() for y, x in points]
    assert found["nss"] == pytest.approx(np.mean(values), abs=1e-10)
    below = [np.mean((full < full[y, x]) + (full == full[y, x]) / 2) for y, x in points]
    # Against all pixels instead of the other pixels: each of 45 fixations among 57,600 pixels.
    assert found["auc_judd"] == pytest.approx(np.mean(below), abs=1e-3)


def plain_resize(values, height, width):
    """Bilinear with half-pixel centres, pixel by pixel."""
    h, w = values.shape
    out = np.zeros((height, width))
    for i in range(height):
        y = min(max((i + 0.5) * h / height - 0.5, 0), h - 1)
        top = min(int(y), h - 2)
        for j in range(width):
            x = min(max((j + 0.5) * w / width - 0.5, 0), w - 1)
            left = min(int(x), w - 2)
            a, b = y - top, x - left
            four = values[top : top + 2, left : left + 2]
            rows = four[0] * (1 - a) + four[1] * a
            out[i, j] = rows[0] * (1 - b) + rows[1] * b
    return out


def test_wrong_sets_and_parts_are_one_line(tiny_run, tmp_path, capsys):
    call = ("saliency", tiny_run, "--data")
    code, _, err = report(capsys, *call, tmp_path)
    assert code == 1 and "no prepared saliency set is here; make one with dagr prepare" in err
    shutil.copytree(tiny_run / "data", tmp_path / "set")
    path = tmp_path / "set" / "videos.csv"
    path.write_text(path.read_text().replace(",test,", ",train,"))
    code, _, err = report(capsys, *call, tmp_path / "set", "--part", "test")
    assert code == 1 and "has no part test (it has: train, val); take another, all or uns" in err
    code, _, err = report(capsys, *call, tiny_run / "data", "--window", 3)
    assert code == 1 and "have 4 frames, which do not divide into windows of 3" in err
    shutil.copytree(tiny_run, tmp_path / "run")
    for path in (tmp_path / "run").glob("*/*/meta/metadata"):
        held = json.loads(path.read_text())
        held["inputs"]["frames"]["frames"] = 9
        path.write_text(json.dumps(held))
    code, _, err = report(capsys, "saliency", tmp_path / "run", "--data", tiny_run / "data")
    assert code == 1 and "was prepared with 4 frames a video" in err
    assert "prepare it anew with --frames 9, or measure in windows with --window" in err


def test_registers_are_the_same_for_all_videos_and_their_response_is_not(
    tiny_run, tmp_path, capsys
):
    found = registers_of(tiny_run, tiny_run / "data", "all")
    classes = {video: video[11] for video in records_of(tiny_run / "data", "all", [])[0].videos}
    named = registers_of(tiny_run, tiny_run / "data", "unseen", classes)
    assert set(named.classes) == set("01234")
    with pytest.raises(StageError, match=r"15 videos have no class, 'content008_0.*' first"):
        registers_of(tiny_run, tiny_run / "data", "unseen", {})
    assert found.difference == 0 and found.tokens.shape == (2, 2)
    response, first, bottleneck, silenced, colour = found.clouds
    assert response.features.shape == first.features.shape == (55, 2)
    assert bottleneck.features.shape == silenced.features.shape == colour.features.shape == (55, 3)
    frames = records_of(tiny_run / "data", "all", [])[0][7]["frames"]
    np.testing.assert_allclose(colour.features[7], frames.mean((0, 1, 2)))
    assert np.ptp(response.features, axis=0).max() > 1e-4
    for cloud in found.clouds:
        x = cloud.features[:, cloud.features.std(axis=0) > 0]
        x = (x - x.mean(axis=0)) / x.std(axis=0)
        assert cloud.silhouette == pytest.approx(silhouette_score(x, found.classes))
        assert cloud.place.shape == (55, 2) and cloud.chance < 1
    out = tmp_path / "figure6.png"
    call = ("registers", tiny_run, "--data", tiny_run / "data", "--out", out, "--format", "json")
    code, text, _ = report(capsys, *call)
    rows = json.loads(text)
    assert code == 0 and rows[0]["largest_difference"] == 0
    assert Image.open(out).size[0] > 1000


def test_the_response_is_measured_against_registers_of_nothing(tiny_run):
    source, left_out = records_of(tiny_run / "data", "unseen", [tiny_run])
    assert (len(source), left_out) == (15, 40)  # the test part
    model, variables = network_of(tiny_run, tiny_run / "data", source)
    frames = source[0]["frames"][None] / np.float32(255)
    silent = without_registers(variables)
    _, kept = model.apply(silent, frames, capture_intermediates=True, mutable=["intermediates"])
    assert float(np.abs(kept["intermediates"]["registers"]["__call__"][0]).max()) == 0
    assert not np.array_equal(model.apply(variables, frames), model.apply(silent, frames))
    same = jax.tree.map(
        np.array_equal, variables["params"]["encoder1"], silent["params"]["encoder1"]
    )
    assert all(jax.tree.leaves(same))


def test_strips_show_frames_and_the_maps_of_each_model(tiny_run, tmp_path, capsys):
    clip = sorted((tiny_run / "data" / "videos").glob("*.mp4"))[0]
    out = tmp_path / "strips.png"
    two = ("--checkpoint", f"one={tiny_run}", "--checkpoint", f"two={tiny_run / 'vqa'}")
    assert report(capsys, "strips", clip, *two, "--out", out)[0] == 0
    scorer = Scorer.from_checkpoint(tiny_run)
    shown = strips.look(str(clip), {"one": scorer, "two": scorer})
    labels = [label for label, _ in shown.maps]
    assert labels == [f"{name}\nscore {scorer.score(clip).score:.1f}" for name in ("one", "two")]
    np.testing.assert_allclose(shown.maps[0][1], scorer.maps(clip)["saliency"], atol=1e-5)
    width, height = Image.open(out).size
    assert width > 900 and height > 150
    with pytest.raises(SystemExit):
        report(capsys, "strips", clip, *two[:2], *two[:2], "--out", out)
    assert "two checkpoints have the same name" in capsys.readouterr().err
    missing = report(capsys, "strips", tmp_path / "no.mp4", *two, "--out", out)
    assert missing[0] == 1 and "no.mp4" in missing[2]
    with pytest.raises(SystemExit):
        report(capsys, "strips", clip, *two, "--out", tmp_path / "a.jpg")
    assert "the picture must be a .png file" in capsys.readouterr().err


def test_strips_of_a_score_without_maps_show_its_frames(no_maps_checkpoint, clips):
    scorer = Scorer.from_checkpoint(no_maps_checkpoint)
    shown = strips.look(clips[0], {"one": scorer})
    assert not shown.maps and shown.frames.shape == (4, 24, 32, 3)
    assert shown.label == f"0.mp4\nscore {scorer.score(clips[0]).score:.1f}"
    both = strips.look(clips[0], {"one": scorer, "two": scorer})
    assert both.label.splitlines()[1:] == [
        f"{name}: score {scorer.score(clips[0]).score:.1f}" for name in ("one", "two")
    ]


def test_names_break_behind_underscores():
    assert strips.in_lines("content099_4_noise_uncompressed.mp4") == (
        "content099_4_noise_\nuncompressed.mp4"
    )
    assert strips.in_lines("short.mp4") == "short.mp4"


def test_videos_that_a_network_was_trained_on_are_left_out_or_said(tiny_run, capsys):
    call = ("saliency", tiny_run, "--data", tiny_run / "data", "--bootstrap", 2)
    code, out, err = report(capsys, *call, "--format", "json", "--part", "all")
    assert code == 0 and "the networks have seen 40 of these 55 videos" in err
    assert {row["videos"] for row in json.loads(out)["rows"]} == {55}
    code, out, err = report(capsys, *call, "--format", "csv")
    assert code == 0 and "trained" not in err
    assert [line.split(",")[2] for line in out.splitlines()] == ["videos", "15", "15", "15"]


def test_a_network_that_nothing_trained_is_refused(tiny_run, monkeypatch):
    real = saliency_table.load_variables

    def untrained(path):
        variables, meta = real(path)
        return variables, {**meta, "model_args": {**meta["model_args"], "alpha": 0.0}}

    monkeypatch.setattr(saliency_table, "load_variables", untrained)
    source, _ = records_of(tiny_run / "data", "unseen", [tiny_run])
    with pytest.raises(StageError, match="its alpha is 0, so that its saliency network was never"):
        network_of(tiny_run, tiny_run / "data", source)
