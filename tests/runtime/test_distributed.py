"""Several processes give the same run as one process, and end together."""

import contextlib
import csv
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest

from dagr_jax.data import loader
from dagr_jax.runtime import distributed
from dagr_jax.runtime.errors import DagrError
from dagr_jax.train.checkpoints import load_variables
from tests import tiny_distributed
from tests.programs import QUICK_COMPILE, lines, started, wait_for
from tests.train.tiny import RECORDS, records, same_bits

TIMED = {"steps_per_second", "clips_per_second", "seconds"}


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def environment(devices: int) -> dict[str, str]:
    return {
        **os.environ,
        "XLA_FLAGS": f"{QUICK_COMPILE} --xla_force_host_platform_device_count={devices} "
        "--xla_cpu_collective_call_terminate_timeout_seconds=900",
    }


def log_of(folder: Path) -> list[dict[str, float]]:
    found = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in TIMED} for line in found]


def assert_close_logs(ours: Path, theirs: Path) -> None:
    for mine, wanted in zip(log_of(ours), log_of(theirs), strict=True):
        assert mine == pytest.approx(wanted, rel=0, abs=1e-5, nan_ok=True)


def test_two_processes_train_as_one_and_one_goes_on_from_them(tmp_path):
    """Two processes stop after step 8, with step 4 saved; one process with two devices resumes."""
    coordinator = f"127.0.0.1:{free_port()}"
    both, alone = tmp_path / "both", tmp_path / "alone"
    with contextlib.ExitStack() as stack:
        processes = [
            stack.enter_context(
                started(
                    [
                        *(sys.executable, "-m", "tests.tiny_distributed", coordinator, "2"),
                        *(str(number), str(both), "1"),
                    ],
                    environment(devices=1),
                    tmp_path / f"{number}.log",
                )
            )
            for number in range(2)
        ]
        tiny_distributed.train(alone, jax.devices()[:2])
        for number, process in enumerate(processes):
            code = process.wait(timeout=60)
            assert code == 0, (tmp_path / f"{number}.log").read_text()[-2000:]
    written = log_of(both / "vqa")
    assert [line["step"] for line in written] == list(range(1, 8))
    for mine, wanted in zip(written, log_of(alone / "vqa"), strict=False):
        assert mine == pytest.approx(wanted, rel=0, abs=1e-5)
    assert load_variables(both)[1]["step"] == 4
    tiny_distributed.train(both, jax.devices()[:2])
    assert_close_logs(both / "vqa", alone / "vqa")
    ours, theirs = load_variables(both)[0], load_variables(alone)[0]
    np.testing.assert_allclose(
        ours["params"]["Dense_0"]["kernel"], theirs["params"]["Dense_0"]["kernel"], atol=1e-6
    )


class Clips:
    """The tiny records, with six numbered frames each."""

    num_frames = 6

    def __len__(self):
        return RECORDS

    def __getitem__(self, index):
        return self.read(index, np.arange(6))

    def read(self, index, chosen, rng=None):
        return {**records()[index], "frames": chosen.astype(np.uint8)}


@pytest.mark.parametrize("frames", [0, 2])
def test_the_slices_of_all_processes_are_the_batch(frames):
    """Across the end of an epoch, which drops 6 records; also with randomly drawn frames."""
    wanted = {"batch_size": 9, "seed": 2, "workers": 0, "frames": frames}
    whole = loader.train_iterator(Clips(), **wanted)
    parts = [loader.train_iterator(Clips(), **wanted, share=(i, 3)) for i in range(3)]
    for _ in range(7):
        batch, slices = next(whole), [next(part) for part in parts]
        for name in batch:
            np.testing.assert_array_equal(
                batch[name], np.concatenate([one[name] for one in slices])
            )
    assert [part.get_state() for part in parts] == [whole.get_state()] * 3


def test_evaluation_slices_cover_every_record_once():
    parts = [loader.eval_batches(records(), batch_size=10, share=(i, 2)) for i in range(2)]
    index = [np.concatenate([b["index"][b["mask"]] for b in part]) for part in parts]
    assert [len(i) for i in index] == [14, 10]
    assert sorted(np.concatenate(index).tolist()) == list(range(RECORDS))


