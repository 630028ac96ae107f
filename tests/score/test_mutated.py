"""Randomly damaged files: each gives a score or a one-line error, and the decoder survives."""

from pathlib import Path

import numpy as np
import pytest

from dagr_jax.score import Result
from dagr_jax.video.readers import Readers
from dagr_jax.video.stream import Limits
from tests.video.clips import ENCODERS, moving_bar, write

PATIENCE = 30.0  # seconds; a longer time counts as hanging
GROWTH = 100 << 20  # bytes by which a process may grow; frame sizes differ between files


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """(suffix, bytes) of short files with four codecs and five containers."""
    home, found = tmp_path_factory.mktemp("sources"), []
    for codec, (_, suffix, _) in ENCODERS.items():
        path = write(home / f"{codec}{suffix}", moving_bar(12), codec)
        found.append((suffix, path.read_bytes()))
    for suffix in (".ts", ".avi", ".mov"):
        path = write(home / f"h264{suffix}", moving_bar(12), bf="0")
        found.append((suffix, path.read_bytes()))
    return found


def mutate(rng, sources) -> tuple[str, bytes]:
    """Returns one of the files with changed bytes, truncated, or spliced with another file."""
    suffix, data = sources[rng.integers(len(sources))]
    changed = bytearray(data)
    kind = rng.integers(4)
    if kind == 0:  # a few bytes anywhere
        for place in rng.integers(len(changed), size=rng.integers(1, 30)):
            changed[place] = rng.integers(256)
    elif kind == 1:  # a few bytes of the header, which has sizes and counts
        for place in rng.integers(min(len(changed), 1000), size=rng.integers(1, 8)):
            changed[place] = rng.integers(256)
    elif kind == 2:
        del changed[rng.integers(len(changed)) :]
    else:
        _, other = sources[rng.integers(len(sources))]
        place = rng.integers(len(changed))
        changed[place : place + rng.integers(500)] = other[rng.integers(len(other)) :][:500]
    return suffix, bytes(changed)


def memory(readers) -> list[int]:
    """Returns the memory of each reader process in bytes."""
    pids = [process._program.pid for process in readers._processes]
    return [int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 for pid in pids]


@pytest.mark.parametrize(
    "count", [100, pytest.param(2000, marks=[pytest.mark.slow, pytest.mark.timeout(1200)])]
)
def test_mutated_files(scorer, sources, tmp_path, count):
    rng = np.random.default_rng(count)

    def files():
        for number in range(count):
            suffix, data = mutate(rng, sources)
            path = tmp_path / f"{number % 8}{suffix}"  # at most two are in progress
            path.write_bytes(data)
            yield str(path)

    scored, errors, before = 0, [], []
    with Readers(2, patience=PATIENCE) as readers:
        pids = [process._program.pid for process in readers._processes]
        found = scorer.score_many(files(), segments=0.2, readers=readers, limits=Limits())
        for number, row in enumerate(found):
            if number == count // 4:
                before = memory(readers)
            if isinstance(row, Result):
                scored += np.isfinite([row.score, *(s.score for s in row.segments)]).all()
            else:
                errors.append(row.error)
                assert row.error.startswith(f"{row.file}: ") and "\n" not in row.error
                assert "; " in row.error and "Error(" not in row.error
        assert [process._program.pid for process in readers._processes] == pids
        assert max(np.subtract(memory(readers), before)) < GROWTH
    assert scored + len(errors) == count and scored > count // 4 and len(errors) > count // 10
    assert not [error for error in errors if "reading it failed" in error]
