"""A mistake that the user can fix is one line of a command; a defect shows its traceback."""

import errno
import json
import os
import resource
import subprocess
import sys
import threading
from multiprocessing import Pipe

import jax
import numpy as np
import pytest

from dagr_jax import cli
from dagr_jax.models.contract import Outputs
from dagr_jax.runtime.errors import DagrError
from dagr_jax.score import Scorer, sources
from dagr_jax.video import readers
from dagr_jax.video.inputs import InputSpec, Resize, Stream
from tests.programs import ROOT
from tests.video.clips import write_rated

PREDICTIONS = "video,mos,a\n" + "".join(f"{i}.mp4,{i % 5},{(7 * i) % 11}\n" for i in range(12))


@pytest.fixture(scope="module")
def home(tmp_path_factory, checkpoint):
    """The files that the commands are called with; not to be changed."""
    home = tmp_path_factory.mktemp("mistakes")
    write_rated(home / "clips")
    (home / "checkpoint").symlink_to(checkpoint)
    (home / "file").write_text("not a folder")
    (home / "folder").mkdir()
    (home / "text.safetensors").write_text("not weights")
    (home / "bytes.csv").write_bytes(bytes(range(256)))
    (home / "predictions.csv").write_text(PREDICTIONS)
    (home / "other.csv").write_text(PREDICTIONS.replace("0.mp4", "x.mp4"))
    told = home / "told"
    told.mkdir()
    (told / "predictions.csv").write_text(PREDICTIONS)
    (told / "metrics.json").write_text("{}")
    arguments = ["--source", str(home / "clips"), "--out", str(home / "set")]
    assert cli.main(["prepare", "folder", *arguments, *SAMPLING]) == 0
    return home