def test_a_batch_that_does_not_divide_over_the_processes_is_refused():
    with pytest.raises(DagrError, match="batch_size=9 does not divide over 2 processes"):
        loader.train_iterator(records(), batch_size=9, seed=0, workers=0, share=(0, 2))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"coordinator": "node0:9876"}, "--num_processes, --process_id missing"),
        ({"process_id": 1, "num_processes": 2}, "--coordinator missing"),
        ({"coordinator": "node0", "num_processes": 2, "process_id": 0}, "must be HOST:PORT"),
        ({"coordinator": "node0:1", "num_processes": 2, "process_id": 2}, "must be 0 … 1"),
        ({"coordinator": "node0:1", "detect": True}, "finds out by itself"),
    ],
)
def test_arguments_that_do_not_fit_are_one_line(arguments, says):
    with pytest.raises(distributed.DistributedError, match=says) as error:
        distributed.connect(**arguments)
    assert "\n" not in str(error.value)


def test_a_coordinator_that_does_not_answer_is_named():
    with pytest.raises(distributed.DistributedError, match="no answer in 0 s"):
        distributed.connect(f"127.0.0.1:{free_port()}", 2, 1, timeout=0)


def test_a_port_that_is_taken_is_named():
    with (
        socket.create_server(("", 0)) as taken,
        pytest.raises(distributed.DistributedError, match="process 0 cannot listen there"),
    ):
        distributed.connect(f"127.0.0.1:{taken.getsockname()[1]}", 2, 0)


def test_one_process_alone_needs_nothing():
    distributed.connect()
    distributed.meet()
    assert distributed.first(lambda: 3, makes=Path("nowhere")) == 3
    assert (distributed.share(), distributed.is_first(), distributed.several()) == (
        (0, 1),
        True,
        False,
    )


# The program itself.

Programs = list[subprocess.Popen]


@contextlib.contextmanager
def program(
    workdir: Path, processes: int, *more: str, differing: tuple[str, ...] = ()
) -> Iterator[Programs]:
    """Starts a tiny run with a Grain worker on two devices, in one or two processes.

    Args:
        workdir: Working directory. stderr of process i goes to WORKDIR.i.log, stdout to
            WORKDIR.i.out.
        processes: Number of processes, 1 or 2.
        more: Arguments of all processes.
        differing: Arguments of the last process only.
    """
    command = [
        *(sys.executable, "-m", "dagr_jax.main", "--config=tests/tiny_run.py"),
        *(f"--workdir={workdir}", "--config.workers=1", "--config.vqa.steps=16", *more),
    ]
    joined = [f"--coordinator=127.0.0.1:{free_port()}", f"--num_processes={processes}"]
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(
                started(
                    [
                        *command,
                        *([*joined, f"--process_id={i}"] if processes > 1 else []),
                        *(differing if i == processes - 1 else ()),
                    ],
                    environment(devices=2 // processes),
                    workdir.with_suffix(f".{i}.log"),
                )
            )
            for i in range(processes)
        ]


def said(workdir: Path, number: int) -> list[str]:
    return workdir.with_suffix(f".{number}.log").read_text().strip().splitlines()


def codes(running: Programs, timeout: float) -> list[int]:
    until = time.monotonic() + timeout
    return [one.wait(timeout=max(until - time.monotonic(), 0)) for one in running]


