"""What the machine lacks is named as what it is; odd names of files are written everywhere."""

import csv
import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dagr_jax import cli, convert
from dagr_jax.data.records import Listed
from dagr_jax.data.splits import read_split, write_split
from dagr_jax.runtime import machine
from dagr_jax.stages.run import Run
from dagr_jax.train.checkpoints import load_variables
from dagr_jax.train.meta import CheckpointError
from tests.convert.small import arrays_of, small_unet_shapes
from tests.programs import ROOT
from tests.tiny_run import tiny_config


def test_no_device_of_the_kind_that_is_asked_for(checkpoint, clips):
    call = [sys.executable, "-m", "dagr_jax.cli", "score", clips[0], "--checkpoint", checkpoint]
    environment = {**os.environ, "JAX_PLATFORMS": "cuda", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(call, env=environment, capture_output=True, text=True, check=False)
    line = done.stderr.splitlines()[-1]
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert line.startswith("dagr: JAX_PLATFORMS=cuda: JAX finds no such device here (")
    assert "unset it, or install the extra cuda12" in line


@pytest.mark.parametrize("file", ["meta/metadata", "variables", ""])
def test_a_checkpoint_that_may_not_be_read(checkpoint, tmp_path, file):
    """It may be whole: nobody is told to delete it."""
    copy = tmp_path / "copy"
    shutil.copytree(checkpoint, copy)
    for path in (tmp_path, *tmp_path.parents[:2]):
        path.chmod(0o755)
    (step,) = (path for path in copy.iterdir() if path.name.isdigit())
    (step / file).chmod(0)
    own = os.geteuid()
    if own == 0:  # root may read everything
        os.seteuid(65534)
    try:
        with pytest.raises(CheckpointError) as error:
            load_variables(copy)
    finally:
        os.seteuid(own)
        (step / file).chmod(0o755)
    assert "permissions" in str(error.value) and "delete" not in str(error.value)
    assert str(copy) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(("megabytes", "workers"), [(64, 0), (4096, 2)])
def test_small_shared_memory(tmp_path, monkeypatch, caplog, megabytes, workers):
    """A reading process that finds it full dies without a word; so threads read."""
    config = tiny_config()
    config.workers, config.sampling.size, config.vqa.batch_size = 2, (224, 224), 64
    monkeypatch.setattr(machine, "shared_memory", lambda: megabytes << 20)
    with caplog.at_level(logging.WARNING):
        assert Run(config, tmp_path).workers == workers
    assert len(caplog.messages) == (workers == 0)
    for line in caplog.messages:
        assert line.startswith("/dev/shm: has 64 MB, and the batches of 2 reading processes need")
        assert "docker run --shm-size" in line


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_weights_of_a_compiled_module(prefix):
    arrays = arrays_of(small_unet_shapes(True))
    plain, wrapped = (
        convert.from_state_dict(given)
        for given in (arrays, {f"{prefix}{key}": value for key, value in arrays.items()})
    )
    assert plain[0] == wrapped[0]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite(value):
    arrays = arrays_of(small_unet_shapes(True))
    key = "encoder1.0.weight"
    arrays[key] = np.where(arrays[key] == arrays[key].max(), value, arrays[key])
    with pytest.raises(convert.StateDictError, match=f"^{key} holds values that are not finite; "):
        convert.from_state_dict(arrays)


def test_a_split_names_every_file(tmp_path):
    """Names that are not UTF-8, or with signs that end a line elsewhere, come back."""
    names = [os.fsdecode(b"caf\xe9.mp4"), "é.mp4", "a\u2028b.mp4", 'c"\n,d.mp4']
    listed = [Listed(name, f"c{i}") for i, name in enumerate(names)]
    parts = ["train", "val", "test", "train"]
    write_split(tmp_path / "split.csv", listed, parts)
    assert read_split(tmp_path / "split.csv", listed) == parts


def test_names_on_stdin_that_are_no_utf8(checkpoint, clips, tmp_path):
    name = tmp_path / os.fsdecode(b"caf\xe9.mp4")
    shutil.copy(clips[0], name)
    call = [sys.executable, "-m", "dagr_jax.cli", "score", "-", "--checkpoint", str(checkpoint)]
    done = subprocess.run(
        [*call, "--format", "csv", "--workers", "1"],
        input=os.fsencode(name) + b"\n",
        env={**os.environ, "PYTHONIOENCODING": "utf-8:strict", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0 and done.stdout.splitlines()[1].startswith(os.fsencode(name))


def test_debug_may_stand_behind_a_subcommand(tmp_path, capsys):
    path = tmp_path / "two.csv"
    path.write_text("video,mos,ours\na,3,2\nb,2,1\n")
    for call in (["report", "--debug", "table"], ["report", "table", "--debug"]):
        with pytest.raises(ValueError, match="has 2 videos; a correlation needs at least 3"):
            cli.main([*call, str(path)])
    assert cli.main(["report", "table", str(path)]) == 1
    assert "give the predictions of more videos" in capsys.readouterr().err


def test_odd_names_in_every_format(checkpoint, clips, tmp_path, monkeypatch, capsys):
    """A name that is not UTF-8, and names of nearly 255 bytes; --resume meets them again."""
    monkeypatch.chdir(tmp_path)
    names = [os.fsdecode(b"f\xfcr.mp4"), f"{'n' * 251}.mp4", f"{'é' * 125}.mp4"]
    for name in names:
        shutil.copy(clips[0], name)
    call = ["score", *names, "--checkpoint", str(checkpoint)]
    for form in ("csv", "json", "jsonl", "txt"):
        assert cli.main([*call, "--out", f"rows.{form}"]) == 0
    with open("rows.csv", encoding="utf-8", errors="surrogateescape", newline="") as file:
        assert [row["file"] for row in csv.DictReader(file)] == names
    assert [row["file"] for row in json.loads(Path("rows.json").read_text())] == names
    capsys.readouterr()
    assert cli.main([*call, "--overlay", "look", "--page", "page.html", "--format", "jsonl"]) == 0
    made = sorted(os.listdir("look"))
    assert len(made) == 6 and {name[-4:] for name in made} == {".mp4", ".png"}
    assert max(len(os.fsencode(name)) for name in made) <= 255
    assert sorted(os.listdir()) == sorted(
        [*names, "look", "page.html", *(f"rows.{form}" for form in ("csv", "json", "jsonl", "txt"))]
    )
