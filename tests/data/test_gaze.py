"""Gaze sets: DHF1K as unpacked, and any folder; positions of fixations and maps."""

import csv

import numpy as np
import pytest
from PIL import Image

from dagr_jax import stages
from dagr_jax.configs import saliency
from dagr_jax.data import dhf1k, gaze, gaze_folder
from dagr_jax.data.loader import SaliencySource
from dagr_jax.data.prepare import open_records
from dagr_jax.data.records import read_list
from dagr_jax.data.splits import Protocol
from dagr_jax.runtime.errors import DagrError
from dagr_jax.stages.gaze import gaze_source
from dagr_jax.stages.prepare import prepare_set
from dagr_jax.stages.run import Run
from dagr_jax.train.checkpoints import load_variables
from dagr_jax.video.inputs import Resize, Stream
from tests.tiny_run import shrink
from tests.video.clips import moving_bar, write

STREAM = Stream("linspace", 3, Resize((24, 36)))


def annotate(folder, count, height=32, width=48, fixation="fixation", low=1):
    """A density with its peak at (8, 12 + frame), and one fixation there."""
    for name in ("maps", fixation):
        (folder / name).mkdir(parents=True)
    y, x = np.mgrid[:height, :width]
    for i in range(count):
        far = (y - 8) ** 2 + (x - 12 - i) ** 2
        grey = (200 * np.exp(-far / 30)).astype(np.uint8)
        Image.fromarray(grey).save(folder / "maps" / f"{i + low:04d}.png")
        points = np.zeros((height, width), np.uint8)
        points[8, 12 + i] = 255
        Image.fromarray(points).save(folder / fixation / f"{i + low:04d}.png")