def finish(workdir: Path, processes: int, *more: str) -> None:
    with program(workdir, processes, *more) as running:
        ended = codes(running, 900)
        assert ended == [0] * processes, [said(workdir, i)[-20:] for i in range(processes)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("alone") / "run"
    finish(workdir, 1)
    return workdir


def assert_same_run(workdir: Path, alone: Path) -> None:
    for stage in ("saliency", "vqa"):
        assert_close_logs(workdir / stage, alone / stage)
    tables = []
    for run in (workdir, alone):
        with open(run / "test" / "predictions.csv", newline="") as stream:
            tables.append(list(csv.DictReader(stream)))
    for ours, theirs in zip(*tables, strict=True):
        assert (ours["video"], ours["mos"]) == (theirs["video"], theirs["mos"])
        assert float(ours["prediction"]) == pytest.approx(float(theirs["prediction"]), abs=1e-5)
    metrics = [json.loads((run / "test" / "metrics.json").read_text()) for run in (workdir, alone)]
    for name in ("srcc", "plcc", "krcc", "rmse"):
        assert metrics[0][name] == pytest.approx(metrics[1][name], abs=1e-6), name
    assert metrics[0]["baselines"] == metrics[1]["baselines"]
    bias = [m["saliency"].pop("centre_bias") for m in metrics]
    assert bias[0] == bias[1]
    for m in metrics:
        del m["saliency"]["training_mean"]
    assert metrics[0]["saliency"] == pytest.approx(metrics[1]["saliency"], abs=1e-6)
    assert not list(workdir.glob(".*")) and not list(workdir.glob("*/.*.partial*"))


def stop(workdir: Path, processes: int, reached: int) -> int:
    """Sends SIGTERM to the last process after n logged steps of `vqa`; returns the saved step."""
    with program(workdir, processes) as running:
        wait_for(running[0], lambda: lines(workdir / "vqa" / "log.jsonl") >= reached)
        running[-1].send_signal(signal.SIGTERM)
        assert codes(running, 60) == [130] * processes
    steps = set()
    for number in range(processes):
        last = said(workdir, number)[-1]
        assert "vqa: interrupted, saved at step " in last
        assert last.endswith("; run the same command again to continue")
        steps.add(int(last.split("at step ")[1].split("/")[0]))
    saved = max(int(p.name) for p in (workdir / "vqa").iterdir() if p.name.isdigit())
    assert steps == {saved} and reached <= saved < 16
    return saved


@pytest.mark.slow
def test_two_processes_then_one_then_two_make_the_run_of_one(alone, tmp_path):
    """Two processes prepare, pretrain and make the maps; SIGTERM to one of them stops both."""
    workdir = tmp_path / "run"
    begun = stop(workdir, 2, reached=4)
    assert stop(workdir, 1, reached=begun + 2) > begun
    finish(workdir, 2)
    assert_same_run(workdir, alone)
    ours, theirs = load_variables(workdir), load_variables(alone)
    assert same_bits(ours[0], theirs[0])
    assert ours[1]["step"] == theirs[1]["step"]
    # Results and progress are printed once, by process 0.
    printed = [workdir.with_suffix(f".{i}.out").read_text() for i in range(2)]
    assert json.loads(printed[0])["n"] == 15 and printed[1] == ""
    assert sum(line.startswith("[test]") for i in range(2) for line in said(workdir, i)) == 1
    files = [sorted(p.name for p in run.iterdir()) for run in (workdir, alone)]
    assert files[0] == files[1]


@pytest.mark.slow
def test_an_error_in_process_0_ends_all(alone, tmp_path):
    """The other processes wait for data that process 0 cannot prepare."""
    workdir = tmp_path / "run"
    prepared = f"--config.data_dir={alone / 'data'}"
    with program(workdir, 2, prepared, "--config.dataset.args.frames=12") as running:
        assert codes(running, 60) == [1, 1]
    assert any(
        "error:" in line and "dataset.args.frames was 10" in line for line in said(workdir, 0)
    )
    assert said(workdir, 1)[-1].startswith(
        "process 1 of 2: ended because of process 0 of 2: error:"
    )


@pytest.mark.slow
def test_an_error_in_another_process_ends_all(tmp_path):
    workdir = tmp_path / "run"
    with program(workdir, 2, differing=("--config.seed=7",)) as running:
        assert codes(running, 60) == [1, 1]
    assert "another configuration" in said(workdir, 1)[-1]
    assert said(workdir, 0)[-1].startswith(
        "process 0 of 2: ended because of process 1 of 2: error:"
    )


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_process_ends_all(alone, tmp_path, killed):
    workdir = tmp_path / "run"
    with program(workdir, 2, f"--config.data_dir={alone / 'data'}") as running:
        wait_for(running[0], lambda: lines(workdir / "saliency" / "log.jsonl") >= 2)
        running[killed].kill()
        assert running[1 - killed].wait(timeout=200) not in (0, 130)
