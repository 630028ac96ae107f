"""From a folder of rated videos to records: used videos, reasons for others, resuming."""

import csv
import filecmp
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from dagr_jax.data import decode_set, konvid1k
from dagr_jax.data.decode_set import CollectError
from dagr_jax.data.prepare import open_records
from dagr_jax.data.records import read_list
from dagr_jax.video.decode import read_clip
from dagr_jax.video.inputs import Resize, Stream
from tests.video.clips import moving_bar, write

STREAM = Stream("linspace", 4, Resize((24, 32)))
ROOT = Path(__file__).resolve().parents[2]


def make_source(folder: Path, count: int) -> Path:
    """A small KoNViD-1k: `count` clips with both kinds of official names, and 6 bad rows."""
    videos = folder / "KoNViD_1k_videos"
    videos.mkdir(parents=True)
    lines = ["flickr_id,mos"]
    for i in range(count):
        suffix = "_original_centercrop_960x540_8s" if i % 3 == 0 else ""
        frames = moving_bar(6 + i % 5, height=32, width=48) // (1 + i % 3)
        frames[..., 0] = i  # no two files are the same
        write(videos / f"{3000 + i}{suffix}.mp4", frames)
        lines.append(f"{3000 + i},{1 + 4 * i / count:.3f}")
    (videos / "4000.mp4").write_text("no video\n" * 100)
    write(videos / "4001.mp4", moving_bar(1, height=32, width=48))
    shutil.copy(videos / "3004.mp4", videos / "4003.mp4")
    lines += ["4000,3.0", "4001,3.0", "4002,3.0", "3001,2.0", "3002,", "4003,3.0"]
    (folder / "KoNViD_1k_mos.csv").write_text("\n".join(lines) + "\n")
    return folder


def run(source: Path, out: Path, max_failures: int | None = 6) -> decode_set.Collected:
    return decode_set.collect(
        konvid1k.DATASET,
        out,
        source=source,
        label_files=[konvid1k.DATASET.find_labels(source)],
        stream=STREAM,
        workers=2,
        max_failures=max_failures,
    )


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return make_source(tmp_path_factory.mktemp("konvid"), 12)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, source):
    out = tmp_path_factory.mktemp("out") / "data"
    return out, run(source, out)


def test_used_videos_are_records_of_their_frames(source, prepared):
    out, result = prepared
    assert (result.named, result.used) == (18, 12)
    facts, frames = open_records(out, "quality"), open_records(out, "frames")
    listed = read_list(out)
    assert len(facts) == len(listed) == 12 and len({row.digest for row in listed}) == 12
    for i, (fact, row) in enumerate(zip(facts, listed, strict=True)):
        name = fact["video"].decode()
        assert (row.video, row.content, row.part) == (name, fact["content"].decode(), "")
        wanted, _ = read_clip(source / name, 4, "linspace", (24, 32))
        stored = np.stack([frames[4 * i + t]["frame"] for t in range(4)])
        np.testing.assert_array_equal(stored, wanted)
        assert row.content == str(3000 + i)
        assert fact["mos"] == pytest.approx(1 + 4 * i / 12, abs=1e-3)
    assert not (out / "shards").exists()


def test_the_report_names_every_row_and_why_it_is_not_used(prepared):
    out, result = prepared
    with open(out / "report.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 18 and [row["status"] for row in rows[:12]] == ["used"] * 12
    assert all(row["reason"] == "" for row in rows[:12])
    said = [(Path(row["file"]).stem, row["status"], row["reason"]) for row in rows[12:]]
    assert said[0][:2] == ("4000", "unreadable") and said[0][2].startswith("unreadable: FFmpeg")
    assert said[1:] == [
        ("4001", "too short", "too short: it has one frame"),
        ("4002", "missing", "missing: no file of this name"),
        ("3001", "duplicate", "duplicate: same video as row 2"),
        ("3002", "unlabelled", "unlabelled: its MOS is empty"),
        ("4003", "duplicate", "duplicate: the same file as KoNViD_1k_videos/3004.mp4"),
    ]
    kinds = ("unreadable", "too short", "missing", "duplicate", "unlabelled")
    assert result.reasons == {**dict.fromkeys(kinds, 1), "duplicate": 2}


def test_more_than_a_hundredth_fails_and_the_report_stays(tmp_path, source):
    with pytest.raises(CollectError) as error:
        run(source, tmp_path, max_failures=None)
    said = str(error.value)
    assert "6 of 18 videos cannot be used (" in said and "0 may fail" in said
    assert "1 missing" in said and said.startswith(str(tmp_path / "report.csv"))
    assert (tmp_path / "report.csv").exists() and not (tmp_path / "quality").exists()
    # Decoded videos are not decoded again.
    before = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "shards").iterdir()}
    assert len(before) == 13
    assert run(source, tmp_path).used == 12