SAMPLING = ["--frames", "4", "--size", "24", "32"]
SCORE = ["score", "clips/0.mp4", "--checkpoint", "checkpoint", "--workers", "1"]
EVALUATE = ["evaluate", "set", "--checkpoint", "checkpoint"]
PREPARE = ["prepare", "folder", *SAMPLING]
CLIPS = ["--source", "clips"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([*SCORE[:2], "--checkpoint", "gone"], "gone: no complete checkpoint in it"),
        ([*SCORE, "--out", "gone/rows.csv"], "gone/rows.csv: No such file or directory; check the"),
        ([*SCORE, "--out", "file/rows.csv"], "Not a directory; check the path"),
        ([*SCORE, "--overlay", "file"], "file: File exists; name another path"),
        ([*SCORE, "--maps", "folder"], "folder/0: the checkpoint makes its own saliency maps"),
        (["score", "gone.mp4", *SCORE[2:]], "gone.mp4: there is no such file; check the path"),
        (["watch", "clips/0.mp4", "--checkpoint", "gone"], "gone: no complete checkpoint in it"),
        ([*EVALUATE[:2], "--checkpoint", "gone", "--workdir", "new"], "gone: no complete check"),
        (["evaluate", "folder", *EVALUATE[2:], "--workdir", "new"], "folder: is not a prepared s"),
        ([*EVALUATE, "--workdir", "file"], "file/set: Not a directory; check the path"),
        ([*EVALUATE, "--workdir", "."], "set: exists already; use another --workdir"),
        ([*EVALUATE, "--workdir", "new", "--maps", "folder"], "folder: the checkpoint makes its"),
        (["prepare", "gone", *CLIPS, "--out", "new"], "unknown data set 'gone'; available: "),
        ([*PREPARE, *CLIPS, "--out", "folder"], "folder: exists and is not a prepared set; name"),
        ([*PREPARE, *CLIPS, "--out", "file/new"], "file/new: Not a directory; check the path"),
        ([*PREPARE, "--source", "folder", "--out", "new"], "or labels.xlsx is not in it; give the"),
        (
            [*PREPARE, *CLIPS, "--out", "new", "--labels", "gone"],
            "gone: No such file or directory",
        ),
        ([*PREPARE, *CLIPS, "--out", "new", "--labels", "bytes.csv"], "bytes.csv: it "),
        (["prepare", "diem", "--source", "gone", "--out", "new"], "gone: no video of DIEM with"),
        (["convert", "gone.safetensors", "--out", "new"], "gone.safetensors: there is no such"),
        (["convert", "text.safetensors", "--out", "new"], "text.safetensors: cannot be read"),
        (["convert", "file", "--out", "new"], "file: its suffix is unknown; give one of"),
        (["convert", "--vqa", "text.safetensors", "--out", "new"], "safetensors: cannot be read"),
        (["convert", "gone", "--to-torch", "a.safetensors"], "gone: no complete checkpoint"),
        (
            ["convert", "checkpoint", "--to-torch", "gone/a.safetensors"],
            "No such file or directory",
        ),
        (["report", "table", "gone.csv"], "gone.csv: there is no such file; give a"),
        (["report", "table", "bytes.csv"], "bytes.csv: it is no text; save it as UTF-8"),
        (["report", "table", "folder"], "folder/predictions.csv: there is no such file; give"),
        (["report", "table", "told"], "told/metrics.json: names no data set; put DATASET= before"),
        (["report", "table", "predictions.csv", "--fuse", "b=c"], "--fuse b=c: is not NAME="),
        (["report", "compare", "predictions.csv", "other.csv"], "videos are of one alone"),
        (["report", "sweep", "folder"], "folder: holds no sweep; name the workdir of a"),
        (["report", "saliency", "checkpoint", "--data", "set"], "set: no prepared saliency set"),
        (
            ["report", "registers", "checkpoint", "--data", "set", "--out", "a.png"]
            + ["--classes", "predictions.csv"],
            "predictions.csv: has no columns video and class; name them in the first line",
        ),
        (
            ["report", "registers", "checkpoint", "--data", "set", "--out", "a.png"]
            + ["--classes", "bytes.csv"],
            "bytes.csv: it is no text; save it as UTF-8",
        ),
        (
            ["report", "strips", "gone.mp4", "--checkpoint", "checkpoint", "--out", "a.png"],
            "gone.mp4: there is no such file; check the path",
        ),
        (
            ["report", "strips", "clips/0.mp4", "--checkpoint", "checkpoint"]
            + ["--out", "gone/a.png"],
            "gone/a.png: No such file or directory; check the path",
        ),
    ],
)
def test_a_mistake_is_one_line(home, monkeypatch, capfd, arguments, said):
    monkeypatch.chdir(home)
    before = {*os.listdir()}
    assert cli.main(arguments) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("dagr: ") and said in line and "Error: " not in line
    assert line.count(" ; ") == 0 and not line.endswith(";")
    assert {*os.listdir()} - before <= {".new.partial"}  # what dagr prepare has decoded


def test_debug_shows_where_a_mistake_was_found(home, monkeypatch):
    monkeypatch.chdir(home)
    for arguments in (
        [*SCORE[:2], "--checkpoint", "gone"],
        [*SCORE, "--out", "gone/rows.csv"],
        [*EVALUATE, "--workdir", "."],
    ):
        with pytest.raises(DagrError):
            cli.main([*arguments, "--debug"])


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ([*SCORE, "--out", "{new}.csv"], "new.csv: "),
        pytest.param(
            [*EVALUATE, "--workdir", "{new}"], "new/.set.partial/", marks=pytest.mark.slow
        ),
        ([*PREPARE, *CLIPS, "--out", "{new}"], ".new.partial/"),
        (
            ["convert", "checkpoint", "--to-torch", "{new}.safetensors"],
            "new.saliency.safetensors: ",
        ),
        (
            ["report", "table", "predictions.csv", "--bootstrap", "10", "--out", "{new}.csv"],
            "new.csv: ",
        ),
    ],
)
def test_a_full_disk_is_one_line(home, monkeypatch, capfd, tmp_path, arguments, name):
    """Files may not grow beyond some bytes, which is how a full disk looks to the program."""
    monkeypatch.chdir(home)
    Scorer.from_checkpoint("checkpoint")  # compiled while there is room for the cache
    arguments = [argument.format(new=tmp_path / "new") for argument in arguments]
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    kept = jax.config.jax_persistent_cache_min_compile_time_secs
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1e9)  # no cut program in it
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, before[1]))
    try:
        code = cli.main(arguments)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", kept)
    (line,) = [one for one in capfd.readouterr().err.splitlines() if one.startswith("dagr: ")]
    assert code == 1 and "File too large" in line
    assert line.startswith(f"dagr: {tmp_path}/{name}")


