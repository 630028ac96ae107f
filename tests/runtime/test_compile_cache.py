"""Compiled programs on disk: the next process uses them, and they never cause a failure."""

import os
import subprocess
import sys

# A program that takes more than 0.1 s to compile (the limit in `keep_compiled`) on fast machines.
CODE = """
import jax, time
from dagr_jax.runtime.compile_cache import keep_compiled
print(keep_compiled())
f = jax.jit(lambda x: sum(jax.numpy.sin(x * k) @ x for k in range(200)))
print(float(f(jax.numpy.eye(8)).sum()))
"""


def run(**environment):
    inherited = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


def test_the_second_process_finds_what_the_first_compiled(tmp_path):
    first = run(XDG_CACHE_HOME=str(tmp_path))
    kept = {p for p in tmp_path.rglob("*-cache")}
    assert kept and first[0].startswith(str(tmp_path / "dagr_jax" / "jax-"))
    assert run(XDG_CACHE_HOME=str(tmp_path)) == first
    # Nothing was compiled twice. On a busy machine, further programs may be slow enough to keep.
    later = [p.name.rsplit("-", 2)[0] for p in tmp_path.rglob("*-cache")]
    assert {p.name.rsplit("-", 2)[0] for p in kept} <= set(later)
    assert len(later) == len(set(later)) and all(p.exists() for p in kept)


def test_an_own_cache_and_a_place_that_cannot_be_written_are_left_alone(tmp_path):
    own = tmp_path / "own"
    assert run(JAX_COMPILATION_CACHE_DIR=str(own), XDG_CACHE_HOME=str(tmp_path))[0] == "None"
    (tmp_path / "file").touch()
    assert run(XDG_CACHE_HOME=str(tmp_path / "file"))[0] == "None"
    assert not (tmp_path / "dagr_jax").exists()
