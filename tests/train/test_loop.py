import json
import math
import os
import signal
import struct

import grain
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX.proto import event_pb2

from dagr_jax.runtime.errors import DagrError
from dagr_jax.train import mesh as meshes
from dagr_jax.train.checkpoints import load_variables
from dagr_jax.train.loop import Interrupted, TrainingError, fit, predict_all
from dagr_jax.train.meta import CheckpointError, is_finished

from .tiny import batches, meta, optim, records, same_bits, stage, tiny_state


def evaluator(task):
    data = records()
    x = np.stack([r["x"] for r in data])
    target = np.stack([r["target"] for r in data])

    def evaluate(state):
        out = task.predict(state.variables_to_use(), {"x": x})
        return {"srcc": float(np.corrcoef(out, target)[0, 1])}

    return evaluate


def train(workdir, config, *, dropout=0.3, data=None, devices=1, evaluate=None, **changes):
    task, state = tiny_state(config, dropout)
    return fit(
        name="vqa",
        task=task,
        config=config,
        state=state,
        train_iter=batches(config.batch_size) if data is None else data,
        evaluate=evaluate or evaluator(task),
        workdir=workdir,
        meta=meta(**changes),
        mesh=meshes.make_mesh(jax.devices()[:devices]),
    )


def log_of(workdir):
    return [json.loads(x) for x in (workdir / "vqa" / "log.jsonl").read_text().splitlines()]


def untimed(lines):
    timing = {"steps_per_second", "clips_per_second", "seconds"}
    return [{k: v for k, v in line.items() if k not in timing} for line in lines]


# Checkpoints at steps 6, 12 and 16; step 6 is in the middle of an accumulated update.
SHORT = stage(steps=16, eval_every=6, log_every=4, optim=optim(accumulate=4))


class Killed(BaseException):
    """Kills a run; not an Exception, like KeyboardInterrupt."""


def killed_after(data, count):
    """The same iterator, which raises before batch count + 1."""

    class Dying(type(data)):
        def __next__(self):
            self.given = getattr(self, "given", 0) + 1
            if self.given > count:
                raise Killed
            return super().__next__()

    data.__class__ = Dying
    return data


