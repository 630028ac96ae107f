"""A mistake in the command line or in the configuration of a run is one line."""

import json
import os
import subprocess
import sys

import pytest

from dagr_jax import cli, stages
from dagr_jax.configs import vqa
from dagr_jax.runtime.errors import DagrError
from tests.programs import ROOT
from tests.tiny_run import shrink
from tests.video.clips import write_rated


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """The files that the runs name; not to be changed."""
    home = tmp_path_factory.mktemp("mistakes")
    write_rated(home / "clips")
    (home / "file").write_text("not a folder")
    (home / "folder").mkdir()
    (home / "bytes.csv").write_bytes(bytes(range(256)))
    return home


RUNS = [
    (["--config=gone.py"], "gone.py: No such file or directory; check the path"),
    (["--config={vqa}:folder,gone"], "recipe 'gone' is unknown; one of paper, release"),
    (["--config={vqa}:gone"], "unknown data set 'gone'; available: synthetic"),
    (["--config={vqa}", "--config.gone=1"], "--config: it has no field gone; check the names"),
    (["--config={vqa}", "--config.seed=a"], "flag --config.seed=a: invalid literal for int()"),
    (["--config={vqa}", "gone"], "unknown stage gone; one of prepare, saliency"),
    (["--config={vqa}", "--gone=1"], "Unknown command line flag 'gone'"),
    (["--config={vqa}", "--workdir=file"], "file: File exists; name another path"),
    (
        ["--config={vqa}", "--config.data_dir=folder"],
        "folder: exists and is not a prepared set",
    ),
    (["--config={vqa}", "--process_id=1"], "--coordinator, --num_processes missing"),
]
# Each run is a fork of one process, because the imports take seconds.
PROGRAM = """
import json, os, sys
from absl import app
from dagr_jax import main, stages
ended = []
for number, arguments in enumerate(json.loads(sys.argv[1])):
    child = os.fork()
    if not child:
        os.dup2(os.open(f"{number}.log", os.O_CREAT | os.O_WRONLY), 2)
        sys.argv = ["main", *arguments]
        try:
            app.run(main.main, flags_parser=main._parsed)
        except SystemExit as end:
            os._exit(end.code)  # without Python's own end, which takes a second
    ended.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(json.dumps(ended))
"""


@pytest.fixture(scope="module")
def ended(home):
    """(exit code, lines of stderr) of all `RUNS`."""
    config = ROOT / "configs" / "vqa.py"
    runs = [
        [f"--workdir={home / f'run{i}'}", *(a.format(vqa=config) for a in arguments)]
        for i, (arguments, _) in enumerate(RUNS)
    ]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(runs)],
        cwd=home,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = [(home / f"{i}.log").read_text().splitlines() for i in range(len(runs))]
    return list(zip(json.loads(done.stdout), told, strict=True))


@pytest.mark.parametrize("number", range(len(RUNS)), ids=[said for _, said in RUNS])
def test_a_mistake_in_a_run_is_one_line(ended, number):
    code, told = ended[number]
    assert code == 1 and len(told) == 1, told
    assert told[0].startswith(f"error: {RUNS[number][1]}")


@pytest.fixture(scope="module")
def data(home):
    """The clips, prepared as `shrink` has it."""
    arguments = ["--frames", "4", "--size", "32", "48", "--source", str(home / "clips")]
    folder = home / "data"
    assert cli.main(["prepare", "folder", *arguments, "--out", str(folder)]) == 0
    return folder


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"vqa.batch_size": 1000},
            "has 20 records, fewer than the batch of 1000; lower batch_size",
        ),
        ({"vqa.optim.name": "sgd"}, "optim.name='sgd' is unknown; use adam or adamw"),
        ({"vqa.optim.schedule": "step"}, "optim.schedule='step' is unknown; use cosine"),
        ({"vqa.optim.warmup_steps": 99}, "optim.warmup_steps=99 is not below the"),
        ({"vqa.optim.accumulate": 0}, "optim.accumulate=0 must be at least 1"),
        ({"vqa.optim.groups": (("(", 1.0, 1.0),)}, "is not a valid regular expression"),
        ({"vqa.frames": 5}, "frames=5 exceeds the 4 frames of a record"),
        ({"vqa.augment.crop": (99, 99)}, "augment.crop=(99, 99) is larger than the frames, 32x48"),
        ({"model.args.vqa.head": "both"}, "head 'both' is unknown; use one of full, spatial"),
        ({"model.args.vqa.num_heads": 3}, "num_heads=3 does not divide the 8 channels"),
        ({"model.args.preset": "both"}, "preset 'both' is unknown; use one of paper, release"),
        ({"model.args.alpha": -0.5}, "alpha must be in [0, 1], got -0.5"),
        ({"model.name": "both"}, "unknown model 'both'; available: "),
        ({"split.file": "bytes.csv"}, "bytes.csv: it is no text; save it as UTF-8"),
        ({"split.protocol": "both"}, "protocol 'both' is unknown; one of random, repeated"),
        ({"vqa.init": "gone"}, "gone: no complete checkpoint in it"),
        ({"vqa.backbone": "gone.safetensors"}, "gone.safetensors: there is no such file"),
        ({"sampling.num_frames": 0}, "a stream of 0 frames is empty; set at least 1"),
        ({"sampling.rule": "both"}, "sampling rule 'both' is unknown; use one of linspace"),
        ({"sampling.size": (0, 8)}, "to (0, 8); every side must be at least 1"),
    ],
)
def test_a_mistake_in_a_configuration(home, data, monkeypatch, tmp_path, changes, said):
    monkeypatch.chdir(home)
    config = shrink(vqa.get_config("folder,embedded"))
    config.model.args.alpha = 0.0
    config.dataset.args.source = str(home / "clips")
    if not any(name.startswith("sampling") for name in changes):
        config.data_dir = str(data)
    with config.unlocked():
        config.update_from_flattened_dict(changes)
    with pytest.raises(DagrError) as error:
        stages.run_stages(config, tmp_path / "run", ["prepare", "vqa"])
    assert said in str(error.value) and "\n" not in str(error.value)
