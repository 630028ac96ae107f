"""`dagr score` on the command line."""

import contextlib
import csv
import io
import json
import os
import pty
import signal
import socket
import subprocess
import sys
import termios
import types
from pathlib import Path

import pytest

from dagr_jax import cli
from tests.programs import ROOT, lines
from tests.scoring import make_hundred, steady


def run(capsys, *arguments):
    """(exit code, stdout, lines of stderr) of `dagr score`."""
    code = cli.main(["score", *map(str, arguments)])
    told = capsys.readouterr()
    return code, told.out, told.err.splitlines()


def of_csv(text):
    """Returns rows of a CSV file in the form of the JSON rows, without empty cells."""
    rows = []
    for line in csv.DictReader(io.StringIO(text)):
        row = {key: value for key, value in line.items() if value != ""}
        for key, value in row.items():
            if key not in ("file", "error", "checkpoint", "version"):
                try:
                    row[key] = json.loads(value)
                except ValueError:
                    row[key] = value
        rows.append(row)
    return rows


@pytest.mark.slow
def test_a_hundred_clips_of_which_ten_are_bad(checkpoint, scorer, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkdir("in")
    names, bad = make_hundred(Path("in"))
    Path("list.txt").write_text("\n".join(names))
    limits = ["--max-pixels", 10_000, "--max-seconds", 3]
    rows = {}
    for form in ("json", "jsonl", "csv"):
        options = ["--format", form, "--out", f"rows.{form}", "--workers", 3]
        code, out, err = run(capsys, "@list.txt", "--checkpoint", checkpoint, *limits, *options)
        assert code == 1 and Path(f"rows.{form}").read_text() == out
        assert err[0] == "dagr: 10 of 100 could not be scored:" and len(err) == 11
        read = {"json": json.loads, "jsonl": lambda t: list(map(json.loads, t.splitlines()))}
        rows[form] = read.get(form, of_csv)(out)
        assert [row["file"] for row in rows[form]] == names
    for row in rows["json"]:
        if Path(row["file"]).name not in bad:
            assert row["score"] == scorer.score(row["file"]).score and "error" not in row
        else:
            assert row.keys() == {"file", "error"}
            assert row["error"].startswith(f"{row['file']}: {bad[Path(row['file']).name]}")
            assert "\n" not in row["error"] and "; " in row["error"]
    assert steady(rows["json"]) == steady(rows["jsonl"]) == steady(rows["csv"])
    assert sorted(os.listdir()) == ["in", "list.txt", "rows.csv", "rows.json", "rows.jsonl"]


def test_a_table_for_people(checkpoint, clips, tmp_path, capsys):
    code, out, err = run(capsys, clips[0], "--checkpoint", checkpoint, "--segments", 0.4)
    head, row, legend = out.splitlines()
    assert code == 0 and not err and "\r" not in out
    assert head.split()[:4] == ["file", "score", "mos", "worst"] and " at 0" in row
    assert legend.startswith("score: 0-100, not clipped. mos: on the scale 1-5 of 'made-up'")
    code, out, err = run(capsys, tmp_path / "a.mp4", "--checkpoint", checkpoint)
    assert code == 1 and out.splitlines()[1].endswith("there is no such file; check the path")
    assert err[-1] == f"dagr: {tmp_path}/a.mp4: there is no such file; check the path"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--resume"],
        ["--batch-size", "0"],
        ["--segments", "-1"],
        ["--timeout", "0"],
        ["--out", "rows.exe"],
        ["@gone.txt"],
    ],
)
def test_usage(checkpoint, capsys, arguments):
    with pytest.raises(SystemExit) as stop:
        run(capsys, "a.mp4", *arguments, "--checkpoint", checkpoint)
    assert stop.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("dagr: error: score: ") or (
        arguments[0] == "--out"
    )


