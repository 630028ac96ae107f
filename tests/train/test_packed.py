"""Checkpoints in one file: half the size, nearly the same scores."""

import json

import jax
import numpy as np
import pytest
import safetensors.numpy

from dagr_jax import cli
from dagr_jax.convert import write_safetensors
from dagr_jax.score import Scorer
from dagr_jax.train.checkpoints import load_variables
from dagr_jax.train.meta import CheckpointError
from dagr_jax.train.packed import read_packed, write_packed


def test_a_packed_checkpoint_scores_nearly_the_same(checkpoint, tmp_path, capsys):
    path = tmp_path / "small.safetensors"
    assert cli.main(["convert", str(checkpoint), "--pack", str(path)]) == 0
    assert capsys.readouterr().out == f"{path}\n"
    frames = np.random.default_rng(0).integers(0, 256, (9, 40, 60, 3), np.uint8)
    whole, packed = (Scorer.from_checkpoint(one) for one in (checkpoint, path))
    # float16 has a relative precision of 5e-4
    np.testing.assert_allclose(packed.score(frames).mos, whole.score(frames).mos, rtol=5e-3)
    assert packed.inputs == whole.inputs and packed.digest != whole.digest
    big = max(jax.tree.leaves(whole.variables), key=np.size)
    assert big.dtype == np.float32
    same = jax.tree.map(lambda a, b: a.shape == b.shape and b.dtype == np.float32,
                        dict(whole.variables), dict(packed.variables))  # fmt: skip
    assert all(jax.tree.leaves(same))


def test_kernels_are_float16_and_vectors_keep_their_bits(checkpoint, tmp_path):
    variables, meta = load_variables(checkpoint)
    path = tmp_path / "a.safetensors"
    write_packed(path, variables, meta)
    stored = safetensors.numpy.load_file(path)
    assert {value.dtype for value in stored.values() if value.ndim > 1} == {np.dtype(np.float16)}
    back, told = read_packed(path)
    assert told == json.loads(json.dumps(meta))
    for one, other in zip(jax.tree.leaves(variables), jax.tree.leaves(back), strict=True):
        if one.ndim < 2:
            np.testing.assert_array_equal(one, other)


def test_values_outside_float16_are_refused(tmp_path):
    variables = {"params": {"kernel": np.full((2, 2), 1e6, np.float32)}}
    with pytest.raises(CheckpointError, match="the values of params/kernel do not fit into float"):
        write_packed(tmp_path / "a.safetensors", variables, {})
    assert not list(tmp_path.iterdir())
    with pytest.raises(CheckpointError, match="its suffix is not .safetensors"):
        write_packed(tmp_path / "a.npz", variables, {})


def test_other_files_are_one_line(tmp_path):
    path = tmp_path / "a.safetensors"
    write_safetensors(path, {"x": np.zeros(2, np.float32)}, {})
    with pytest.raises(CheckpointError, match="not a checkpoint of this package; convert PyTorch"):
        Scorer.from_checkpoint(path)
    path.write_bytes(b"\xff" * 99)
    with pytest.raises(CheckpointError, match=r"a\.safetensors: cannot be read"):
        Scorer.from_checkpoint(path)
