"""Process setup of a command: huge pages by a restart, infrequent garbage collection."""

import os
import subprocess
import sys

import pytest

from dagr_jax.runtime import startup

SCRIPT = """
import os, sys
from dagr_jax.runtime.startup import use_huge_pages
use_huge_pages()
size = 64 * 2**20
import ctypes
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
ctypes.memset(libc.malloc(ctypes.c_size_t(size)), 1, size)
with open("/proc/self/smaps_rollup") as lines:
    huge = next(int(line.split()[1]) for line in lines if line.startswith("AnonHugePages"))
print(os.getpid(), os.environ.get("GLIBC_TUNABLES"), huge >= size // 2**11, sys.argv[1:], input())
"""

on_request = pytest.mark.skipif(
    not startup._on_request(), reason="needs Linux and glibc with huge pages on request"
)


def told(tunables: str | None, *arguments: str) -> list[str]:
    """Returns what a process reports about itself after a possible restart."""
    environment = {key: value for key, value in os.environ.items() if key != "GLIBC_TUNABLES"}
    if tunables is not None:
        environment["GLIBC_TUNABLES"] = tunables
    running = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *arguments],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    out, _ = running.communicate("hello\n")
    assert running.returncode == 0
    number, *rest = out.split(maxsplit=3)
    assert int(number) == running.pid
    return rest


@on_request
@pytest.mark.parametrize(
    ("before", "after"),
    [
        (None, "glibc.malloc.hugetlb=1"),
        ("glibc.malloc.tcache_count=7", "glibc.malloc.tcache_count=7:glibc.malloc.hugetlb=1"),
    ],
)
def test_malloc_gets_huge_pages_and_the_command_loses_nothing(before, after):
    assert told(before, "--a", "b c") == [after, "True", "['--a', 'b c'] hello\n"]


@on_request
def test_the_user_may_refuse():
    off = "glibc.malloc.hugetlb=0"
    assert told(off, "x") == [off, "False", "['x'] hello\n"]


def test_a_process_started_for_something_else_is_left_alone(monkeypatch):
    def execv(*_):
        raise AssertionError("the process would have been replaced")

    monkeypatch.setattr(os, "execv", execv)
    monkeypatch.setattr(startup, "_on_request", lambda: True)
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "ipykernel_launcher", "-f", "k.json"])
    for own in (["dagr", "score", "a.mp4"], ["dagr"]):
        monkeypatch.setattr(sys, "argv", own)
        startup.use_huge_pages()


@pytest.mark.parametrize(
    ("libc", "modes", "wanted"),
    [
        ("glibc 2.36", "always [madvise] never\n", True),
        ("glibc 2.36", "[always] madvise never\n", False),
        ("glibc 2.36", "always madvise [never]\n", False),
        ("glibc 2.35", "always [madvise] never\n", True),
        ("glibc 2.31", "always [madvise] never\n", False),
        ("", "always [madvise] never\n", False),
        ("glibc 2.36", None, False),
    ],
)
def test_where_it_would_help(monkeypatch, tmp_path, libc, modes, wanted):
    file = tmp_path / "enabled"
    if modes is not None:
        file.write_text(modes)
    monkeypatch.setattr(startup, "_MODES", file)
    monkeypatch.setattr(os, "confstr", lambda _: libc)
    assert startup._on_request() is wanted


def test_a_command_collects_rarely_and_a_library_does_not():
    command = "from dagr_jax.runtime.startup import set_up; set_up()"
    for script, wanted in ((command, 100_000), ("import dagr_jax.cli, dagr_jax.main", 700)):
        code = f"{script}; import gc; print(gc.get_threshold()[0])"
        done = subprocess.run(
            [sys.executable, "-c", code, "x"], capture_output=True, text=True, check=True
        )
        assert int(done.stdout) == wanted
