"""DIEM as downloaded: the gaze in the event files is assigned to the frame it belongs to."""

import csv

import numpy as np
import pytest

from dagr_jax import stages
from dagr_jax.configs import saliency
from dagr_jax.data import diem, gaze
from dagr_jax.data.prepare import open_records
from dagr_jax.data.records import read_list
from dagr_jax.stages.prepare import prepare_set
from dagr_jax.video.inputs import Resize, Stream
from tests.data.test_gaze import numbered_bar
from tests.tiny_run import shrink
from tests.video.clips import write

HEIGHT, WIDTH = 96, 128
LEFT, TOP = (1280 - WIDTH) / 2, (960 - HEIGHT) / 2  # position of the video on the screen


def stream_of(frames, size):
    return Stream("linspace", frames, Resize(size))


def write_viewer(folder, viewer, name, rows):
    """Writes rows of (x, y, event) on the video; the right eye is 2 pixels from the left eye."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        f"{i}\t{LEFT + x - 1:.2f}\t{TOP + y:.2f}\t900\t{event}\t"
        f"{LEFT + x + 1:.2f}\t{TOP + y:.2f}\t880\t{event}"
        for i, (x, y, event) in enumerate(rows, start=1)
    ]
    (folder / f"diem{viewer}s1.asc_{name}.txt").write_text("\n".join(lines) + "\n")


def make_diem(folder, names, seconds=1, fps=25):
    """Two viewers follow a point, one blinks, and one looks outside the video."""
    for number, name in enumerate(names):
        home = folder / name
        (home / "video").mkdir(parents=True)
        frames = numbered_bar(number, seconds * fps, height=HEIGHT, width=WIDTH)
        write(home / "video" / f"{name}.mp4", frames, rate=fps)
        path = [(20 + 3 * i, 40) for i in range(30 * seconds)]
        events = home / "event_data"
        write_viewer(events, 1, name, [(x, y, 1) for x, y in path])
        write_viewer(events, 2, name, [(x, y + 8, 1) for x, y in path])
        write_viewer(events, 3, name, [(x, y, 0) for x, y in path])
        write_viewer(events, 4, name, [(x, HEIGHT + 5, 1) for x, y in path])
    return folder


def test_gaze_is_where_the_viewers_looked_when_the_frame_was_shown(tmp_path):
    source = make_diem(tmp_path, ["advert_128x96"])
    (video,) = diem.DATASET.find(source)
    assert (video.video, video.content) == ("advert_128x96", "advert")
    record = gaze.gaze_record(video, stream_of(3, (48, 64)), (48, 64))
    assert record["length"] == 25
    for t, frame in enumerate((0, 12, 24)):
        sample = frame * 30 // 25  # 30 lines per second, 25 frames per second
        x = (20 + 3 * sample) // 2
        own = record["points"][record["points"][:, 0] == t, 1:]
        assert own.tolist() == [[40, 20 + 3 * sample], [48, 20 + 3 * sample]]
        assert record["maps"][t].max() == record["maps"][t][22, x] == 255
        # One degree is 50 of 128 pixels, 25 pixels of the map; there the density is exp(-1/2).
        aside = x - 25 if x >= 25 else x + 25
        assert record["maps"][t][22, aside] == pytest.approx(255 * np.exp(-0.5), abs=3)


def test_eyes_of_which_one_fixates(tmp_path):
    lines = ["1 10 20 9 1 30 40 9 1", "2 10 20 9 1 30 40 9 2", "3 10 20 9 0 30 40 9 1"]
    lines += ["4 . . . -1 . . . -1", "5 10 20 9 2 30 40 9 0"]
    path = tmp_path / "a.txt"
    path.write_text("\n".join(lines) + "\n")
    places = diem.fixated(diem._read(path))
    nothing = [np.nan, np.nan]
    np.testing.assert_array_equal(places, [[20, 30], [10, 20], [30, 40], nothing, nothing])


def test_a_frame_that_nobody_looks_at_has_an_empty_map(tmp_path):
    source = make_diem(tmp_path, ["a_128x96"])
    for path in (source / "a_128x96" / "event_data").iterdir():
        path.write_text(path.read_text().replace("\t1", "\t2"))
    (video,) = diem.DATASET.find(source)
    record = gaze.gaze_record(video, stream_of(2, (24, 32)), (24, 32))
    assert not record["maps"].any() and not len(record["points"])


def test_views_of_one_scene_are_one_content():
    names = ["pingpong_no_bodies_960x720", "pingpong_closeup_rallys_960x720"]
    assert {diem.content(name) for name in names} == {"pingpong"}
    assert diem.content("harry_potter_6_trailer_1280x544") == "harry_potter_6_trailer"


def test_what_is_no_event_file_is_in_the_report(tmp_path, capsys):
    source = make_diem(tmp_path / "diem", ["a_128x96", "b_128x96", "c_128x96"])
    for name, text in (("a", "no numbers\n"), ("b", "1 2 3\n")):
        (source / f"{name}_128x96" / "event_data" / "bad.txt").write_text(text)
    args = {"source": str(source), "labels": "", "max_failures": 2}
    dataset = {"name": "diem", "args": args}
    out = prepare_set(tmp_path / "set", dataset, stream_of(3, (24, 32)), [24, 32])
    assert [row.video for row in read_list(out)] == ["c_128x96"]
    assert (
        "DIEM: 1 of 3 videos used (left out: 2 unreadable); published: 85"
        in capsys.readouterr().err
    )
    with open(out / "report.csv", newline="") as stream:
        said = [row["reason"] for row in csv.DictReader(stream)]
    assert said == ["unreadable: is no event file of DIEM"] + [
        "unreadable: is no event file of DIEM: nine columns, the first counts from 1"
    ] + [""]
    assert len(open_records(out, "saliency")) == 1


@pytest.mark.slow
def test_saliency_is_trained_on_it(tmp_path):
    names = [f"clip{i}_128x96" for i in range(14)]
    config = shrink(saliency.get_config("diem,embedded"))
    config.dataset.args.source = str(make_diem(tmp_path / "diem", names))
    config.split.update({"test": 0.15, "val": 0.15})
    config.saliency.steps = 2
    stages.run_stages(config, tmp_path / "run")
    log = (tmp_path / "run" / "saliency" / "log.jsonl").read_text().splitlines()
    assert len(log) == 2
