"""A tiny sweep: shared networks, repeated runs and figures."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from ml_collections import config_dict
from PIL import Image

from dagr_jax import stages
from dagr_jax.configs import ablation, registers
from dagr_jax.report import figures
from dagr_jax.stages import sweep
from dagr_jax.stages.artifacts import StageError
from tests.tiny_run import shrink

CONFIG = Path(__file__).with_name("tiny_sweep.py")
ROOT = CONFIG.parents[1]


def tiny() -> config_dict.ConfigDict:
    from tests.tiny_sweep import get_config

    return get_config()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A sweep that is killed in the middle and then restarted in two processes."""
    home = tmp_path_factory.mktemp("sweep")
    command = [sys.executable, "-m", "dagr_jax.main", f"--config={CONFIG}", f"--workdir={home}"]
    first = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    finished = home / "runs" / "all-seed0" / "result.json"
    begun = home / "runs" / "alpha0-seed0" / "vqa"
    deadline = time.monotonic() + 400
    while not (finished.exists() and begun.exists()):
        assert first.poll() is None, first.stderr.read()[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    before = finished.stat().st_mtime_ns
    # Start the program with the interpreter of the tests.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    two = ["launch/sweep.sh", str(CONFIG), str(home)]
    done = subprocess.run(
        two,
        cwd=ROOT,
        env={**os.environ, "PATH": path, "PROCESSES": "2"},
        stderr=subprocess.PIPE,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert finished.stat().st_mtime_ns == before
    return home, done.stderr


@pytest.mark.slow
def test_every_run_is_made_once(made):
    home, told = made
    rows = json.loads((home / "sweep.json").read_text())["rows"]
    config = tiny()
    wanted = [(name, seed) for seed in config.seeds for name in config.runs]
    assert [(row["run"], row["seed"]) for row in rows] == wanted
    begun = [line for line in told.splitlines() if " runs done] " in line]
    names = [line.partition("] ")[2] for line in begun]
    assert len(set(names)) == len(names) == len(wanted) - 1  # all but the finished run


@pytest.mark.slow
def test_runs_with_one_saliency_network_share_it_and_its_maps(made):
    home, _ = made
    trained = sorted((home / "shared").glob("seed*"))
    # For each of two seeds those of the own set, with each layout of the registers and of single
    # frames, and that of the second set.
    assert len(trained) == 8
    inode = {
        name: next((home / "runs" / f"{name}-seed0" / "maps" / "maps").rglob("*.array_record*"))
        .stat()
        .st_ino
        for name in ("all", "alpha25", "second_n4", "first_map")
    }
    assert inode["all"] == inode["alpha25"]
    assert len({inode["all"], inode["second_n4"], inode["first_map"]}) == 3
    assert not (home / "runs" / "alpha0-seed0" / "maps").exists()
    assert not (home / "runs" / "trained-seed0" / "maps").exists()


@pytest.mark.slow
def test_the_trained_saliency_network_is_another_than_the_frozen_one(made):
    home, _ = made
    from dagr_jax.train.checkpoints import load_variables

    def kernel(name: str) -> np.ndarray:
        tree = load_variables(home / "runs" / f"{name}-seed0")[0]["params"]["saliency"]
        return np.asarray(tree["final_conv"]["kernel"])

    np.testing.assert_array_equal(kernel("all"), kernel("first_map"))
    assert np.abs(kernel("all") - kernel("trained")).max() > 1e-5


@pytest.mark.slow
def test_the_figures_show_the_cells(made, capsys):
    home, _ = made
    from dagr_jax.cli import main

    drawn = sorted(path.name for path in (home / "figures").glob("*"))
    assert drawn == [
        "figure5.png", "figure7.png", "figure7_saliency.png", "figure8.png", "table6.png"
    ]  # fmt: skip
    for name in drawn:
        picture = np.asarray(Image.open(home / "figures" / name).convert("L"))
        assert picture.shape[1] > 500 and np.ptp(picture) > 200
    assert main(["report", "sweep", str(home), "--format", "csv"]) == 0
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    summary = json.loads((home / "sweep.json").read_text())
    values = [row["srcc"] for row in summary["rows"] if row["run"] == "alpha0"]
    row = next(row for row in rows if row["run"] == "alpha0")
    assert float(row["srcc"]) == pytest.approx(np.mean(values))
    # Student's interval of two values: t(0.975, 1) = 12.706 times their standard error.
    half = 12.7062047 * np.std(values, ddof=1) / np.sqrt(2)
    assert float(row["srcc_high"]) == pytest.approx(np.mean(values) + half, rel=1e-6)


@pytest.mark.slow
def test_a_row_has_the_metrics_of_its_saliency_network(made):
    home, _ = made
    rows = json.loads((home / "sweep.json").read_text())["rows"]
    found = {(row["run"], row["seed"]): row.get("saliency_cc") for row in rows}
    assert found["all", 0] == found["alpha25", 0] == found["first_map", 0] is not None
    assert len({found[name, 0] for name in ("all", "n4", "second_n4")}) == 3
    assert found["alpha0", 0] is None  # without saliency


@pytest.mark.slow
def test_the_networks_of_table_3_train_until_they_no_longer_improve(tmp_path, capsys):
    """`configs/registers.py` at toy size, twice: the second call trains nothing."""
    config = registers.get_config()
    with config.unlocked():
        shrink(config.base)
        config.base.dataset.args.update({"contents": (6, 2, 3), "frames": 10, "fixations": 4})
        config.base.saliency.update({"steps": 40, "eval_every": 1, "patience": 1})
        config.seeds = (0,)
    stages.run_stages(config, tmp_path)
    steps = {}
    for path in (tmp_path / "shared").glob("*/saliency/log.jsonl"):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        values = [line["val_cc"] for line in lines]
        assert values[-1] < max(values) and values[-2] == max(values)  # one without a new best
        steps[path] = len(lines)
    assert len(steps) == 3 and max(steps.values()) < 40
    (tmp_path / "runs" / "zero-seed0" / "result.json").unlink()
    stages.run_stages(config, tmp_path)
    assert {path: len(path.read_text().splitlines()) for path in steps} == steps
    rows = figures.table(json.loads((tmp_path / "sweep.json").read_text()))
    assert {row["run"] for row in rows} == {"published", "zero", "none"}
    assert all(-1 <= row["saliency_cc"] <= 1 and "srcc" not in row for row in rows)


def test_a_name_or_a_field_that_is_not_there_is_one_line(tmp_path):
    config = tiny()
    with pytest.raises(StageError, match="unknown run nothing; one of all, "):
        stages.run_stages(config, tmp_path, ["nothing"])
    with config.unlocked():
        config.runs.all = {"vqa": {"stepz": 3}}
    member = sweep.members(config, tmp_path)[0]
    with pytest.raises(StageError, match=r"config.runs.all: .*stepz"):
        sweep.member_config(config, tmp_path, member)


@pytest.mark.parametrize("choice", ["synthetic", "konvid1k", "lsvq,release"])
def test_no_two_runs_of_the_ablation_are_the_same(choice):
    config = ablation.get_config(choice)
    home = Path("home")
    every = [sweep.member_config(config, home, m) for m in sweep.members(config, home)]
    told = {json.dumps(sweep.plain(one), sort_keys=True) for one in every}
    assert len(told) == len(every) == 3 * len(config.runs)
    wanted = sweep.plain(config.figures)
    figures.check(wanted, config.runs)
    drawn = {name for one in wanted.values() for name in figures._runs(one)}
    assert drawn == set(config.runs)  # each run is in some figure


def test_a_cell_without_a_finished_run_stays_empty(tmp_path):
    wanted = sweep.plain(ablation.get_config().figures)
    rows = [
        {"run": name, "seed": 0, "srcc": 0.5, "plcc": 0.5, "saliency_cc": 0.4}
        for name in ("all", "n4")
    ]
    paths = figures.draw({"rows": rows, "figures": wanted}, tmp_path / "one")
    full = [{**rows[0], "run": name} for name in ablation.get_config().runs]
    others = figures.draw({"rows": full, "figures": wanted}, tmp_path / "all")
    assert len(paths) == len(others) == 5
    for path, other in zip(paths, others, strict=True):
        ink = [np.mean(np.asarray(Image.open(p).convert("L")) < 128) for p in (path, other)]
        assert 0 < ink[0] < ink[1]


def test_an_undefined_value_is_no_seed():
    rows = [{"run": "a", "seed": k, "srcc": v, "plcc": v} for k, v in enumerate((0.5, None, 0.7))]
    (row,) = figures.table({"rows": rows})
    assert row["seeds"] == 2 and row["srcc"] == pytest.approx(0.6)


def test_a_figure_of_nothing_is_one_line(tmp_path):
    config = tiny()
    with config.unlocked():
        config.figures = {"f": {"kind": "bars", "runs": (("label", "nobody"),)}}
    with pytest.raises(StageError, match="config.figures.f: there is no run nobody"):
        stages.run_stages(config, tmp_path)
    with config.unlocked():
        config.figures = {"f": {"kind": "pie"}}
    with pytest.raises(StageError, match="kind 'pie' is unknown; one of bars, grid, curves"):
        stages.run_stages(config, tmp_path)


def test_a_sweep_grows_and_one_that_fails_stops_no_other(tmp_path, monkeypatch):
    """The stages only record their arguments."""
    given = []

    def run_stages(config, home):
        given.append(home.name)
        if home.name == "b-seed0":
            raise RuntimeError("out of memory")
        home.mkdir(parents=True)
        sweep.write_json(home / "config.json", sweep.plain(config))

    monkeypatch.setattr(sweep, "prepare_set", lambda *a: None)
    config = tiny()
    with config.unlocked():
        config.runs = {"a": {"model": {"args": {"alpha": 0.0}}}}
        config.runs.b = {"model": {"args": {"alpha": 0.0}}, "vqa": {"rank_weight": 2.0}}
        config.seeds, config.figures = (0,), {}
    with pytest.raises(StageError, match="1 runs failed: b-seed0; see"):
        sweep.run_sweep(config, tmp_path, run_stages)
    assert given == ["a-seed0", "b-seed0"]
    with config.unlocked():
        config.seeds = (0, 1)
    with pytest.raises(StageError, match="1 runs failed"):
        sweep.run_sweep(config, tmp_path, run_stages)
    assert given[2:] == ["b-seed0", "a-seed1", "b-seed1"]
    rows = json.loads((tmp_path / "sweep.json").read_text())["rows"]
    assert [(row["run"], row["seed"]) for row in rows] == [("a", 0), ("a", 1), ("b", 1)]
    with config.unlocked():
        config.runs.a = {"model": {"args": {"alpha": 0.25}}}
    with pytest.raises(StageError, match="a run of another configuration .*alpha was 0.0"):
        sweep.run_sweep(config, tmp_path, run_stages)


def test_a_data_set_that_is_nowhere_is_said_first(tmp_path):
    config = ablation.get_config("konvid1k")
    config.base.dataset.args.source = str(tmp_path)
    with pytest.raises(
        StageError, match=r"DHF1K is not prepared yet; .*config.saliency_sets.dhf1k.ar"
    ):
        stages.run_stages(config, tmp_path / "sweep")
    assert not list((tmp_path / "sweep").glob("data*"))