def test_killed_twice_and_restarted_it_gives_the_same_records(tmp_path, source, prepared):
    kill_and_compare(tmp_path, source, prepared[0], (2, 6))


@pytest.mark.slow
def test_two_hundred_clips_killed_twice(tmp_path):
    source = make_source(tmp_path / "konvid", 200)
    assert run(source, tmp_path / "whole").used == 200
    kill_and_compare(tmp_path, source, tmp_path / "whole", (50, 130))


def kill_and_compare(tmp_path, source, whole, moments):
    """Kills the job at a number of shards, restarts it, and compares with an uninterrupted job."""
    out = tmp_path / "data"
    script = tmp_path / "job.py"
    script.write_text(
        "import sys\nfrom pathlib import Path\nfrom tests.data.test_decode_set import run\n"
        "if __name__ == '__main__':\n    run(Path(sys.argv[1]), Path(sys.argv[2]))\n"
    )
    for shards in moments:
        with subprocess.Popen(
            [sys.executable, str(script), str(source), str(out)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stderr=subprocess.DEVNULL,
        ) as process:
            until = time.monotonic() + 60
            while len(list(out.glob("shards/*.npz"))) < shards:
                assert process.poll() is None and time.monotonic() < until
                time.sleep(0.005)
            os.kill(process.pid, signal.SIGKILL)
        assert not (out / "quality").exists(), "it was over"
    run(source, out)
    files = sorted(p.relative_to(whole) for p in whole.rglob("*") if p.is_file())
    assert files == sorted(p.relative_to(out) for p in out.rglob("*") if p.is_file())
    _, differing, errors = filecmp.cmpfiles(whole, out, [str(f) for f in files], shallow=False)
    assert not differing and not errors


def test_a_label_file_that_was_mended_meanwhile_moves_no_label(tmp_path, source):
    """With one more row at the top, every video keeps its own frames and label."""
    folder = tmp_path / "source"
    shutil.copytree(source, folder)
    out = tmp_path / "data"
    with pytest.raises(CollectError):
        run(folder, out, max_failures=None)
    labels = folder / "KoNViD_1k_mos.csv"
    header, *rows = labels.read_text().splitlines()
    kept = [row for row in rows if row[:4] in {str(3000 + i) for i in range(2, 12)}][:10]
    labels.write_text("\n".join([header, "3001,4.5", *kept]) + "\n")
    assert run(folder, out, max_failures=None).used == 11
    facts, frames = open_records(out, "quality"), open_records(out, "frames")
    for i, fact in enumerate(facts):
        wanted, _ = read_clip(folder / fact["video"].decode(), 4, "linspace", (24, 32))
        np.testing.assert_array_equal(frames[4 * i]["frame"], wanted[0])
        number = int(fact["content"]) - 3000
        mos = 4.5 if number == 1 else 1 + 4 * number / 12
        assert fact["mos"] == pytest.approx(mos, abs=1e-3)


def test_several_label_files_are_one_set(tmp_path, source):
    halves = []
    header, *rows = (source / "KoNViD_1k_mos.csv").read_text().splitlines()
    for name, half in (("a.csv", rows[:5]), ("b.csv", rows[4:12])):
        halves.append(tmp_path / name)
        halves[-1].write_text("\n".join([header, *half]) + "\n")
    collected = decode_set.collect(
        konvid1k.DATASET,
        tmp_path / "set",
        source=source,
        label_files=halves,
        stream=STREAM,
        workers=1,
        max_failures=1,
    )
    assert (collected.named, collected.used) == (13, 12)
    assert collected.reasons == {"duplicate": 1}  # row 5 is in both files


def dies_of_two(video: int, shard: Path) -> str:
    if video in (3, 11):
        os.kill(os.getpid(), signal.SIGSEGV)  # as a decoder that is led astray does
    shard.write_text(str(video))
    return "" if video % 5 else "unreadable: a fifth"


def test_a_file_that_crashes_its_process_costs_only_itself(tmp_path, monkeypatch):
    monkeypatch.setattr(decode_set, "_shard", lambda home, video: home / f"{video}.npz")
    told = decode_set._decode_all(list(range(16)), [""] * 16, dies_of_two, tmp_path, 2)
    crashed = "unreadable: it crashed the process that decoded it"
    wanted = ["" if i % 5 else "unreadable: a fifth" for i in range(16)]
    assert told == [crashed if i in (3, 11) else reason for i, reason in enumerate(wanted)]
