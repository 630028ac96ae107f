"""`python -m dagr_jax.bench.gpu`: parts, limits, checks and results, with small sizes on a CPU."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from dagr_jax.bench.gpu import __main__ as command
from dagr_jax.bench.gpu import correctness, profile, summary, timing
from dagr_jax.bench.gpu.parts import PARTS, Part
from dagr_jax.bench.gpu.plan import PAPER, SMALL, Plan
from dagr_jax.runtime.errors import DagrError

from ..programs import QUICK_COMPILE, ROOT


def part(name: str, weight: float) -> Part:
    return Part(name, f"tests.bench.gpu_parts.{name}", weight)


def plan(seconds: float = 60.0, folder: Path = Path()) -> Plan:
    return Plan(SMALL, time.monotonic() + seconds, (), folder)


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """Results of a run whose parts fail, crash, hang and succeed, its exit code and its folder."""
    folder = tmp_path_factory.mktemp("gpu")
    before = os.getcwd()
    os.chdir(ROOT)  # the modules of the parts are imported from here
    try:
        parts = [part("broken", 10), part("hanging", 1), part("crashing", 10), part("good", 10)]
        code = command.measure(folder, 60, small=True, parts=parts)
    finally:
        os.chdir(before)
    return json.loads((folder / "results.json").read_text()), code, folder


def test_parts_that_do_not_end_well_are_named_and_the_rest_goes_on(ended):
    result, code, folder = ended
    broken, hanging, crashing, good = result["parts"]
    assert code == 1
    assert (broken["status"], broken["error"]) == ("failed", "card (exit code 1)")
    assert crashing["status"] == "failed" and "exit code -11" in crashing["error"]
    assert hanging["status"] == "late" and hanging["error"].startswith("stopped after ")
    assert hanging["seconds"] < 20
    assert good["status"] == "complete" and "error" not in good
    # Rows that were written before the failure are kept.
    assert broken["rows"] == crashing["rows"] == [{"what": "first"}]
    assert "RuntimeError: no such" in (folder / "log.txt").read_text()
    assert "| hanging | late |" in (folder / "results.md").read_text()


def test_a_part_that_is_stopped_takes_its_processes_with_it(ended):
    hanging = ended[0]["parts"][1]
    status = Path(f"/proc/{hanging['rows'][0]['pid']}/status")
    assert not status.exists() or "State:\tZ" in status.read_text()


def test_a_part_knows_its_sizes_and_what_came_before(ended):
    (row,) = ended[0]["parts"][3]["rows"]
    assert row["small"] == SMALL.matrix and row["before"] == ["broken", "hanging", "crashing"]


def test_no_time_left(tmp_path, capsys):
    assert command.measure(tmp_path, 0.5, small=True, parts=[part("good", 1)]) == 1
    (only,) = json.loads((tmp_path / "results.json").read_text())["parts"]
    assert (only["status"], only["error"]) == ("not started", "no time was left")


def test_sides_that_fail_are_rows_and_the_others_are_timed():
    calls = []

    def good():
        return timing.Side(lambda n: calls.append(n), {"dtype": "float32"})

    def no_build():
        raise RuntimeError("no kernel\nfor this")

    def breaks(n):
        if len(calls) > 3:
            raise MemoryError("full")

    sides = {"good": good, "unbuilt": no_build, "breaking": lambda: timing.Side(breaks, {})}
    rows = list(timing.measured_rows(sides, plan(), [("good", "breaking"), ("good", "good")]))
    told = {row["what"]: row for row in rows}
    assert told["unbuilt"]["error"] == "RuntimeError: no kernel"
    assert told["breaking"]["error"] == "MemoryError: full"
    assert told["good"]["rounds"] == SMALL.rounds and told["good"]["dtype"] == "float32"
    assert told["good / good"]["ratio"] == 1.0
    # The first call, then an untimed and a timed call per round.
    assert calls == [1] * (1 + 2 * SMALL.rounds)


def test_fast_calls_are_repeated_in_a_sample():
    calls = []
    sides = {"fast": lambda: timing.Side(lambda n: calls.append(n), {})}
    (row,) = timing.measured_rows(sides, Plan(PAPER, time.monotonic() + 60, (), Path()))
    assert row["calls"] == max(calls) > 1


def test_what_there_is_no_time_for_is_named():
    def slow():
        time.sleep(0.2)
        return timing.Side(lambda n: None, {})

    sides = {"first": slow, "second": slow}
    rows = list(timing.measured_rows(sides, plan(0.1)))
    assert [row["what"] for row in rows if "median_s" in row] == ["first"]
    assert rows[0] == {"what": "second", "error": "not started: no time was left"}


def test_a_wrong_form_is_outside(monkeypatch):
    """The check detects an error of 1/1000 in the value, and an error only in a gradient."""
    x = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    scaled = correctness._form("value", lambda x, form: x * (1 + 1e-3 * (form == "off")), "off", x)
    right = correctness._form("right", lambda x, form: x * 3, "on", x)

    def unsteady(dtype):
        raise FloatingPointError("no number")

    checks = [scaled, right, correctness.Check("raises", unsteady, {})]
    monkeypatch.setattr(correctness, "_forms", lambda: iter(checks))
    monkeypatch.setattr(correctness, "_golden", lambda: iter(()))
    rows = [row for row in correctness.measure(plan()) if row["dtype"] == "float32"]
    assert [row.get("within") for row in rows] == [False, True, None]
    assert rows[0]["off"] == pytest.approx(1e-3, rel=0.01)
    assert rows[2]["error"] == "FloatingPointError: no number"


def test_the_slowest_programs_are_those_that_users_run():
    def timed(kind, form, batch, seconds):
        program = {"kind": kind, "dtype": "float32", "form": form, "batch": batch}
        return {"what": f"{kind} {form}", "program": program, "median_s": seconds}

    rows = [
        timed("saliency", "native", 1, 2.0),
        timed("saliency", "taps", 1, 1.0),
        timed("saliency", "taps", 16, 20.0),
        timed("quality", "auto", 1, 0.5),
        timed("train quality", "auto", 5, 3.0),
        {"what": "torch saliency", "median_s": 99.0},
    ]
    assert profile.slowest_programs(rows) == [rows[4], rows[1]]


def test_kernels_are_summed_by_operation():
    def event(name, duration, operation="fusion.1"):
        return {"ph": "X", "name": name, "dur": duration, "args": {"hlo_op": operation}}

    events = [event("fusion.1", 2), event("fusion.22", 3.5), event("copy", 1)]
    events += [{"ph": "X", "name": "python", "dur": 50, "args": {}}, {"ph": "M", "name": "x"}]
    assert profile.kernel_times({"traceEvents": events}) == {"fusion": 5.5, "copy": 1.0}


def made_up(backend="gpu", small=False):
    rows = [
        {"what": "machine", "backend": backend, "cpu": "some", "devices": ["Some GPU"]},
        {"what": "card", "name": "NVIDIA Some (80 GB)"},
        {"what": "matrix product, float32", "dtype": "float32", "needed_gflop": 1000.0}
        | timing.row("", [0.02]),
    ]
    rows[2]["what"] = "matrix product, float32"
    window = {"what": "window", "dtype": "float32", "needed_gflop": 500.0}
    window = {**timing.row("window", [0.04]), **window}
    parts = [
        {"name": "facts", "status": "complete", "seconds": 1, "limit_s": 2, "rows": rows},
        {"name": "saliency", "status": "late", "seconds": 3, "limit_s": 3, "error": "a|b"}
        | {"rows": [window, {"what": "late", "error": "not started: no time was left"}]},
    ]
    return {"version": "0", "time": "now", "small": small, "parts": parts}


def test_the_page_tells_rates_and_shares_of_the_peak():
    text = summary.page(made_up())
    assert text.startswith("# NVIDIA Some (80 GB)\n")
    assert "| matrix product, float32 | 20.000 | 20.000-20.000 | 50 |" in text
    # 500 GFLOP in 40 ms are 12.5 TFLOP/s, a quarter of the 50 that the matrix product reaches.
    assert "| window | 40.000 | 40.000-40.000 | 12.5 | 0.250 |" in text
    assert "Not measured, no time was left: late." in text and "a\\|b" in text


def test_only_results_of_a_real_card_are_kept(tmp_path, capsys):
    kept = tmp_path / "kept"
    for wrong in (made_up(backend="cpu"), made_up(small=True)):
        summary.write(tmp_path, wrong)
        with pytest.raises(DagrError, match="not of a GPU at full size"):
            summary.publish(tmp_path, kept)
    summary.write(tmp_path, made_up())
    files = summary.publish(tmp_path, kept)
    names = ["nvidia-some-80-gb.json", "nvidia-some-80-gb.md"]
    assert [file.name for file in files] == names == sorted(os.listdir(kept))
    assert json.loads(files[0].read_text()) == made_up()
    assert command.main(["--publish", str(tmp_path / "nothing")]) == 1
    assert "holds no results.json" in capsys.readouterr().err


@pytest.mark.slow
def test_every_part_runs_on_a_cpu(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "dagr_jax.bench.gpu", "--small", "--minutes", "60"]
        + ["--out", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": QUICK_COMPILE},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "results.json").read_text())
    assert [(p["name"], p["status"]) for p in result["parts"]] == [
        (p.name, "complete") for p in PARTS
    ]
    rows = {p["name"]: p["rows"] for p in result["parts"]}
    checks = rows["correctness"]
    assert len(checks) == 9 + 8 + 8
    assert not [row for row in checks if "error" in row or row.get("within") is False]
    # Minimal filtering is not judged in bfloat16.
    assert sum("within" not in row for row in checks) == 4
    programs = [row["program"] for row in rows["saliency"] + rows["quality"] + rows["training"]
                if "program" in row]  # fmt: skip
    assert {program["kind"] for program in programs} == {
        "saliency", "quality", "model", "train saliency", "train quality",
    }  # fmt: skip
    assert {program["remat"] for program in programs} == {"none", "norms", "blocks"}
    assert all(row["peak_memory_mb"] > 0 for row in rows["saliency"] if "program" in row)
    assert any(row.get("frames_per_s_paper") == 387.7 for row in rows["quality"])
    files = {row["file"] for row in rows["profile"] if "file" in row}
    assert files == {"hlo_0.txt.gz", "hlo_1.txt.gz", "trace_0.json.gz", "trace_1.json.gz"}
    assert sum("kernel" in row for row in rows["profile"]) > 4
    # Few files, because a remote machine may return only a few.
    assert len(list(tmp_path.iterdir())) == 7


@pytest.mark.torch
@pytest.mark.parametrize(
    "kind", ["saliency", "quality", "model", "train saliency", "train quality"]
)
def test_both_sides_compute_the_same(kind):
    pytest.importorskip("torch")
    from dagr_jax.bench.gpu import programs, pytorch

    batch = 2
    ours = programs.build(programs.Spec(kind, "float32", batch=batch), SMALL)
    theirs = pytorch.build(kind, "float32", batch, SMALL)
    mine, other = np.asarray(ours.run(1)), theirs.run(1).detach().numpy()
    # Float32 sums in a different order; batch statistics of two small videos amplify the errors.
    tolerance = 1e-3 if kind.startswith("train") else 1e-4
    np.testing.assert_allclose(mine.ravel(), other.ravel(), rtol=0, atol=tolerance)
    half = pytorch.build(kind, "bfloat16", batch, SMALL).run(1).detach().float().numpy()
    assert np.isfinite(half).all()
