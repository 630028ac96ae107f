"""Errors that the user can fix, and those of the environment that become one."""

import errno
import importlib
import inspect
import os
import pickle
import re
import resource
from pathlib import Path

import numpy as np
import pytest

import dagr_jax
from dagr_jax.convert import WeightsError, write_safetensors
from dagr_jax.data import prepare
from dagr_jax.data.labels import LabelError
from dagr_jax.runtime.atomic import atomic_file, atomic_folder
from dagr_jax.runtime.errors import DagrError, environment
from dagr_jax.train.checkpoints import write_variables
from dagr_jax.video.stream import VideoError

FULL = "No space left on device; free some space, or name another disk"


def classes():
    """Every exception class of the package; and the files that need PyTorch or Ray to be loaded."""
    home = Path(dagr_jax.__file__).parent
    found, absent = set(), []
    for path in sorted(home.rglob("*.py")):
        name = ".".join(path.relative_to(home.parent).with_suffix("").parts)
        if path.stem == "__main__":
            continue
        try:
            held = vars(importlib.import_module(name.removesuffix(".__init__"))).values()
        except ImportError as error:
            assert error.name in ("torch", "torchvision", "ray"), name
            absent.append(path)
            continue
        found |= {
            one
            for one in held
            if inspect.isclass(one)
            and issubclass(one, Exception)
            and one.__module__.startswith("dagr_jax.")
        }
    return found, absent


def test_every_error_of_the_package_is_a_dagr_error():
    found, absent = classes()
    named = {one for one in found if one.__name__.endswith("Error")}
    public = {one for one in named if not one.__name__.startswith("_")}
    assert {VideoError, LabelError, WeightsError, DagrError} < public and len(public) >= 12
    assert all(issubclass(one, DagrError) for one in public)
    assert all(one.__init__ is DagrError.__init__ for one in public)
    assert not any(re.search(r"^class \w*Error\b", path.read_text(), re.M) for path in absent)


def test_subject_problem_and_remedy():
    error = VideoError(Path("a.mp4"), "the file is empty", "copy it again")
    assert str(error) == "a.mp4: the file is empty; copy it again"
    told = (error.subject, error.problem, error.remedy)
    assert told == ("a.mp4", "the file is empty", "copy it again")
    assert isinstance(error, ValueError)
    whole = DagrError("alpha must be in [0, 1], got 2")
    assert str(whole) == "alpha must be in [0, 1], got 2"
    assert (whole.subject, whole.problem, whole.remedy) == ("", str(whole), "")


def test_errors_come_back_from_other_processes():
    for kind in classes()[0]:
        if issubclass(kind, DagrError):
            error = kind("a.csv", "line 2 has one column", "write two")
            again = pickle.loads(pickle.dumps(error))
            assert type(again) is kind and str(again) == str(error)
            assert (again.subject, again.remedy) == ("a.csv", "write two")


@pytest.mark.parametrize(
    "number", [errno.EACCES, errno.EDQUOT, errno.EISDIR, errno.ENOENT, errno.ENOSPC, errno.EROFS]
)
def test_the_environment(number):
    with pytest.raises(LabelError) as error, environment("a.csv", LabelError):
        raise OSError(number, os.strerror(number), "elsewhere")
    assert str(error.value).startswith(f"a.csv: {os.strerror(number)}; ")
    assert error.value.remedy and isinstance(error.value.__cause__, OSError)


@pytest.mark.parametrize(
    "defect",
    [
        OSError("no errno"),
        OSError(errno.EBADF, "Bad file descriptor"),
        BrokenPipeError(errno.EPIPE, "Broken pipe"),
        BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"),
        FileNotFoundError(errno.ENOENT, "No such file or directory", "/elsewhere/b"),
        KeyError("a"),
        ValueError("No such file or directory"),
    ],
)
def test_a_defect_stays_what_it_is(defect, tmp_path):
    with pytest.raises(type(defect)) as error, environment("a", inside=tmp_path):
        raise defect
    assert error.value is defect and not isinstance(error.value, DagrError)
    with pytest.raises(type(defect)) as error, atomic_file(tmp_path / "a"):
        raise defect
    assert error.value is defect
    with pytest.raises(type(defect)) as error, atomic_folder(tmp_path / "folder"):
        raise defect
    assert error.value is defect and not list(tmp_path.iterdir())


def test_one_of_ours_passes():
    ours = VideoError("a.mp4", "its disk is full: No space left on device", "free some")
    with pytest.raises(VideoError) as error, environment("b"):
        raise ours
    assert error.value is ours


def test_a_file_in_a_folder_that_does_not_exist(tmp_path):
    path = tmp_path / "no" / "rows.csv"
    with pytest.raises(DagrError) as error, atomic_file(path) as partial:
        partial.write_text("a")
    assert str(error.value) == f"{path}: No such file or directory; check the path"


def test_a_path_below_a_file(tmp_path):
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "a"
    said = f"^{path}: Not a directory; check the path$"
    with pytest.raises(DagrError, match=said), atomic_file(path) as partial:
        partial.write_text("a")
    with pytest.raises(DagrError, match=said), atomic_folder(path):
        pass


def test_a_full_disk(tmp_path):
    """The kernel's own error: the file that is written is /dev/full."""
    path = tmp_path / "rows.csv"
    with pytest.raises(DagrError) as error, atomic_file(path) as partial:
        partial.symlink_to("/dev/full")
        partial.write_text("a")
    assert str(error.value) == f"{path}: {FULL}" and not list(tmp_path.iterdir())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written(tmp_path):
    tmp_path.chmod(0o500)
    said = "Permission denied; change its permissions, or"
    with pytest.raises(DagrError, match=said), atomic_file(tmp_path / "a") as partial:
        partial.touch()


@pytest.fixture
def little_room():
    """No file may grow beyond 30 kB; libraries in C++ see the same error as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_that_a_library_notices(tmp_path, little_room, capfd):
    values = np.random.default_rng(0).standard_normal((200, 200)).astype(np.float32)
    said = "File too large"
    with pytest.raises(DagrError, match=f"^{tmp_path}/a.npz: {said}; "):
        prepare.write_shard(tmp_path / "a.npz", {"values": values})
    with pytest.raises(DagrError, match=f"^{tmp_path}/a.safetensors: {said}; "):
        write_safetensors(tmp_path / "a.safetensors", {"values": values}, {})
    with pytest.raises(DagrError, match=f"^{tmp_path}/checkpoint: {said}; "):
        write_variables(tmp_path / "checkpoint", {"params": {"values": values}}, {"best": None})
    assert not list(tmp_path.iterdir()) and not capfd.readouterr().err
