"""A model that this repository does not know: every command works on it, by its contract alone."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from .programs import QUICK_COMPILE, ROOT, lines, started, wait_for
from .video.clips import remux

PLUGIN = Path(__file__).parent / "plugin"
CONFIG = str(PLUGIN / "toy_config.py")


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """Environment of a process in which the package of the model is installed."""
    site = tmp_path_factory.mktemp("site")
    shutil.copy(PLUGIN / "dagr_toy.py", site)
    about = site / "dagr_toy-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: dagr-toy\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[dagr_jax.models]\ntoy = dagr_toy\n")
    path = os.pathsep.join(filter(None, [str(site), str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": QUICK_COMPILE}


def program(environment, *arguments):
    """What a process prints to stdout."""
    done = subprocess.run(
        [sys.executable, "-m", *map(str, arguments)],
        cwd=ROOT, env=environment, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def dagr(environment, *arguments):
    return program(environment, "dagr_jax.cli", *arguments)


@pytest.fixture(scope="module")
def run(environment, tmp_path_factory):
    """A finished run of the toy model, killed once in the midst of training."""
    workdir = tmp_path_factory.mktemp("toy") / "run"
    command = ["dagr_jax.main", f"--config={CONFIG}", f"--workdir={workdir}"]
    log = workdir / "train" / "log.jsonl"
    with started(
        [sys.executable, "-m", *command], environment, workdir.parent / "killed.log"
    ) as process:
        wait_for(process, lambda: lines(log) >= 3)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert not (workdir / "test").exists()
    program(environment, *command)
    return workdir


@pytest.fixture(scope="module")
def clips(run):
    return sorted((run / "data" / "videos").glob("*.mp4"))[:2]


def test_a_killed_run_ends_as_an_uninterrupted_one(run, environment, tmp_path):
    whole = tmp_path / "whole"
    program(
        environment, "dagr_jax.main", f"--config={CONFIG}", f"--workdir={whole}",
        f"--config.data_dir={run / 'data'}",
    )  # fmt: skip
    for name in ("test/predictions.csv", "split.csv"):
        assert (whole / name).read_bytes() == (run / name).read_bytes()
    assert lines(whole / "train" / "log.jsonl") == lines(run / "train" / "log.jsonl") == 12


def test_what_a_run_leaves(run):
    assert {"config.json", "data", "edges", "report.html", "split.csv", "test", "train"} <= {
        path.name for path in run.iterdir()
    }
    found = json.loads((run / "test" / "metrics.json").read_text())
    assert found["n"] == 15 and "baselines" in found
    report = (run / "report.html").read_text()
    assert "toy, synthetic, seed 0" in report and "edges" in report


def test_the_command_lists_it(environment):
    assert "toy: Toy (2026)" in dagr(environment, "models")
    names = [row["name"] for row in json.loads(dagr(environment, "models", "--format", "json"))]
    assert names == ["toy", "dagr"] or names == ["dagr", "toy"]


def test_files_are_scored_as_the_test_stage_scores_them(run, clips, environment):
    with open(run / "test" / "predictions.csv", newline="") as stream:
        tested = {row["video"]: float(row["prediction"]) for row in csv.DictReader(stream)}
    videos = [run / "data" / "videos" / name for name in tested]
    rows = json.loads(dagr(environment, "score", *videos, "--checkpoint", run, "--format", "json"))
    for row in rows:
        # The stored stream is float32, the batch another: rounding alone.
        assert row["mos"] == pytest.approx(tested[Path(row["file"]).name], abs=1e-5)
        assert (row["model"], row["frames"]) == ("toy", 5)


def test_segments_page_and_overlay(run, clips, environment, tmp_path):
    page, overlay = tmp_path / "page.html", tmp_path / "overlay"
    text = dagr(
        environment, "score", *clips, "--checkpoint", run, "--segments", "0.2",
        "--page", page, "--overlay", overlay, "--format", "json",
    )  # fmt: skip
    for row in json.loads(text):
        assert len(row["segments"]) == 2 and row["worst"]["score"] <= row["segments"][0]["score"]
    data = json.loads(re.search(r'id="data">(.*?)</script>', page.read_text(), re.S)[1])
    assert data["maps"]["edges"]["meaning"] == "where neighbouring pixels differ"
    for file in data["files"]:
        assert list(file["maps"]) == ["edges"]
        assert len(file["maps"]["edges"]["seconds"]) == 2 * 5
    assert len(list(overlay.glob("*.mp4"))) == len(list(overlay.glob("*.png"))) == 2


def test_live_video(run, clips, environment, tmp_path):
    stream = remux(clips[0], tmp_path / "live.ts")  # which can be read without its end
    command = ["watch", stream, "--checkpoint", run, "--window", "0.2", "--every"]
    rows = [json.loads(line) for line in dagr(environment, *command).splitlines()]
    assert [row["window"] for row in rows] == [0, 1] and all(row["score"] for row in rows)


def test_evaluation_on_a_prepared_set(run, environment, tmp_path):
    dagr(environment, "evaluate", run / "data", "--checkpoint", run, "--workdir", tmp_path / "e")
    with open(tmp_path / "e" / "data" / "predictions.csv", newline="") as stream:
        others = {row["video"]: float(row["prediction"]) for row in csv.DictReader(stream)}
    with open(run / "test" / "predictions.csv", newline="") as stream:
        own = {row["video"]: float(row["prediction"]) for row in csv.DictReader(stream)}
    assert others.keys() == own.keys()  # all that the run has neither trained nor validated on
    np.testing.assert_allclose(list(others.values()), list(own.values()), atol=1e-6)


@pytest.mark.ray
def test_the_same_rows_from_a_cluster(run, clips, environment):
    pytest.importorskip("ray")
    command = ["score", *clips, "--checkpoint", run, "--format", "json"]
    ours = json.loads(dagr(environment, *command))
    theirs = json.loads(dagr(environment, *command, "--engine", "ray", "--workers", "1"))
    assert [row["score"] for row in ours] == [row["score"] for row in theirs]


def test_nothing_in_the_package_names_it():
    for path in (ROOT / "dagr_jax").rglob("*.py"):
        assert "toy" not in re.findall(r"\w+", path.read_text().lower()), path
