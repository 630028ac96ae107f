"""A run that is killed in every stage, or stopped by Ctrl-C, ends with identical results."""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from dagr_jax.train.checkpoints import load_variables
from tests.programs import QUICK_COMPILE, lines, started, wait_for
from tests.train.tiny import same_bits

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """One compilation cache for all runs, because nearly all of their time is compilation."""
    return {
        **os.environ,
        "XLA_FLAGS": QUICK_COMPILE,  # one device, as for users
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("cache")),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }


@contextlib.contextmanager
def program(workdir: Path, environment: dict[str, str]) -> Iterator[subprocess.Popen]:
    """Starts a tiny run with a Grain worker, as leader of its own process group."""
    command = [
        *(sys.executable, "-m", "dagr_jax.main", "--config=tests/tiny_run.py"),
        *(f"--workdir={workdir}", "--config.workers=1"),
        *("--config.saliency.steps=12", "--config.vqa.steps=16"),
    ]
    with started(command, environment, workdir.with_suffix(".log")) as process:
        yield process


def finish(workdir: Path, environment: dict[str, str]) -> None:
    with program(workdir, environment) as process:
        assert process.wait(timeout=600) == 0, workdir.with_suffix(".log").read_text()[-2000:]


def members(group: int) -> list[int]:
    """Returns the processes of a group that are alive (not zombies)."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(fields[2]) == group and fields[0] != "Z":
                    found.append(int(entry.name))
    return found


def count(workdir: Path, pattern: str) -> int:
    return sum(1 for _ in workdir.glob(pattern))


@pytest.fixture(scope="module")
def whole(environment, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole") / "run"
    finish(workdir, environment)
    return workdir


def assert_same_run(workdir: Path, whole: Path) -> None:
    for name in ("test/predictions.csv", "test/metrics.json", "data/labels.csv"):
        assert (workdir / name).read_bytes() == (whole / name).read_bytes(), name
    for stage in ("saliency", "vqa"):
        ours, theirs = load_variables(workdir / stage), load_variables(whole / stage)
        assert same_bits(ours[0], theirs[0]) and ours[1] == theirs[1]
        steps = [sorted(p.name for p in (run / stage).iterdir()) for run in (workdir, whole)]
        assert steps[0] == steps[1]  # no leftover files either
    assert not list(workdir.glob(".*")) and not list(workdir.glob("*/.*.partial*"))


def test_killed_inside_every_stage_and_restarted(whole, environment, tmp_path):
    workdir = tmp_path / "run"
    draw = random.Random(3)
    videos, steps, shards = draw.randint(5, 40), draw.randint(3, 10), draw.randint(1, 20)
    later, delay = draw.randint(3, 14), draw.uniform(0, 1)
    log = workdir.with_suffix(".log")
    points = {
        "prepare": lambda: count(workdir, ".data.partial/videos/*.mp4") >= videos,
        "saliency": lambda: lines(workdir / "saliency" / "log.jsonl") >= steps,
        "maps": lambda: count(workdir, ".maps.partial/*.npz") >= shards,
        "vqa": lambda: lines(workdir / "vqa" / "log.jsonl") >= later,
        "test": lambda: "[vqa]" in log.read_text(),
    }
    for stage, reached in points.items():
        with program(workdir, environment) as process:
            wait_for(process, reached)
            if stage == "test":
                time.sleep(delay)
            os.kill(process.pid, signal.SIGKILL)  # only the program, not its workers
            process.wait()
            artifact = {"prepare": "data"}.get(stage, stage)
            if stage in ("prepare", "maps", "test"):
                assert not (workdir / artifact).exists(), f"{stage} was over"
            else:
                assert f"[{stage}]" not in log.read_text(), f"{stage} was over"
            # Workers must end by themselves, so that none writes to the files of the next run.
            until = time.monotonic() + 20
            while members(process.pid):
                assert time.monotonic() < until, (stage, members(process.pid))
                time.sleep(0.05)
    finish(workdir, environment)
    assert_same_run(workdir, whole)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_the_step_that_is_done(whole, environment, tmp_path, number):
    workdir = tmp_path / "run"
    log = workdir.with_suffix(".log")
    for stage in ("data", "saliency", "maps"):  # finished in the whole run
        shutil.copytree(whole / stage, workdir / stage)
    with program(workdir, environment) as process:
        wait_for(process, lambda: lines(workdir / "vqa" / "log.jsonl") >= 5)
        # A terminal sends Ctrl-C to the whole group; a scheduler may also send SIGTERM to it.
        os.killpg(process.pid, number)
        assert process.wait(timeout=60) == 130
    said = log.read_text().strip().splitlines()
    assert said[-1].startswith("vqa: interrupted, saved at step ")
    assert said[-1].endswith("; run the same command again to continue")
    assert not any("Traceback" in line for line in said)
    done = int(said[-1].split("step ")[1].split("/")[0])
    assert max(int(p.name) for p in (workdir / "vqa").iterdir() if p.name.isdigit()) == done
    finish(workdir, environment)
    predictions = [run / "test" / "predictions.csv" for run in (workdir, whole)]
    assert predictions[0].read_bytes() == predictions[1].read_bytes()
    assert same_bits(load_variables(workdir)[0], load_variables(whole)[0])
    assert np.isfinite(load_variables(workdir)[1]["metrics"]["srcc"])
