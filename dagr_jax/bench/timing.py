"""Timing: all sides in one process, in strict alternation; medians and ratios."""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Side = Callable[[], Any]


def alternate(
    sides: Mapping[str, Side], rounds: int, warmup: int = 1, *, steady: bool = False
) -> dict[str, list[float]]:
    """Times the sides in alternation; a round runs every side once.

    The load of a shared machine drifts. Sides that alternate see the same load drift.

    Args:
        sides: {name: function to time}.
        rounds: Number of timed rounds.
        warmup: Number of untimed rounds before them.
        steady: Run a side once, untimed, before each timed run, so that it runs as in a loop of its
            own. Otherwise the timed run would include seconds for allocating memory again that
            another side used, or that a virtual machine returned to its host.

    Returns:
        {name: seconds of each round}.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(warmup + rounds):
        for name, side in sides.items():
            if steady:
                side()
            begin = time.perf_counter()
            side()
            if number >= warmup:
                seconds[name].append(time.perf_counter() - begin)
    return seconds


def row(what: str, seconds: Sequence[float], **more: Any) -> dict[str, Any]:
    """Makes the row of a measured side: its median, fastest and slowest time in seconds.

    Args:
        what: Name of the side.
        seconds: Seconds of each round.
        **more: Further fields of the row.
    """
    return {
        "what": what,
        "median_s": round(statistics.median(seconds), 5),
        "fastest_s": round(min(seconds), 5),
        "slowest_s": round(max(seconds), 5),
        "rounds": len(seconds),
        **more,
    }


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Returns the median over the rounds of ours / theirs; below 1 means that ours is faster."""
    return round(statistics.median(a / b for a, b in zip(ours, theirs, strict=True)), 4)


def ratios(
    what: str, seconds: Mapping[str, Sequence[float]], ours: Sequence[str]
) -> dict[str, float]:
    """Computes `ratio` of our sides to each of PyTorch's sides (names that begin with "torch ").

    Args:
        what: Name of the measurement.
        seconds: {side: seconds of each round}.
        ours: Names of our sides.

    Returns:
        {"<what>_<our side>/<their side>": ratio}.
    """
    return {
        f"{what}_{mine}/{name.removeprefix('torch ')}": ratio(seconds[mine], times)
        for mine in ours
        for name, times in seconds.items()
        if name.startswith("torch ")
    }


def fresh_process(arguments: Sequence[str], environment: Mapping[str, str]) -> str:
    """Runs a new Python interpreter and returns its stdout.

    Args:
        arguments: Arguments of the interpreter.
        environment: Environment variables.

    Raises:
        RuntimeError: The process failed; the message has its stderr.
    """
    done = subprocess.run(
        [sys.executable, *arguments],
        env=dict(environment),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"python {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


def matmul_peak(dtype: str, size: int = 2048, rounds: int = 5) -> float:
    """Measures the peak rate of this machine: a square matrix product, best of some rounds.

    Args:
        dtype: Type of the matrices.
        size: Number of rows and columns.
        rounds: Number of timed rounds.

    Returns:
        GFLOP/s.
    """
    import jax
    import jax.numpy as jnp

    a = jnp.ones((size, size), dtype)
    product = jax.jit(lambda a: a @ a)
    seconds = alternate({"product": lambda: product(a).block_until_ready()}, rounds)["product"]
    return round(2 * size**3 / min(seconds) / 1e9, 1)