def numbered_bar(number, count, **size):
    """Makes frames that differ for every number, so that no two files are equal."""
    frames = moving_bar(count, **{"height": 32, "width": 48, **size})
    frames[..., 0] = number % 250
    return frames


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Twelve training and four validation videos of DHF1K, and a test video without gaze."""
    folder = tmp_path_factory.mktemp("DHF1K")
    (folder / "video").mkdir()
    for number in (*range(1, 13), 601, 602, 603, 604, 701):
        path = folder / "video" / f"{number:03d}.AVI"
        write(path, numbered_bar(number, 7))
        if number < 700:
            annotate(folder / "annotation" / f"{number:04d}", 7)
    return folder


def prepare(source, out, name="dhf1k", max_failures=-1):
    args = {"source": str(source), "labels": "", "max_failures": max_failures}
    return prepare_set(out, {"name": name, "args": args}, STREAM, [16, 24])


def test_dhf1k_as_it_is_unpacked(source, tmp_path, capsys):
    out = prepare(source, tmp_path / "set")
    assert "DHF1K: 16 of 16 videos used; published: train 600" in capsys.readouterr().err
    listed = read_list(out)
    # Without public test gaze, the published validation part is the test part.
    assert [row.video for row in listed if row.part == "test"] == [
        f"{n:04d}" for n in range(601, 605)
    ]
    parts = Protocol("official", val=0.25).assign(
        [row.content for row in listed], [row.part for row in listed]
    )
    assert [parts.count(part) for part in ("train", "val", "test")] == [9, 3, 4]
    source = SaliencySource(out, np.arange(16))
    assert source.videos == [row.video for row in listed]
    for i, record in enumerate(source):
        assert record["frames"].shape == (3, 16, 24, 3)
        assert source.native_size(i) == (32, 48)
        for t, frame in enumerate((0, 3, 6)):
            assert source.points(i)[t].tolist() == [[8, 12 + frame]]
            # Half the size: (8, 12 + frame) goes to (4, 6 + frame // 2).
            assert np.argwhere(record["fixations"][t]).tolist() == [[4, 6 + frame // 2]]
            m = record["maps"][t]
            peak = np.unravel_index(m.argmax(), m.shape)
            assert m.max() == 255 and abs(peak[0] - 4) <= 1 and abs(peak[1] - 6 - frame / 2) <= 1


def test_all_of_dhf1k_keeps_its_parts(tmp_path):
    (tmp_path / "video").mkdir()
    for number in (1, 601, 701):
        for name in ("maps", "fixation"):
            (tmp_path / "annotation" / f"{number:04d}" / name).mkdir(parents=True)
    found = dhf1k.DATASET.find(tmp_path)
    assert [(v.video, v.part) for v in found] == [
        ("0001", "train"),
        ("0601", "val"),
        ("0701", "test"),
    ]


def test_a_folder_of_pictures(tmp_path):
    source = tmp_path / "gaze"
    for i in range(8):
        home = source / f"clip {i}"
        annotate(home, 12, fixation="fixations", low=0)
        (home / "frames").mkdir()
        for t in range(12):
            Image.fromarray(np.full((32, 48, 3), 10 * t, np.uint8)).save(
                home / "frames" / f"{t}.jpg"
            )
    found = gaze_folder.DATASET.find(source)
    assert len(found) == 8 and found[0].video == "clip 0"
    # 2.jpg comes before 10.jpg.
    record = gaze.gaze_record(found[0], STREAM, (16, 24))
    assert record["frames"].mean((1, 2, 3)).round(-1).tolist() == [0, 50, 110]
    out = prepare(source, tmp_path / "set", "gaze_folder")
    assert len(open_records(out, "saliency")) == 8


def test_what_is_wrong_is_in_the_report(source, tmp_path):
    broken = tmp_path / "DHF1K"
    (broken / "video").mkdir(parents=True)
    for number in range(1, 13):
        annotate(broken / "annotation" / f"{number:04d}", 5)
        if number != 3:
            write(broken / "video" / f"{number:03d}.AVI", numbered_bar(number, 5))
    annotate(broken / "annotation" / "0601", 5)
    write(broken / "video" / "601.AVI", numbered_bar(99, 5))
    (broken / "annotation" / "0002" / "maps" / "0003.png").write_text("no picture")
    (broken / "annotation" / "0004" / "fixation" / "0001.png").unlink()
    with pytest.raises(DagrError, match=r"3 of 13 videos cannot be used \(3 unreadable\)"):
        prepare(broken, tmp_path / "set")
    out = prepare(broken, tmp_path / "set", max_failures=3)
    with open(out / "report.csv", newline="") as stream:
        said = {row["file"]: row["reason"] for row in csv.DictReader(stream) if row["reason"]}
    assert said == {
        "0002": said["0002"],
        "0003": "unreadable: there is no such file",
        "0004": "unreadable: has 5 maps and 4 fixation maps",
    }
    assert "cannot be read as a picture" in said["0002"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"num_frames": 6}, "with 3 frames a video, and the configuration wants 6; .* --frames 6"),
        (
            {"num_frames": 3},
            "gaze maps of 16 × 24, and the configuration wants 8 × 12; .*size 8 12",
        ),
    ],
)
def test_a_set_of_another_length_or_size_is_refused(source, tmp_path, change, says):
    config = shrink(saliency.get_config("dhf1k,embedded"))
    config.saliency.update({"data_dir": str(prepare(source, tmp_path / "set")), **change})
    if change["num_frames"] == 3:
        config.model.args.saliency_size = (8, 12)
    run = Run(config, tmp_path / "run")
    with pytest.raises(DagrError, match=says):
        gaze_source(run, run.gaze_stages[0], "train")


@pytest.mark.slow
def test_saliency_is_trained_on_it(source, tmp_path):
    config = shrink(saliency.get_config("dhf1k,embedded"))
    config.dataset.args.source = str(source)
    config.saliency.update({"steps": 2})
    stages.run_stages(config, tmp_path)
    variables, meta = load_variables(tmp_path)
    assert meta["dataset"] == "dhf1k" and meta["step"] == 2 and "cc" in meta["metrics"]
    assert all(np.isfinite(x).all() for x in variables["params"]["final_conv"].values())
