"""A model that this repository does not know: every command works on it, by its contract alone."""

import contextlib
import csv
import io
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

from dagr_jax import cli, registry, stages
from dagr_jax.models.contract import Outputs
from dagr_jax.runtime.errors import DagrError
from dagr_jax.stages.start import check_outputs

from .programs import QUICK_COMPILE, ROOT, install, lines, started, wait_for
from .video.clips import remux

PLUGIN = Path(__file__).parent / "plugin"
CONFIG = str(PLUGIN / "toy_config.py")


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """Installs the package of the model, here and for the processes with this environment."""
    site = tmp_path_factory.mktemp("site")
    shutil.copy(PLUGIN / "dagr_toy.py", site)
    install(site, "dagr_toy", "[dagr_jax.models]\ntoy = dagr_toy\n")
    path = os.pathsep.join(filter(None, [str(site), str(ROOT), os.environ.get("PYTHONPATH")]))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(site)
        yield {**os.environ, "PYTHONPATH": path, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": QUICK_COMPILE}
    sys.modules.pop("dagr_toy", None)


def program(environment, *arguments):
    """What a module prints to stdout as a program."""
    done = subprocess.run(
        [sys.executable, "-m", *map(str, arguments)],
        cwd=ROOT, env=environment, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def dagr(*arguments):
    """What the command prints to stdout."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert cli.main([str(argument) for argument in arguments]) == 0
    return printed.getvalue()


@pytest.fixture(scope="module")
def run(environment, tmp_path_factory):
    """A finished run of the toy model."""
    workdir = tmp_path_factory.mktemp("toy") / "run"
    program(environment, "dagr_jax.main", f"--config={CONFIG}", f"--workdir={workdir}")
    return workdir


@pytest.fixture(scope="module")
def clips(run):
    return sorted((run / "data" / "videos").glob("*.mp4"))[:2]


@pytest.mark.slow
def test_a_killed_run_ends_as_an_uninterrupted_one(run, environment, tmp_path):
    killed = tmp_path / "killed"
    command = ["dagr_jax.main", f"--config={CONFIG}", f"--workdir={killed}"]
    command.append(f"--config.data_dir={run / 'data'}")
    log = killed / "train" / "log.jsonl"
    with started([sys.executable, "-m", *command], environment, tmp_path / "log") as process:
        wait_for(process, lambda: lines(log) >= 3)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert not (killed / "test").exists()
    program(environment, *command)
    for name in ("test/predictions.csv", "split.csv"):
        assert (killed / name).read_bytes() == (run / name).read_bytes()
    assert lines(log) == lines(run / "train" / "log.jsonl") == 12


def test_what_a_run_leaves(run):
    assert {"config.json", "data", "edges", "report.html", "split.csv", "test", "train"} <= {
        path.name for path in run.iterdir()
    }
    found = json.loads((run / "test" / "metrics.json").read_text())
    assert found["n"] == 15 and "baselines" in found
    report = (run / "report.html").read_text()
    assert "toy, synthetic, seed 0" in report and "edges" in report


def test_the_command_lists_it(environment):
    assert "toy: Toy (2026)" in dagr("models")
    names = [row["name"] for row in json.loads(dagr("models", "--format", "json"))]
    assert sorted(names) == ["dagr", "starter", "toy"]


def test_files_are_scored_as_the_test_stage_scores_them(run):
    with open(run / "test" / "predictions.csv", newline="") as stream:
        tested = {row["video"]: float(row["prediction"]) for row in csv.DictReader(stream)}
    videos = [run / "data" / "videos" / name for name in tested]
    rows = json.loads(dagr("score", *videos, "--checkpoint", run, "--format", "json"))
    for row in rows:
        # The stored stream is float32, the batch another: rounding alone.
        assert row["mos"] == pytest.approx(tested[Path(row["file"]).name], abs=1e-5)
        assert (row["model"], row["frames"]) == ("toy", 5)


def test_segments_page_and_overlay(run, clips, tmp_path):
    page, overlay = tmp_path / "page.html", tmp_path / "overlay"
    text = dagr(
        "score", *clips, "--checkpoint", run, "--segments", "0.2",
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


def test_live_video(run, clips, tmp_path):
    stream = remux(clips[0], tmp_path / "live.ts")  # which can be read without its end
    command = ["watch", stream, "--checkpoint", run, "--window", "0.2", "--every", "--timeout", "2"]
    rows = [json.loads(line) for line in dagr(*command).splitlines()]
    assert [row["window"] for row in rows] == [0, 1] and all(row["score"] for row in rows)


@pytest.mark.slow
def test_evaluation_on_a_prepared_set(run, tmp_path):
    dagr("evaluate", run / "data", "--checkpoint", run, "--workdir", tmp_path / "e")
    with open(tmp_path / "e" / "data" / "predictions.csv", newline="") as stream:
        others = {row["video"]: float(row["prediction"]) for row in csv.DictReader(stream)}
    with open(run / "test" / "predictions.csv", newline="") as stream:
        own = {row["video"]: float(row["prediction"]) for row in csv.DictReader(stream)}
    assert others.keys() == own.keys()  # all that the run has neither trained nor validated on
    np.testing.assert_allclose(list(others.values()), list(own.values()), atol=1e-6)


@pytest.mark.ray
def test_the_same_rows_from_a_cluster(run, clips, environment):
    pytest.importorskip("ray")
    # Programs of their own: workers inherit the path to the package of the model, and both compile
    # with the same settings.
    command = ["dagr_jax.cli", "score", *clips, "--checkpoint", run, "--format", "json"]
    ours = json.loads(program(environment, *command))
    theirs = json.loads(program(environment, *command, "--engine", "ray", "--workers", "1"))
    assert [row["score"] for row in ours] == [row["score"] for row in theirs]


TOLD = [
    (
        lambda c: setattr(c, "stages", ("prepare", "trane")),
        "config.stages: unknown stage trane",
    ),
    (lambda c: delattr(c, "split"), "config: has no split; docs/adding_a_model.md lists all"),
    (
        lambda c: (delattr(c.test, "extras"), delattr(c.train.optim, "ema")),
        "config: has no test.extras, train.optim.ema; docs",
    ),
]


@pytest.mark.parametrize(("change", "said"), TOLD, ids=[said for _, said in TOLD])
def test_a_configuration_that_lacks_something_is_one_line(environment, tmp_path, change, said):
    config = registry.contract("toy").tiny_config()
    with config.unlocked():
        change(config)
    with pytest.raises(stages.StageError) as error:
        stages.run_stages(config, tmp_path / "run")
    assert str(error.value).startswith(said) and not (tmp_path / "run").exists()


def test_a_prepared_set_of_other_frames_is_refused_by_every_stage(run, tmp_path):
    config = registry.contract("toy").tiny_config()
    config.data_dir, config.dataset.args.frames = str(run / "data"), 12
    with pytest.raises(stages.StageError, match="dataset.args.frames was 10 and is now 12"):
        stages.run_stages(config, tmp_path / "run", ["train"])


def with_maps(maps):
    """Outputs with any maps; the tests check the types of arguments, users' programs do not."""
    outputs = Outputs(np.zeros(2))
    object.__setattr__(outputs, "maps", maps)
    return outputs


@pytest.mark.parametrize(
    ("outputs", "said"),
    [
        (np.zeros(2), "returns ndarray, not Outputs"),
        (Outputs(np.zeros((2, 1))), r"returns a score of shape \(2, 1\), not \(2,\)"),
        (
            with_maps(None),
            r"maps that are not a dict, name → \(B, T, h, w\); without maps, give {}",
        ),
        (with_maps(np.zeros((2, 3, 4, 4))), "maps that are not a dict"),
        (with_maps({"other": np.zeros((2, 3, 4, 4))}), "the map other, which Facts.maps does not"),
        (with_maps({"edges": np.zeros((2, 4, 4))}), r"the map edges of shape \(2, 4, 4\), not"),
    ],
)
def test_a_model_that_returns_something_else_is_one_line(outputs, said):
    check_outputs(with_maps({"edges": np.zeros((2, 3, 4, 4))}), 2, {"edges"}, "toy")
    with pytest.raises(DagrError, match=f"the model toy .*{said}"):
        check_outputs(outputs, 2, {"edges"}, "toy")


def test_nothing_in_the_package_names_it():
    for path in (ROOT / "dagr_jax").rglob("*.py"):
        assert "toy" not in re.findall(r"\w+", path.read_text().lower()), path
