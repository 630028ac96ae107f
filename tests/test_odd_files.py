"""Files of the kinds that the world makes, through every command that takes them."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from dagr_jax import cli
from dagr_jax.data.prepare import open_records
from dagr_jax.video.decode import decode_frames, probe, timed_frames
from dagr_jax.video.inputs import InputSpec, Resize, Stream
from dagr_jax.video.live import Feed, Window
from tests import odd_files
from tests.odd_files import KINDS, Odd, encrypted, number_of
from tests.report.pages import data_of
from tests.scoring import make_bad
from tests.video.clips import moving_bar, write

# Every frame at its own size, so that its number can be read.
EVERY = InputSpec({"every": Stream("all", 0, Resize((odd_files.HEIGHT, odd_files.WIDTH)), chunk=8)})


@pytest.fixture(scope="module")
def odd(tmp_path_factory) -> dict[str, Odd]:
    """Kind → a file of this kind."""
    home = tmp_path_factory.mktemp("odd")
    found = {}
    for kind, make in KINDS.items():
        (home / kind).mkdir()
        found[kind] = make(home / kind)
    return found


def numbers(frames, file: Odd) -> list[int]:
    return [number_of(np.rot90(one, -1) if file.turned else one) for one in frames]


@pytest.mark.parametrize("kind", KINDS)
def test_frames_and_their_times(odd, kind):
    """The frames are in their order, each once, when a player shows them."""
    file = odd[kind]
    assert numbers(decode_frames(file.path, np.arange), file) == file.numbers
    times, shown = zip(*timed_frames(file.path), strict=True)
    assert numbers(shown, file) == file.numbers
    assert times[0] == pytest.approx(file.begin, abs=0.01) and (np.diff(times) >= 0).all()
    info = probe(file.path)
    # Matroska rounds times to milliseconds; the last interval is the usual one.
    assert info.duration == pytest.approx(file.seconds, abs=0.02)
    assert info.fps == pytest.approx(25, rel=0.03)
    assert file.notes in info.notes and bool(file.notes) == bool(info.notes)
    assert (info.width > info.height) != file.turned


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"late_picture", "unknown_matrix"}))
def test_live_windows(odd, kind):
    """Cut by time: together they show every frame, in order. (An .mp4 cannot be read live.)"""
    file = odd[kind]
    seen: list[int] = []
    ends = [0.0]
    for window in Feed(str(file.path), EVERY, 0.4, every=True, patience=0.1):
        assert isinstance(window, Window) and window.start == ends[-1]
        ends.append(window.end)
        pieces = [one.frames for one in window.pictures if hasattr(one, "frames")]
        seen += [number_of(frame) for frames in pieces for frame in frames]
        assert sum(map(len, pieces)) == window.frames > 0
    if not file.turned:  # a turned picture is squeezed to this size
        assert seen == file.numbers[: len(seen)]
    assert len(ends) - 1 == int(file.seconds / 0.4 + 0.05)


@pytest.fixture(scope="module")
def scored(odd, checkpoint, tmp_path_factory):
    """(rows by kind, page, folder of overlays) of one call with all files."""
    home = tmp_path_factory.mktemp("scored")
    files = [str(file.path) for file in odd.values()]
    call = ["score", *files, "--checkpoint", str(checkpoint), "--segments", "0.8"]
    call += ["--out", str(home / "rows.json"), "--workers", "2"]
    assert cli.main([*call, "--page", str(home / "p.html"), "--overlay", str(home / "o")]) == 0
    rows = json.loads((home / "rows.json").read_text())
    return dict(zip(odd, rows, strict=True)), home / "p.html", home / "o"


@pytest.mark.parametrize("kind", KINDS)
def test_scores_and_segments(odd, scored, kind):
    file, row = odd[kind], scored[0][kind]
    assert row["total_frames"] == len(file.numbers)
    assert file.notes in row["notes"] and bool(file.notes) == bool(row["notes"])
    starts, ends = zip(*((s["start"], s["end"]) for s in row["segments"]), strict=True)
    assert starts[0] == pytest.approx(file.begin, abs=0.01) and starts[1:] == ends[:-1]
    assert ends[-1] == pytest.approx(file.begin + file.seconds, abs=0.02)
    assert len(starts) == max(round(file.seconds / 0.8), 1)


@pytest.mark.parametrize("kind", KINDS)
def test_page_and_overlay_have_the_clock_of_the_player(odd, scored, kind):
    file, (_, page, overlays) = odd[kind], scored
    entry = next(one for one in data_of(page)["files"] if one["row"]["file"] == str(file.path))
    seconds = entry["maps"]["saliency"]["seconds"]
    assert min(seconds) == pytest.approx(file.begin, abs=0.01)
    assert max(seconds) < file.begin + file.seconds
    copies = [overlays / f"{file.path.name}.mp4"]
    if entry.get("proxy"):
        copies.append(page.parent / entry["link"])
        assert numbers(decode_frames(copies[-1], np.arange), file) == file.numbers
    for copy in copies:
        times = [seconds for seconds, _ in timed_frames(copy)]
        assert len(times) == len(file.numbers)
        assert times[0] == pytest.approx(file.begin, abs=0.03)
        assert probe(copy).duration == pytest.approx(file.seconds, abs=0.05)


def test_prepared_records(odd, tmp_path):
    """The frames of each file are stored, and a file that cannot be used costs only itself."""
    source = tmp_path / "source"
    source.mkdir()
    flat = {kind: file for kind, file in odd.items() if not file.turned}
    for kind, file in flat.items():
        shutil.copy(file.path, source / f"{kind}{file.path.suffix}")
    shutil.copy(encrypted(tmp_path), source / "encrypted.mp4")
    names = sorted(path.name for path in source.iterdir())
    (source / "labels.csv").write_text("video,mos\n" + "".join(f"{n},3\n" for n in names))
    call = ["prepare", "folder", "--source", str(source), "--out", str(tmp_path / "set")]
    call += ["--frames", "5", "--size", str(odd_files.HEIGHT), str(odd_files.WIDTH)]
    assert cli.main([*call, "--max-failures", "0"]) == 1  # and nothing is decoded twice
    assert cli.main([*call, "--max-failures", "1"]) == 0
    report = {row["file"]: row for row in csv.DictReader((tmp_path / "set/report.csv").open())}
    assert "100% of its pictures are damaged" in report.pop("encrypted.mp4")["reason"]
    assert {row["status"] for row in report.values()} == {"used"}
    names = [record["video"].decode() for record in open_records(tmp_path / "set", "quality")]
    stored = [number_of(record["frame"]) for record in open_records(tmp_path / "set", "frames")]
    found = {Path(name).stem: stored[5 * i : 5 * i + 5] for i, name in enumerate(names)}
    for kind, file in flat.items():
        chosen = np.arange(5) * (len(file.numbers) - 1) // 4
        assert found[kind] == [file.numbers[i] for i in chosen], kind
    assert "encrypted" not in found


@pytest.mark.slow
def test_sixty_good_files_with_bad_ones_among_them(checkpoint, tmp_path, capsys):
    """60 right rows, one error for each bad file, exit code 1; on the page and in prepare too."""
    source = tmp_path / "source"
    source.mkdir()
    bad = make_bad(source)
    shutil.copy(encrypted(tmp_path), source / "encrypted.mp4")
    bad["encrypted.mp4"] = "frames of 160 x 96 are more than 10000 pixels"
    for i in range(60):
        frames = moving_bar(8 + i % 5) // (1 + i % 3)
        frames[..., 0] = i  # no two files are the same
        write(source / f"good{i:02d}.mp4", frames)
    names = sorted([*bad, *(f"good{i:02d}.mp4" for i in range(60))])
    files = [str(source / name) for name in names]
    call = ["score", *files, "--checkpoint", str(checkpoint), "--max-pixels", "10000"]
    call += ["--max-seconds", "3", "--workers", "2", "--format", "json"]
    assert cli.main([*call, "--page", str(tmp_path / "p.html")]) == 1
    rows = json.loads(capsys.readouterr().out)
    assert [Path(row["file"]).name for row in rows] == names
    for row, shown in zip(rows, data_of(tmp_path / "p.html")["files"], strict=True):
        name = Path(row["file"]).name
        assert ("error" in row) == (name in bad) == ("error" in shown["row"])
        assert bad.get(name, "") in row.get("error", "")
        assert name in bad or np.isfinite(row["score"])
    lines = "".join(f"{name},3\n" for name in names)
    (source / "labels.csv").write_text("video,mos\n" + lines)
    call = ["prepare", "folder", "--source", str(source), "--out", str(tmp_path / "set")]
    call += ["--frames", "4", "--size", "24", "32"]
    assert cli.main(call) == 1  # by default, one in a hundred may fail
    assert cli.main([*call, "--max-failures", str(len(bad))]) == 0
    report = {row["file"]: row for row in csv.DictReader((tmp_path / "set/report.csv").open())}
    used = {name for name, row in report.items() if row["status"] == "used"}
    assert used == set(names) - set(bad) | {"large.mp4", "long.mp4"}  # prepare has no limits
