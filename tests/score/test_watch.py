"""`dagr watch` on the command line."""

import json
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime

import pytest

from dagr_jax import cli
from tests.programs import ROOT, lines
from tests.video.clips import moving_bar, remux, write


@pytest.fixture(scope="module")
def stream(tmp_path_factory):
    """100 frames at 25 fps, as MPEG-TS."""
    home = tmp_path_factory.mktemp("watch")
    return remux(write(home / "clip.mp4", moving_bar(100), g="10", bf="0"), home / "clip.ts")


def test_scores_are_those_of_segments(checkpoint, scorer, stream, capsys):
    call = ["watch", str(stream), "--checkpoint", str(checkpoint), "--window", "0.8", "--every"]
    begin = time.time()
    assert cli.main([*call, "--timeout", "0.1"]) == 0
    told = capsys.readouterr()
    rows = [json.loads(line) for line in told.out.splitlines()]
    wanted = scorer.score(stream, segments=0.8)
    assert [row["score"] for row in rows] == [segment.score for segment in wanted.segments]
    assert [row["end"] for row in rows] == [segment.end for segment in wanted.segments]
    for number, row in enumerate(rows):
        assert row["window"] == number and row["source"] == str(stream)
        assert row["mos"] == pytest.approx(1 + row["score"] / 100 * 4)
        assert 0 <= row["lag"] < 60 and row["checkpoint"] == scorer.digest
        assert begin - 1 < datetime.fromisoformat(row["time"]).timestamp() < time.time() + 1
        assert datetime.fromisoformat(row["time"]).tzinfo == UTC
    assert told.err == "dagr: 5 windows scored, 0 dropped\n"


def start(checkpoint, out, *more):
    command = [sys.executable, "-m", "dagr_jax.cli", "watch", "-", "--checkpoint", str(checkpoint)]
    return subprocess.Popen(
        [*command, *more],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=open(out, "wb"),
        stderr=subprocess.PIPE,
    )


def test_a_pipe_in_real_time(checkpoint, stream, tmp_path):
    """Four seconds of video in real time: one line per window as it arrives, and a clean end."""
    data, out = stream.read_bytes(), tmp_path / "rows"
    with start(checkpoint, out, "--window", "0.5") as program:
        program.stdin.write(data[:5000])
        program.stdin.flush()
        pieces = range(5000, len(data), len(data) // 40)
        for place in pieces:
            time.sleep(0.1)
            program.stdin.write(data[place : place + len(data) // 40])
            program.stdin.flush()
        program.stdin.close()
        errors = program.stderr.read().decode()
        assert program.wait(timeout=120) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert rows[-1]["window"] + 1 == 8 == len(rows) + rows[-1]["dropped"]
    assert f"dagr: {len(rows)} windows scored, {rows[-1]['dropped']} dropped" in errors


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_it_can_be_stopped(checkpoint, stream, tmp_path, stop):
    out = tmp_path / "rows"
    with start(checkpoint, out, "--window", "0.5") as program:
        program.stdin.write(stream.read_bytes())
        program.stdin.flush()  # stdin stays open
        until = time.monotonic() + 120
        while lines(out) < 1:
            assert program.poll() is None and time.monotonic() < until
            time.sleep(0.02)
        os.kill(program.pid, stop)
        errors = program.stderr.read().decode()
        assert program.wait(timeout=60) == 0
    assert errors.startswith("dagr: ") and "windows scored" in errors and "Traceback" not in errors
    for line in out.read_text().splitlines():
        json.loads(line)


def test_what_cannot_be_watched(checkpoint, tmp_path, capsys):
    path = tmp_path / "text.ts"
    path.write_text("no video")
    call = ["watch", str(path), "--checkpoint", str(checkpoint), "--timeout", "0.1"]
    assert cli.main(call) == 1
    told = capsys.readouterr()
    assert not told.out and told.err.count("\n") == 1
    assert told.err.startswith(f"dagr: {path}: FFmpeg cannot read it")
    assert cli.main([*call[:2], "--checkpoint", str(tmp_path)]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(SystemExit):
        cli.main([*call, "--window", "0"])
