"""The shared inputs that once went wrong. They are not part of this repository."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from dagr_jax import cli
from dagr_jax.data import folder
from dagr_jax.data.gaze import gaze_record
from dagr_jax.data.gaze_folder import find
from dagr_jax.data.labels import LabelError
from dagr_jax.data.records import Listed
from dagr_jax.data.splits import read_split
from dagr_jax.video.decode import decode_frames
from dagr_jax.video.files import expand
from dagr_jax.video.inputs import Resize, Stream
from dagr_jax.video.pictures import read_picture

FAULTS = Path(__file__).resolve().parents[2] / "shared" / "faults"
pytestmark = pytest.mark.skipif(not FAULTS.is_dir(), reason=f"{FAULTS} is not there")

JUMP = "its clock jumps (1 x): the jumps were taken out"
# file: (frames, seconds, begin, notes)
VIDEOS = {
    "plain.mp4": (50, 2.0, 0.0, ""),
    "joined.ts": (100, 4.0, 0.0, JUMP),
    "joined.mpg": (100, 4.0, 0.0, JUMP),
    "packed_b.avi": (50, 2.0, 0.0, "its times go back: shown at 25 frames/s"),
    "gap_60s.ts": (50, 2.0, 0.0, JUMP),
    "late_subtitle.mkv": (50, 2.0, 0.0, ""),
    "browser_recording.webm": (50, 2.06, 0.0, ""),
    "exif_mjpeg.avi": (10, 0.4, 0.0, ""),
    "ycgco.mp4": (50, 2.0, 0.0, "its colour matrix (ycgco) is not supported: read as untagged"),
    "sound_mono_then_stereo.ts": (50, 1.96, 0.0, ""),
    "picture_starts_late.mp4": (50, 2.0, 2.0, ""),
    "cropped.mkv": (50, 2.0, 0.0, ""),
    "rotation_sei.ts": (50, 2.0, 0.0, ""),
}


def number_of(frame: np.ndarray) -> int:
    """The number in eight squares along the top, bit 0 at the left."""
    width = frame.shape[1]
    return sum((frame[5, (2 * b + 1) * width // 16].mean() > 128) << b for b in range(8))


@pytest.fixture(scope="module")
def rows(checkpoint, tmp_path_factory):
    """Rows of one call with all videos."""
    home = tmp_path_factory.mktemp("faults")
    names = [*VIDEOS, "encrypted.mp4"]
    call = ["score", *(str(FAULTS / name) for name in names), "--checkpoint", str(checkpoint)]
    assert cli.main([*call, "--segments", "1", "--out", str(home / "rows.json")]) == 1
    return dict(zip(names, json.loads((home / "rows.json").read_text()), strict=True))


@pytest.mark.slow
def test_pages_and_overlays(checkpoint, tmp_path):
    """Of every video; the generated files of the same kinds are looked at more closely."""
    call = ["score", *(str(FAULTS / name) for name in VIDEOS), "--checkpoint", str(checkpoint)]
    call += ["--page", str(tmp_path / "p.html"), "--overlay", str(tmp_path / "o")]
    assert cli.main(call) == 0
    assert len(list((tmp_path / "o").iterdir())) == 2 * len(VIDEOS)


@pytest.mark.parametrize("name", VIDEOS)
def test_videos(rows, name):
    row, (frames, seconds, begin, notes) = rows[name], VIDEOS[name]
    assert (row["total_frames"], row["notes"]) == (frames, notes)
    assert row["duration"] == pytest.approx(seconds, abs=0.01)
    segments = row["segments"]
    assert segments[0]["start"] == begin and len(segments) == max(round(seconds), 1)
    assert segments[-1]["end"] == pytest.approx(begin + seconds, abs=0.01)
    sizes = {"cropped.mkv": (120, 60), "rotation_sei.ts": (90, 160), "exif_mjpeg.avi": (320, 180)}
    assert (row["width"], row["height"]) == sizes.get(name, (160, 90))


def test_an_encrypted_video_has_no_score(rows):
    assert "44% of its pictures are damaged; " in rows["encrypted.mp4"]["error"]


@pytest.mark.parametrize("name", ["joined.ts", "joined.mpg", "packed_b.avi", "gap_60s.ts"])
def test_frames_are_in_order(name):
    wanted = [*range(50), *(range(100, 150) if "joined" in name else ())]
    assert [number_of(frame) for frame in decode_frames(FAULTS / name, np.arange)] == wanted


def test_gaze_belongs_to_its_frame():
    (video,) = find(FAULTS / "gaze")
    found = gaze_record(video, Stream("linspace", 20, Resize((36, 64))), (36, 64))
    assert found["length"] == 20
    files = [FAULTS / "gaze" / "v0" / "frames" / f"frame_{i + 1}.png" for i in range(20)]
    for frame, file in zip(found["frames"], files, strict=True):
        assert frame.mean() == pytest.approx(read_picture(file, "RGB").mean(), abs=2)


def test_pictures_of_16_bits():
    grey = read_picture(FAULTS / "map_16bit.png", "L")
    assert len(np.unique(grey)) > 100 and (grey == 255).mean() < 0.1


def test_labels(tmp_path):
    for name in ("semicolon_decimal_comma.txt", "windows_paths.csv", "stray_quote.csv"):
        shutil.copy(FAULTS / "labels" / name, tmp_path)
    found = folder.DATASET.sources(tmp_path, tmp_path / "semicolon_decimal_comma.txt")
    assert [one.mos for one in found] == [3.1, 2.5]
    found = folder.DATASET.sources(tmp_path, tmp_path / "windows_paths.csv")
    assert [one.content for one in found] == ["001", "001", "002", "002"]
    with pytest.raises(LabelError, match=r"stray_quote.csv: line \d+: its quotes cannot be meant"):
        folder.DATASET.sources(tmp_path, tmp_path / "stray_quote.csv")
    listed = [Listed(f"{name}.mp4", name) for name in "abc"]
    assert read_split(FAULTS / "labels" / "split_bom.csv", listed) == ["train", "val", "test"]


def test_lists(monkeypatch):
    monkeypatch.chdir(FAULTS)
    assert list(expand(["@lists/bom.txt"])) == ["plain.mp4", "ictcp.mp4"]


def test_tables(capsys):
    call = ["report", "table", str(FAULTS / "tables" / "pandas_index.csv"), "--bootstrap", "5"]
    assert cli.main([*call, "--format", "csv"]) == 0
    (row,) = csv.DictReader(capsys.readouterr().out.splitlines())
    assert row["model"] == "ours"
    assert cli.main(["report", "table", str(FAULTS / "tables" / "two_videos.csv")]) == 1
    assert "has 2 videos; a correlation needs at least 3" in capsys.readouterr().err