DEFECTS = [
    ValueError("a shape does not fit"),
    OSError("a pipe"),
    FileNotFoundError(errno.ENOENT, "No such file or directory", "/proc/of-ours"),
]


COMMANDS = [
    (SCORE, "score.scorer.load_variables"),
    ([*SCORE, "--out", "{new}.csv"], "report.tables.write"),
    (["watch", "clips/0.mp4", "--checkpoint", "checkpoint"], "score.scorer.load_variables"),
    ([*EVALUATE, "--workdir", "{new}"], "data.loader.eval_batches"),
    ([*PREPARE, *CLIPS, "--out", "{new}"], "data.decode_set._digest_in"),
    (["convert", "checkpoint", "--to-torch", "{new}.safetensors"], "convert.layers.to_torch"),
    (["report", "table", "predictions.csv"], "metrics.agreement.fit_logistic"),
    (
        ["report", "strips", "clips/0.mp4", "--checkpoint", "checkpoint", "--out", "{new}.png"],
        "report.strips.strips",
    ),
    (["bench", "loader"], "bench.loader.measure"),
]


# All defects in one command, and one in each of the others.
@pytest.mark.parametrize(
    ("arguments", "function", "defect"),
    [(*COMMANDS[0], defect) for defect in DEFECTS]
    + [(*command, DEFECTS[i % 3]) for i, command in enumerate(COMMANDS[1:])],
)
def test_a_defect_is_raised(home, monkeypatch, capfd, tmp_path, arguments, function, defect):
    """Out of `main`, so that Python shows its traceback and exits with 1."""
    monkeypatch.chdir(home)

    def broken(*_, **__):
        raise defect

    monkeypatch.setattr(f"dagr_jax.{function}", broken)
    arguments = [argument.format(new=tmp_path / "new") for argument in arguments]
    with pytest.raises(type(defect)) as error:
        cli.main(arguments)
    assert error.value is defect
    assert "dagr: " not in capfd.readouterr().err


