import json
import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dagr_jax import __version__
from dagr_jax.train import mesh as meshes
from dagr_jax.train.checkpoints import Checkpoints, load_variables
from dagr_jax.train.meta import BY_SRCC, Best, CheckpointError

from .tiny import batches, meta, same_bits, stage, tiny_state


def state_at(step, value=1.0):
    _, state = tiny_state(stage())
    params = jax.tree.map(lambda x: jnp.full_like(x, value), state.params)
    frozen = {"params": {"saliency": {"w": jnp.arange(3.0)}}, "batch_stats": {}}
    return state.replace(step=jnp.asarray(step, jnp.int32), params=params, frozen=frozen)


def save_run(folder, scores, best=BY_SRCC, **changes):
    """One checkpoint a score; the parameters of step i are all i."""
    data = batches()
    with Checkpoints(folder, best) as checkpoints:
        for i, score in enumerate(scores, start=1):
            next(data)
            metrics = None if score is None else {best.metric: score}
            checkpoints.save(i, state_at(i, float(i)), data, metrics, meta(**changes))
        return checkpoints.best_step, checkpoints.latest_step, data


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A checkpoint of one step; tests only read it."""
    path = tmp_path_factory.mktemp("saved")
    save_run(path, [0.5])
    return path


def folders(path):
    return sorted(p.name for p in path.iterdir())


def test_latest_and_best_are_kept_and_survive_reopening(tmp_path):
    best, latest, _ = save_run(tmp_path, [0.5, 0.9, 0.7, float("nan"), None])
    assert (best, latest) == (2, 5)
    assert folders(tmp_path) == ["2", "5"]
    with Checkpoints(tmp_path) as checkpoints:
        assert (checkpoints.best_step, checkpoints.latest_step) == (2, 5)
        checkpoints.save(6, state_at(6), None, {"srcc": 0.8}, meta())
        assert checkpoints.best_step == 2
    assert folders(tmp_path) == ["2", "6"]


def test_a_loss_is_best_when_smallest_and_a_tie_goes_to_the_later(tmp_path):
    best, _, _ = save_run(tmp_path, [0.5, 0.2, 0.2, 0.3], Best("kl", "min"))
    assert best == 3
    assert folders(tmp_path) == ["3", "4"]
    assert load_variables(tmp_path)[1]["step"] == 3


def test_restore_gives_back_state_and_data_position(tmp_path):
    _, _, data = save_run(tmp_path, [0.1, 0.2])
    wanted = next(data)
    fresh = batches()
    with Checkpoints(tmp_path) as checkpoints:
        state = checkpoints.restore_latest(state_at(0, 0.0), fresh, meta())
    assert same_bits(state, state_at(2, 2.0))
    np.testing.assert_array_equal(next(fresh)["index"], wanted["index"])


def test_nothing_to_restore_is_none(tmp_path):
    with Checkpoints(tmp_path / "new") as checkpoints:
        assert checkpoints.restore_latest(state_at(0), batches(), meta()) is None


def test_eight_devices_write_and_one_reads_and_the_reverse(tmp_path, eight_devices):
    eight, one = meshes.make_mesh(eight_devices), meshes.make_mesh(eight_devices[:1])
    for name, writes, reads in (("a", eight, one), ("b", one, eight)):
        with Checkpoints(tmp_path / name) as checkpoints:
            checkpoints.save(3, meshes.replicate(state_at(3), writes), None, None, meta())
        with Checkpoints(tmp_path / name) as checkpoints:
            template = meshes.replicate(state_at(0, 0.0), reads)
            state = checkpoints.restore_latest(template, None, meta())
        assert same_bits(state, state_at(3))
        assert state.step.sharding.is_equivalent_to(meshes.replicated(reads), 0)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"worker_count": 2}, "worker_count is 0 in the checkpoint, 2 in this run"),
        ({"config_digest": "xyz"}, "config_digest is 'abc' in the checkpoint, 'xyz' in this run"),
        (
            {"version": "9.9.9"},
            f"version is '{__version__}' in the checkpoint, '9.9.9' in this run",
        ),
        ({"model": "vqa"}, "model is 'dagr' in the checkpoint, 'vqa' in this run"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused_in_one_line(saved, changes, says):
    with Checkpoints(saved) as checkpoints, pytest.raises(CheckpointError, match=says) as error:
        checkpoints.restore_latest(state_at(0), batches(), meta(**changes))
    assert "\n" not in str(error.value)


def test_a_checkpoint_of_another_shape_is_refused(saved):
    state = state_at(0)
    wide = state.replace(params={**state.params, "Dense_0": {"bias": jnp.zeros(9)}})
    says = r"variables/params/Dense_0/bias is \(8,\) in the checkpoint, \(9,\) in this run"
    with Checkpoints(saved) as checkpoints, pytest.raises(CheckpointError, match=says):
        checkpoints.restore_latest(wide, batches(), meta())


def test_best_metric_must_be_measured(tmp_path):
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(CheckpointError, match="best='srcc'"):
        checkpoints.save(1, state_at(1), None, {"plcc": 0.5}, meta())


def test_load_variables_takes_the_best_of_workdir_or_folder(tmp_path):
    save_run(tmp_path / "vqa", [0.5, 0.9, 0.7])
    save_run(tmp_path / "saliency", [None, None], model="unet3d", mos_range=None)
    for path in (tmp_path, tmp_path / "vqa", str(tmp_path)):
        variables, found = load_variables(path)
        assert same_bits(variables, state_at(2, 2.0).variables())
        assert (found["step"], found["metrics"]) == (2, {"srcc": 0.9})
        assert {k: found[k] for k in meta()} == meta()
    assert load_variables(tmp_path / "saliency")[1]["step"] == 2


def write_stage(folder, value, seconds, **changes):
    """A stage of one step whose parameters are all `value`, made after so many seconds."""
    save_run(folder, [None] * value, **changes)
    os.utime(folder / str(value), (seconds, seconds))


NETWORK = {"model": "unet3d", "mos_range": None}


def test_of_several_stages_the_complete_model_is_taken_whatever_its_name_and_age(tmp_path):
    write_stage(tmp_path / "a network", 1, 10, **NETWORK)
    write_stage(tmp_path / "model", 2, 20)
    write_stage(tmp_path / "z network", 3, 30, **NETWORK)
    (tmp_path / "maps").mkdir()
    (tmp_path / "split.csv").touch()
    variables, found = load_variables(tmp_path)
    assert same_bits(variables, state_at(2, 2.0).variables()) and found["mos_range"] == [1.0, 5.0]


def test_of_several_complete_models_the_one_that_was_made_last_is_taken(tmp_path):
    write_stage(tmp_path / "first", 1, 10)
    write_stage(tmp_path / "finetuned", 2, 20)
    write_stage(tmp_path / "network", 3, 30, **NETWORK)
    assert load_variables(tmp_path)[1]["step"] == 2
    os.utime(tmp_path / "first" / "1", (25, 25))
    assert load_variables(tmp_path)[1]["step"] == 1


def test_without_a_complete_model_the_last_network_is_taken(tmp_path):
    write_stage(tmp_path / "z", 1, 10, **NETWORK)
    write_stage(tmp_path / "a", 2, 20, **NETWORK)
    (tmp_path / "model" / "1").mkdir(parents=True)  # of a run that was killed
    assert load_variables(tmp_path)[1]["step"] == 2


def test_load_variables_needs_neither_optimizer_state_nor_data(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "vqa")
    shutil.rmtree(tmp_path / "vqa" / "1" / "state")
    shutil.rmtree(tmp_path / "vqa" / "1" / "data")
    assert same_bits(load_variables(tmp_path)[0], state_at(1, 1.0).variables())


def test_load_variables_says_when_there_is_none(saved, tmp_path):
    unfinished = tmp_path / "run"
    shutil.copytree(saved, unfinished / "vqa")
    (unfinished / "vqa" / "1").rename(unfinished / "vqa" / "1.orbax-checkpoint-tmp")
    for path in (tmp_path / "absent", tmp_path, unfinished):
        with pytest.raises(CheckpointError, match="no complete checkpoint") as error:
            load_variables(path)
        assert "\n" not in str(error.value)


# Orbax leaves pending reads that fail after its own error.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("damage", ["variables lost", "values cut", "meta cut"])
def test_a_damaged_checkpoint_is_one_line(saved, tmp_path, damage):
    step = tmp_path / "vqa" / "1"
    shutil.copytree(saved, tmp_path / "vqa")
    if damage == "variables lost":
        shutil.rmtree(step / "variables")
    elif damage == "meta cut":
        (step / "meta" / "metadata").write_text('{"model": ')
    else:
        for file in (step / "variables").rglob("d/*"):
            file.write_bytes(file.read_bytes()[:20])
    with pytest.raises(CheckpointError, match="vqa/1: cannot be read") as error:
        load_variables(tmp_path)
    assert "\n" not in str(error.value)


def test_leftovers_of_a_killed_write_are_removed(tmp_path):
    save_run(tmp_path, [0.5])
    shutil.copytree(tmp_path / "1", tmp_path / "2.orbax-checkpoint-tmp-0")
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest_step == 1
        checkpoints.save(2, state_at(2), None, {"srcc": 0.6}, meta())
    assert folders(tmp_path) == ["2"]


def test_meta_on_disk_is_strict_json(tmp_path):
    save_run(tmp_path, [float("nan")])

    def refuse(constant):
        raise AssertionError(constant)

    text = (tmp_path / "1" / "meta" / "metadata").read_text()
    assert json.loads(text, parse_constant=refuse)["metrics"] == {"srcc": None}


def test_saving_is_silent(tmp_path, capfd, caplog):
    save_run(tmp_path, [0.1])
    load_variables(tmp_path)
    out, err = capfd.readouterr()
    assert out == err == ""
    assert not [r for r in caplog.records if "orbax" in r.pathname]