def test_training_learns_and_logs(tmp_path, capsys):
    state = train(tmp_path, stage(), dropout=0.0)
    lines = log_of(tmp_path)
    assert int(state.step) == 40
    assert [line["step"] for line in lines] == list(range(5, 41, 5))
    assert lines[-1]["loss"] < 0.1 * lines[0]["loss"]
    assert lines[-1]["val_srcc"] > 0.9
    assert [line["step"] for line in lines if "val_srcc" in line] == [10, 20, 30, 40]
    for line in lines:
        assert line["loss"] == line["mse"] and line["grad_norm"] > 0
        assert line["clips_per_second"] == pytest.approx(8 * line["steps_per_second"])
    # Step 40 is update 39 of the schedule, after 2 warm-up updates of 40.
    rate = 0.02 * 0.5 * (1 + math.cos(math.pi * 37 / 38))
    assert lines[-1]["learning_rate"] == pytest.approx(rate, rel=1e-4)
    out = capsys.readouterr()
    assert out.out == ""
    assert out.err.splitlines()[-1].startswith("vqa 40/40  loss ")
    assert "clips/s  ETA" in out.err


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run: (working directory, final state on the host); tests only read it."""
    path = tmp_path_factory.mktemp("whole")
    return path, jax.device_get(train(path, SHORT))


def assert_same_run(whole, workdir, state):
    path, wanted = whole
    assert same_bits(wanted, state)
    assert untimed(log_of(path)) == untimed(log_of(workdir))
    one, two = load_variables(path), load_variables(workdir)
    assert same_bits(one[0], two[0]) and one[1] == two[1]


@pytest.mark.parametrize("kill_after", [3, 13])
def test_a_killed_run_resumes_to_the_same_bits(tmp_path, whole, kill_after):
    with pytest.raises(Killed):
        train(tmp_path, SHORT, data=killed_after(batches(), kill_after))
    assert_same_run(whole, tmp_path, train(tmp_path, SHORT))


@pytest.mark.parametrize("killed", [False, True])
def test_training_ends_when_validation_no_longer_improves(tmp_path, killed):
    """Best at step 8; without a better one in two evaluations, training ends at step 16."""
    config = stage(steps=40, eval_every=4, patience=2, log_every=4)
    found = {4: 0.1, 8: 0.5, 12: 0.4, 16: math.nan, 20: 0.9}

    def evaluate(state):
        return {"srcc": found[int(state.step)]}

    if killed:
        with pytest.raises(Killed):
            train(tmp_path, config, data=killed_after(batches(), 13), evaluate=evaluate)
    state = train(tmp_path, config, evaluate=evaluate)
    assert int(state.step) == 16
    assert load_variables(tmp_path)[1]["step"] == 8
    assert is_finished(tmp_path / "vqa", 40, meta(), 8) and not is_finished(
        tmp_path / "vqa", 40, meta()
    )
    again = train(tmp_path, config, data=killed_after(batches(), 0), evaluate=evaluate)
    assert same_bits(jax.device_get(again), jax.device_get(state))  # no step more
    longer = stage(steps=40, eval_every=4, patience=3, log_every=4)
    assert int(train(tmp_path, longer, evaluate=lambda _: {"srcc": 0.0}).step) == 20


def test_interrupt_in_evaluation_leaves_a_run_that_goes_on(tmp_path, whole):
    task, _ = tiny_state(SHORT)
    measure, calls = evaluator(task), []

    def interrupted(state):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return measure(state)

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, SHORT, evaluate=interrupted)
    assert load_variables(tmp_path)[1]["step"] == 6
    assert_same_run(whole, tmp_path, train(tmp_path, SHORT))


def test_a_finished_run_is_not_repeated(whole):
    path, state = whole
    log = log_of(path)
    assert same_bits(state, train(path, SHORT, data=killed_after(batches(), 0)))
    assert log_of(path) == log


@pytest.mark.parametrize(("begun", "ended"), [(8, 1), (1, 8)])
def test_a_run_goes_on_on_another_number_of_devices(tmp_path, whole, eight_devices, begun, ended):
    with pytest.raises(Killed):
        train(tmp_path, SHORT, data=killed_after(batches(), 13), devices=begun)
    moved = train(tmp_path, SHORT, devices=ended)
    # Sums over 8 shards round differently, and Adam propagates the difference through the steps.
    for ours, theirs in zip(log_of(tmp_path), log_of(whole[0]), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4),
        jax.device_get(moved.params),
        whole[1].params,
    )


def test_another_config_or_worker_count_is_refused(whole):
    says = (
        "config_digest is 'abc' in the checkpoint, 'new' in this run; "
        "worker_count is 0 in the checkpoint, 4 in this run"
    )
    with pytest.raises(CheckpointError, match=says):
        train(whole[0], SHORT, config_digest="new", worker_count=4)


def test_a_bad_label_stops_within_a_step_and_names_its_record(tmp_path):
    order = batches(bad=17)
    step = next(i for i in range(1, 10) if 17 in next(order)["index"])
    seen = []

    class Counting(type(order)):
        def __next__(self):
            seen.append(1)
            return super().__next__()

    data = batches(bad=17)
    data.__class__ = Counting
    says = f"^step {step}: loss=nan, grad_norm=nan; target is not finite in record 17; "
    with pytest.raises(TrainingError, match=says) as error:
        train(tmp_path, stage(eval_every=40), data=data)
    assert "\n" not in str(error.value)
    assert len(seen) <= step + 1


def test_divergence_names_all_records_of_the_batch(tmp_path):
    config = stage(optim=optim(learning_rate=1e38, warmup_steps=0))
    with pytest.raises(TrainingError, match=r"^step \d+: .*its records (\d+, ){7}\d+ are finite"):
        train(tmp_path, config)
    with pytest.raises(CheckpointError):  # non-finite parameters were not saved
        load_variables(tmp_path)


def test_data_that_ends_or_has_another_batch_size_is_refused(tmp_path):
    short = iter(grain.MapDataset.source(records()).batch(8).to_iter_dataset())
    with pytest.raises(TrainingError, match="step 4: the training data ended"):
        train(tmp_path / "a", stage(), data=short)
    with pytest.raises(TrainingError, match="the loader gives batches of 4, but batch_size=8"):
        train(tmp_path / "b", stage(), data=batches(4))


def test_indivisible_batch_is_refused_before_anything_is_written(tmp_path, eight_devices):
    with pytest.raises(DagrError, match="batch_size=12 cannot be split evenly over 8 devices"):
        train(tmp_path, stage(batch_size=12), devices=8)
    assert not (tmp_path / "vqa").exists()


def test_predict_all_gives_each_record_once(eight_devices):
    task, state = tiny_state(stage())
    mesh = meshes.make_mesh(eight_devices)
    rows = records()[:19]
    padded = rows + [rows[0]] * 5
    data = [
        {k: np.stack([r[k] for r in padded[i : i + 8]]) for k in rows[0]}
        | {"mask": np.arange(i, i + 8) < 19}
        for i in range(0, 24, 8)
    ]
    predict = meshes.jit_predict(task.predict, mesh)
    variables = meshes.replicate(state.variables(), mesh)
    index, values = map(
        np.concatenate, zip(*predict_all(predict, variables, data, mesh), strict=True)
    )
    assert index.tolist() == list(range(19))
    wanted = task.predict(state.variables(), {"x": jnp.stack([r["x"] for r in rows])})
    # The same matrix product with another batch size: float32 rounding.
    np.testing.assert_allclose(values, wanted, atol=1e-6)


def test_the_average_is_what_is_measured_kept_and_resumed(tmp_path):
    config = stage(steps=12, eval_every=4, log_every=4, optim=optim(ema=0.9))
    plain = train(tmp_path / "plain", stage(steps=12, eval_every=4, log_every=4))
    whole = train(tmp_path / "whole", config)
    assert same_bits(whole.params, plain.params)  # averaging does not change the steps
    kept = load_variables(tmp_path / "whole")[0]
    assert same_bits(kept["params"], whole.average["params"])
    assert not same_bits(kept["params"], whole.params)
    with pytest.raises(Killed):
        train(tmp_path / "killed", config, data=killed_after(batches(), 9))
    resumed = train(tmp_path / "killed", config)
    assert same_bits((resumed.params, resumed.average), (whole.params, whole.average))


def test_a_signal_during_the_last_evaluation_stops_the_run_there(tmp_path, whole):
    task, _ = tiny_state(SHORT)
    plain = evaluator(task)

    def interrupted(state):
        if int(state.step) == SHORT.steps:
            os.kill(os.getpid(), signal.SIGINT)
        return plain(state)

    with pytest.raises(Interrupted, match="vqa: interrupted, saved at step 16/16"):
        train(tmp_path, SHORT, evaluate=interrupted)
    state = train(tmp_path, SHORT)
    assert same_bits(state.params, whole[1].params)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_after_the_step_and_nothing_is_lost(tmp_path, whole, number):
    data = batches()

    class Signalling(type(data)):
        def __next__(self):
            self.given = getattr(self, "given", 0) + 1
            if self.given == 9:
                os.kill(os.getpid(), number)
            return super().__next__()

    data.__class__ = Signalling
    before = signal.getsignal(number)
    with pytest.raises(Interrupted, match="vqa: interrupted, saved at step 9/16"):
        train(tmp_path, SHORT, data=data)
    assert signal.getsignal(number) is before
    # The next line of the log averages fewer steps; everything else is unchanged.
    assert same_bits(whole[1], train(tmp_path, SHORT))
    ours, theirs = load_variables(tmp_path), load_variables(whole[0])
    assert same_bits(ours[0], theirs[0]) and ours[1] == theirs[1]


def test_a_run_of_no_steps_keeps_its_start(tmp_path):
    config = stage(steps=0, optim=optim(warmup_steps=0))
    _, state = tiny_state(config)
    train(tmp_path, config)
    variables, kept = load_variables(tmp_path)
    assert same_bits(variables["params"], jax.device_get(state.params)) and kept["step"] == 0


def events(folder):
    """Reads (step, tag, scalar or picture size) from TensorBoard's record files."""
    found = []
    for path in sorted(folder.iterdir()):
        data, at = path.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack_from("<Q", data, at)
            event = event_pb2.Event.FromString(data[at + 12 : at + 12 + length])
            at += 12 + length + 4  # length and its checksum before, checksum after
            for value in event.summary.value:
                picture = (value.image.height, value.image.width)
                is_scalar = value.WhichOneof("value") == "simple_value"
                found.append((event.step, value.tag, value.simple_value if is_scalar else picture))
    return found


def test_tensorboard_holds_the_log_and_the_pictures(tmp_path):
    picture = np.zeros((4, 6, 3), np.uint8)
    config = stage(steps=4, eval_every=4, log_every=2, optim=optim())
    task, state = tiny_state(config)
    fit(
        name="vqa",
        task=task,
        config=config,
        state=state,
        train_iter=batches(),
        evaluate=evaluator(task),
        workdir=tmp_path,
        meta=meta(),
        mesh=meshes.make_mesh(jax.devices()[:1]),
        pictures=lambda: {"of/validation": picture},
    )
    found = events(tmp_path / "vqa" / "tensorboard")
    assert (4, "of/validation", (4, 6)) in found
    for line in log_of(tmp_path):
        for key in set(line) - {"step"}:
            # TensorBoard keeps float32.
            assert (line["step"], key, pytest.approx(line[key], rel=1e-6)) in found
    assert {"grad_norm", "learning_rate", "clips_per_second", "val_srcc"} <= {
        t for _, t, _ in found
    }
