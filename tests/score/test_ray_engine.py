"""Scoring on a Ray cluster, which each test starts on this machine."""

import json
import os
import signal
import sys
from pathlib import Path

import pytest

from dagr_jax import cli
from tests.programs import lines, started, wait_for
from tests.scoring import make_hundred, steady

pytest.importorskip("ray")
pytestmark = pytest.mark.ray


def workers(program) -> set[int]:
    """Returns the actor processes of a program's cluster."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if not (folder / "cmdline").read_bytes().startswith((b"ray::MapW", b"ray::_MapW")):
                continue
            parent = int(folder.name)
            while parent not in (0, program.pid):
                stat = Path(f"/proc/{parent}/stat").read_text()
                parent = int(stat.rpartition(")")[2].split()[1])
        except OSError:  # the process has just ended
            continue
        if parent == program.pid:
            found.add(int(folder.name))
    return found


def test_a_hundred_clips_on_two_workers_of_which_one_is_killed(checkpoint, tmp_path, capsys):
    home = tmp_path / "in"
    home.mkdir()
    names, bad = make_hundred(home)
    asked = tmp_path / "list.txt"
    asked.write_text("\n".join(names))
    call = ["score", f"@{asked}", "--checkpoint", str(checkpoint), "--format", "jsonl"]
    call += ["--segments", "0.1", "--max-pixels", "10000", "--max-seconds", "3"]
    assert cli.main(call) == 1
    wanted = [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    log, out = tmp_path / "program.log", tmp_path / "program.out"
    command = [sys.executable, "-m", "dagr_jax.cli", *call, "--engine", "ray", "--workers", "2"]
    with started(command, os.environ, log) as program:
        wait_for(program, lambda: lines(out) > 0 and len(workers(program)) == 2)
        before = workers(program)
        os.kill(min(before), signal.SIGKILL)
        wait_for(program, lambda: len(workers(program) - before) == 1)  # a new one in its place
        assert program.wait(timeout=300) == 1
        assert not workers(program)
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["file"] for row in found] == names
    assert steady(found) == steady(wanted)
    told = log.read_text().splitlines()
    assert told[-11] == "dagr: 10 of 100 could not be scored:" and len(bad) == 10
    assert all(line.startswith("dagr: ") for line in told[-10:])
    assert sum("worker died" in line for line in told) == 1  # printed by Ray


def test_names_and_pages_are_as_without_it(checkpoint, tmp_path, clips, capsys):
    """Relative names, and a name that is not UTF-8."""
    odd = os.fsencode(tmp_path) + b"/\xff .mp4"
    Path(os.fsdecode(odd)).write_bytes(Path(clips[0]).read_bytes())
    names = [os.fsdecode(odd), os.path.relpath(clips[1]), "gone.mp4"]
    rows = {}
    for engine in ("local", "ray"):
        call = ["score", *names, "--checkpoint", str(checkpoint), "--engine", engine]
        call += ["--workers", "2", "--page", str(tmp_path / f"{engine}.html"), "--format", "json"]
        assert cli.main(call) == 1
        rows[engine] = json.loads(capsys.readouterr().out)
    assert [row["file"] for row in rows["ray"]] == names
    assert steady(rows["ray"]) == steady(rows["local"])
    assert (tmp_path / "ray.html").exists()
