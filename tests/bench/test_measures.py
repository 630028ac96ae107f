"""The benchmarks measure what they claim; the speed of a machine is not tested."""

import json
import subprocess
import sys

import numpy as np
import pytest

from dagr_jax import cli
from dagr_jax.bench import (
    cold,
    decode,
    inference,
    loader,
    saliency,
    scaling,
    table4,
    timing,
    train,
    vqa,
)
from dagr_jax.runtime.machine import machine


def test_sides_alternate_and_the_first_rounds_do_not_count():
    calls = []
    seconds = timing.alternate(
        {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=3, warmup=2
    )
    assert "".join(calls) == "ab" * 5
    assert {name: len(times) for name, times in seconds.items()} == {"a": 3, "b": 3}


def test_a_ratio_is_of_the_rounds_not_of_the_medians():
    # The machine halves its speed from round to round; the ratio stays the same.
    assert timing.ratio([1.0, 2.0, 4.0], [2.0, 4.0, 8.0]) == 0.5
    told = timing.row("x", [3.0, 1.0, 2.0], batch=5)
    assert (told["median_s"], told["fastest_s"], told["slowest_s"]) == (2.0, 1.0, 3.0)
    assert told["rounds"] == 3 and told["batch"] == 5


def test_the_machine_is_named():
    told = machine()
    assert told["cores"] >= 1 and told["memory_gib"] > 0 and told["devices"] == ["cpu"]


@pytest.fixture
def small_clips(monkeypatch):
    for name, value in (("HEIGHT", 48), ("WIDTH", 64), ("LENGTH", 16), ("FPS", 4)):
        monkeypatch.setattr(decode, name, value)


def test_decode(small_clips, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(decode, "_peak", lambda path: 1.0)  # a new process takes seconds
    out = tmp_path / "decode.json"
    assert cli.main(["bench", "decode", "--out", str(out)]) == 0
    result = json.loads(out.read_text())
    assert set(result) == {"machine", "rows", "ratios"}
    assert set(result["ratios"]) == {
        f"decode_{gap}s/{side}" for gap in (1, 10) for side in ("in_order", "every_frame")
    }
    assert [row["rounds"] for row in result["rows"]] == [5] * 6
    said = capsys.readouterr().out
    assert "decode_1s/in_order  " in said and result["machine"]["cpu"] in said


def test_decode_wants_the_same_frames_of_all_sides(small_clips, monkeypatch):
    monkeypatch.setattr(decode, "read_clip", lambda path, n: (np.zeros((n, 48, 64, 3)), None))
    with pytest.raises(RuntimeError, match="do not agree on the frames"):
        decode.measure(rounds=1)


def test_loader():
    result = loader.measure(steps=4, step_s=0.001, batch_size=3, workers=0, videos=6)
    (row,) = result["rows"]
    assert (row["rounds"], row["batch_size"], row["workers"]) == (4, 3, 0)
    assert 0 < result["ratios"]["fed"] <= 1


SMALL_NET = {"widths": (2, 3), "bottleneck": 4, "num_registers": 2, "register_dim": 3}


def measure_saliency(monkeypatch):
    monkeypatch.setattr(saliency, "WINDOW", (4, 16, 24))
    monkeypatch.setattr(inference, "matmul_peak", lambda dtype: 1.0)
    return saliency.measure(rounds=2, model_args=SMALL_NET)


def test_saliency_without_pytorch(monkeypatch):
    monkeypatch.setattr(inference, "torch_device", lambda: "")
    result = measure_saliency(monkeypatch)
    assert list(result["ratios"]) == ["saliency_float32/taps"]
    first, plain = result["rows"][:2]
    assert 0 < first["gflop"] < plain["gflop"]


TORCH_FORMS = ("float32", "bfloat16")


def without_compiler(monkeypatch):
    """Turns off PyTorch's compiler, which takes a minute even for a small network."""

    def compile_(net):
        raise RuntimeError("no compiler\nat all")

    monkeypatch.setattr("torch.compile", compile_)


@pytest.mark.torch
def test_saliency_beside_pytorch(monkeypatch):
    pytest.importorskip("torch")
    without_compiler(monkeypatch)
    result = measure_saliency(monkeypatch)
    assert set(result["ratios"]) == {
        f"saliency_{ours}/{theirs}" for ours in TORCH_FORMS for theirs in TORCH_FORMS
    } | {"saliency_float32/taps"}
    (failed,) = [row for row in result["rows"] if "error" in row]
    assert failed == {"what": "saliency torch bfloat16 compiled", "error": "no compiler"}


SMALL_HEAD = {
    "stage_sizes": (1,),
    "width": 4,
    "num_layers": 1,
    "num_heads": 2,
    "mlp_dim": 8,
    "projection_dim": 8,
    "regressor": (8, 4),
}


@pytest.mark.torch
def test_vqa_beside_pytorch(monkeypatch):
    pytest.importorskip("torch")
    without_compiler(monkeypatch)
    monkeypatch.setattr(vqa, "VIDEO", (2, 32, 32))
    monkeypatch.setattr(inference, "matmul_peak", lambda dtype: 1.0)
    result = vqa.measure(rounds=1, model_args=SMALL_HEAD)
    assert set(result["ratios"]) == {
        f"vqa_{ours}/{theirs}" for ours in TORCH_FORMS for theirs in TORCH_FORMS
    }
    first = result["rows"][0]
    # With a peak of 1 GFLOP/s, share of peak × seconds is the (rounded) work in GFLOP.
    assert first["gflop"] > 0
    assert abs(first["of_peak"] * first["median_s"] - first["gflop"]) < 1e-3


def measure_train(monkeypatch):
    monkeypatch.setattr(train, "SALIENCY", (1, 2, 16, 24))
    monkeypatch.setattr(train, "QUALITY", (2, 2, 32, 32))
    return train.measure(rounds=1, saliency_args=SMALL_NET, vqa_args=SMALL_HEAD)


@pytest.mark.slow
def test_train_without_pytorch(monkeypatch):
    monkeypatch.setattr(train, "torch_device", lambda: "")
    result = measure_train(monkeypatch)
    assert [row["what"] for row in result["rows"]] == [
        "train saliency float32",
        "train vqa float32",
    ]
    assert result["ratios"] == {}


@pytest.mark.torch
def test_train_beside_pytorch(monkeypatch):
    """The losses of both sides are compared inside."""
    pytest.importorskip("torch")
    assert set(measure_train(monkeypatch)["ratios"]) == {
        f"train_{net}_float32/{dtype}"
        for net in ("saliency", "vqa")
        for dtype in ("float32", "bfloat16")
    }


def measure_table4(monkeypatch):
    for name, value in (("CLIPS", 2), ("LENGTH", 16), ("FRAMES", 4), ("SIZE", (32, 48))):
        monkeypatch.setattr(table4, name, value)
    return table4.measure({"saliency": SMALL_NET, "vqa": SMALL_HEAD})


def test_table4_without_pytorch(small_clips, monkeypatch):
    monkeypatch.setattr(table4, "torch_device", lambda: "")
    whole, *parts, paper = measure_table4(monkeypatch)["rows"]
    assert [row["what"].strip() for row in parts] == ["decoding", "transfer", "saliency", "vqa"]
    assert {row["rounds"] for row in (whole, *parts)} == {2}
    assert 0.9 < sum(row["share"] for row in parts) <= 1.01
    assert paper["frames_per_s"] == 387.7


@pytest.mark.torch
def test_table4_beside_pytorch(small_clips, monkeypatch):
    """The scores of both sides are compared inside."""
    pytest.importorskip("torch")
    ratios = measure_table4(monkeypatch)["ratios"]
    assert set(ratios) == {"table4_float32/float32", "table4_float32/bfloat16"}


def test_table4_without_pyav_begins_with_frames(monkeypatch):
    monkeypatch.setattr(table4, "torch_device", lambda: "")
    monkeypatch.setitem(sys.modules, "av", None)
    parts = [row["what"].strip() for row in measure_table4(monkeypatch)["rows"][1:-1]]
    assert parts == ["transfer", "saliency", "vqa"]


@pytest.mark.slow
def test_cold(small_clips, monkeypatch):
    """Real processes: the first run finds no compiled program; later runs find its programs."""
    monkeypatch.setattr(cold, "LENGTH", 16)
    monkeypatch.setattr(cold, "torch_device", lambda: "")
    run, found = cold._run, []

    def watched(arguments, cache):
        before = len(list(cache.rglob("*-cache")))
        run(arguments, cache)
        found.append((cache.name, before > 0, len(list(cache.rglob("*-cache"))) > before))

    monkeypatch.setattr(cold, "_run", watched)
    first, later = cold.measure(rounds=1)["rows"]
    assert (first["what"], later["what"]) == ("cold first", "cold later")
    assert found == [
        ("cold", False, True),
        ("warm", False, True),
        ("cold", False, True),
        ("warm", True, False),
    ]


@pytest.mark.slow
def test_scaling(monkeypatch):
    monkeypatch.setattr(scaling, "SHAPES", {"a": (1, 2, 32, 32), "b c": (2, 2, 32, 32)})
    monkeypatch.setattr(scaling, "DEVICES", (1, 2))
    result = scaling.measure(rounds=1, model_args={"saliency": SMALL_NET, "vqa": SMALL_HEAD})
    assert set(result["ratios"]) == {"scaling_b_c/first", "devices_2/1"}
    assert min(result["ratios"].values()) > 0


def test_the_networks_are_measured_where_only_jax_and_pytorch_are():
    """A GPU machine may have no other packages."""
    script = """
import importlib, sys
absent = ["av", "grain", "ml_collections", "tensorflow_datasets", "pandas", "skimage"]
for name in (*absent, "safetensors", "matplotlib", "sklearn", "tqdm"):
    sys.modules[name] = None
for name in ("saliency", "vqa", "train", "table4", "scaling", "gpu.__main__"):
    importlib.import_module("dagr_jax.bench." + name)
for name in ("facts", "correctness", "saliency", "quality", "training", "profile", "programs"):
    importlib.import_module("dagr_jax.bench.gpu." + name)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_usage(tmp_path):
    for arguments in (["tea"], ["decode", "--out", str(tmp_path / "x.txt")], []):
        with pytest.raises(SystemExit) as stop:
            cli.main(["bench", *arguments])
        assert stop.value.code == 2