def python(code, folder, *arguments):
    """(exit code, lines of stderr) of a program in a folder."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stderr.splitlines()


def test_a_defect_shows_its_traceback(home):
    defect = DEFECTS[1]
    broken = f"def broken(*a, **k): raise {defect!r}\n"
    programs = [
        (
            f"{broken}import sys\nfrom dagr_jax import cli\n"
            "from dagr_jax.metrics import agreement\nagreement.fit_logistic = broken\n"
            "sys.exit(cli.main())",
            ["report", "table", "predictions.csv"],
        ),
        (
            f"{broken}from absl import app\nfrom dagr_jax import main, stages\n"
            "stages.prepare_set = broken\napp.run(main.main, flags_parser=main._parsed)",
            [f"--config={ROOT}/tests/tiny_run.py", f"--workdir={home.parent / 'defect'}"],
        ),
    ]
    for code, arguments in programs:
        returned, told = python(code, home, *arguments)
        assert returned == 1 and told[-1] == f"{type(defect).__name__}: {defect}"
        assert any(line.startswith("Traceback") for line in told)


@pytest.mark.parametrize(
    ("error", "said", "shown"),
    [
        (DagrError("a.mp4", "it is bad", "copy it"), ["a.mp4", "it is bad", "copy it"], False),
        (
            OSError(errno.EIO, "Input/output error"),
            "(OSError: [Errno 5] Input/output error)",
            False,
        ),
        (MemoryError(), "(MemoryError)", False),
        (KeyError("rate"), "(KeyError: 'rate')", True),
    ],
)
def test_a_file_that_a_reader_fails_on(monkeypatch, capfd, error, said, shown):
    """Whatever it is, it is the row of that file; --debug shows the traceback."""
    if shown:
        monkeypatch.setenv("DAGR_DEBUG", "1")

    def broken(*_):
        raise error

    monkeypatch.setattr(readers, "read_clips", broken)
    ours, theirs = Pipe()
    spec = InputSpec({"frames": Stream("linspace", 2, Resize((8, 8)))})
    task = {"path": "a.mp4", "spec": spec.to_json(), "seconds": 0.0, "limits": None}
    thread = threading.Thread(target=readers.serve, args=[theirs])
    thread.start()
    ours.send_bytes(json.dumps(task).encode())
    kind, fields = json.loads(ours.recv_bytes())
    ours.close()
    thread.join()
    if isinstance(said, str):
        assert fields[0] == "a.mp4" and fields[1] == f"reading it failed {said}" and fields[2]
    else:
        assert fields == said
    assert kind == "error" and ("Traceback" in capfd.readouterr().err) == shown


@pytest.mark.parametrize("batch_size", [1, 2])
def test_an_error_of_one_file_is_its_row(home, monkeypatch, capfd, batch_size):
    """Whether reading it fails, the model fails on it, or its score is not a number."""
    scorer = Scorer.from_checkpoint(home / "checkpoint")
    names = [str(home / "clips" / f"{i}.mp4") for i in range(4)]
    real = sources.read_clips

    def read(path, *more):
        if path == names[1]:
            raise OSError(errno.EIO, "Input/output error", path)
        if path == names[2]:
            raise KeyError("of ours")
        yield from real(path, *more)

    monkeypatch.setattr(sources, "read_clips", read)
    rows = list(scorer.score_many(names, batch_size=batch_size))
    wanted = [scorer.score(names[i]).score for i in (0, 3)]
    np.testing.assert_allclose([rows[0].score, rows[3].score], wanted, rtol=1e-5)
    said = f"OSError: [Errno 5] Input/output error: '{names[1]}'"
    assert rows[1].error == (
        f"{names[1]}: scoring it failed ({said}); check the disk, or name another one"
    )
    assert rows[2].error.startswith(f"{names[2]}: scoring it failed (KeyError: 'of ours'); ")
    assert "Traceback" not in capfd.readouterr().err

    def broken(*_):
        raise RuntimeError("of the model")

    with monkeypatch.context() as patch:
        patch.setattr("dagr_jax.score.predictor.Predictor.predict", broken)
        patch.setenv("DAGR_DEBUG", "1")
        rows = list(scorer.score_many([names[0], names[3]], batch_size=batch_size))
        assert ["(RuntimeError: of the model)" in row.error for row in rows] == [True, True]
        assert "Traceback" in capfd.readouterr().err
        with pytest.raises(RuntimeError, match="of the model"):
            scorer.score(names[0])
    with monkeypatch.context() as patch:
        patch.setattr(
            "dagr_jax.score.predictor.Predictor.predict",
            lambda _, clips, __: [Outputs(np.float32(np.nan), {}) for _ in clips],
        )
        (row,) = scorer.score_many([names[0]])
        assert row.error.startswith(f"{names[0]}: its score is not a finite number; use another")
    with pytest.raises(DagrError, match="give uint8"):
        scorer.score(np.zeros((2, 8, 8, 3), np.float32))