def test_ray_that_is_not_installed(checkpoint, clips, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    code, out, err = run(capsys, clips[0], "--checkpoint", checkpoint, "--engine", "ray")
    assert (code, out) == (1, "")
    assert err == ["dagr: --engine ray: Ray is not installed; pip install 'dagr-jax[ray]'"]


def test_a_ray_cluster_that_is_not_there(checkpoint, clips, capsys, monkeypatch):
    for name in ("ray", "ray.data"):  # is not used
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    call = [clips[0], "--checkpoint", checkpoint, "--engine", "ray", "--ray-address", address]
    code, out, err = run(capsys, *call)
    assert (code, out) == (1, "") and len(err) == 1
    assert err[0].startswith(f"dagr: --engine ray: no cluster answers at {address}; ")


def begun(checkpoint, out, *more):
    """Starts a `dagr score` that reads names from stdin."""
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "dagr_jax.cli", "score", "-", "--format", "jsonl"),
            *("--checkpoint", str(checkpoint), "--out", str(out), "--workers", "1", *more),
        ],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_call_goes_on(checkpoint, clips, tmp_path, capsys, stop):
    """Stopped after the third of five files; the second call reuses these three rows."""
    out, partial = tmp_path / "rows.json", tmp_path / "rows.json.partial"
    gone = str(tmp_path / "gone.mp4")
    first = begun(checkpoint, out)
    first.stdin.write("".join(f"{clip}\n" for clip in [*clips[:3], gone]))
    first.stdin.flush()
    printed = [first.stdout.readline() for _ in range(4)]
    first.send_signal(stop)
    _, told = first.communicate(timeout=60)
    assert lines(partial) == 4 and not out.exists()
    if stop == signal.SIGINT:
        assert first.returncode == 130
        wanted = "dagr: interrupted after 4; continue with the same command and --resume"
        assert told.splitlines()[-1] == wanted and "Traceback" not in told

    code, _, err = run(capsys, *clips, "--checkpoint", checkpoint, "--out", out)
    assert code == 2 and "continue with --resume, or delete it" in err[0]
    other = ["--checkpoint", checkpoint, "--out", out, "--resume", "--segments", 1]
    code, _, err = run(capsys, *clips, *other)
    assert code == 2 and "another checkpoint or other options" in err[0]

    with partial.open("a") as stream:
        stream.write('["cut off')
    Path(gone).write_bytes(Path(clips[0]).read_bytes())
    names = [*clips[:3], gone, *clips[3:]]
    code, *_ = run(capsys, *names, "--checkpoint", checkpoint, "--out", out, "--resume")
    rows = json.loads(out.read_text())
    assert code == 0 and not partial.exists()
    assert rows[:3] == [json.loads(line) for line in printed[:3]]  # including the seconds
    assert rows[3]["score"] == rows[0]["score"]  # a failure is retried
    code, text, _ = run(capsys, *names, "--checkpoint", checkpoint, "--format", "json")
    assert steady(json.loads(text)) == steady(rows)


def test_a_changed_file_is_scored_again(checkpoint, clips, tmp_path, capsys):
    clip, out = tmp_path / "clip.mp4", tmp_path / "rows.jsonl"
    clip.write_bytes(Path(clips[0]).read_bytes())
    first = begun(checkpoint, out)
    first.stdin.write(f"{clip}\n")
    first.stdin.flush()
    old = json.loads(first.stdout.readline())
    first.kill()
    first.communicate()
    clip.write_bytes(Path(clips[1]).read_bytes())
    assert run(capsys, clip, "--checkpoint", checkpoint, "--out", out, "--resume")[0] == 0
    assert json.loads(out.read_text())["score"] != old["score"]


def test_a_full_disk_is_one_line_and_loses_nothing(checkpoint, clips, tmp_path):
    """A limit on the file size looks like a full disk to the program."""
    out = tmp_path / "rows.csv"
    code = (
        "import resource, signal, sys; from dagr_jax import cli\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2500, 2500))\n"
        f"sys.exit(cli.main(['score', *{clips!r}, '--checkpoint', {str(checkpoint)!r}, "
        f"'--out', {str(out)!r}, '--format', 'jsonl']))"
    )
    # The compilation cache is off: it could not be written, and JAX would warn.
    environment = {**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith(f"dagr: {out}: File too large; raise ")
    assert not out.exists() and 2 <= lines(tmp_path / "rows.csv.partial") < 6


def test_a_reader_of_the_pipe_that_leaves_is_no_error(checkpoint, clips):
    program = [sys.executable, "-m", "dagr_jax.cli", "score", *clips]
    program += ["--checkpoint", str(checkpoint), "--format", "jsonl"]
    with subprocess.Popen(
        program, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""


def test_progress_is_for_terminals(checkpoint, clips):
    """On a terminal stderr shows a bar with rate and remaining time; otherwise nothing."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    program = [sys.executable, "-m", "dagr_jax.cli", "score", *clips]
    program += ["--checkpoint", str(checkpoint), "--format", "csv"]
    done = subprocess.Popen(program, cwd=ROOT, stdout=subprocess.PIPE, stderr=theirs)
    printed, _ = done.communicate(timeout=120)
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError), open(ours, "rb", buffering=0) as screen:
        while more := screen.read(1000):
            shown += more
    shown = shown.decode()
    assert "5/5" in shown and "video/s" in shown.replace("s/video", "video/s")
    assert len(printed.splitlines()) == 6
