"""How things are timed: all sides in one process, in strict alternation, medians and ratios."""

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
    """Seconds of each side, (rounds,) each; a round runs every side once.

    A machine that others use speeds up and slows down; sides that alternate meet the same weather.

    Args:
        sides: Name → what is timed.
        rounds: How often.
        warmup: Rounds before that are not timed.
        steady: Run a side once before each time that it is timed, so that it meets the machine as
            in a loop of its own. Memory that another side had, or that a virtual machine gave
            back to its host meanwhile, takes seconds to get again.
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
    """A measured side: its median, fastest and slowest time in seconds."""
    return {
        "what": what,
        "median_s": round(statistics.median(seconds), 5),
        "fastest_s": round(min(seconds), 5),
        "slowest_s": round(max(seconds), 5),
        "rounds": len(seconds),
        **more,
    }


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Median over the rounds of ours / theirs; below 1 is faster."""
    return round(statistics.median(a / b for a, b in zip(ours, theirs, strict=True)), 4)


def ratios(
    what: str, seconds: Mapping[str, Sequence[float]], ours: Sequence[str]
) -> dict[str, float]:
    """`ratio` of sides of ours to each of PyTorch's, whose names begin with "torch ".

    Returns:
        Keyed `<what>_<our side>/<their side>`.
    """
    return {
        f"{what}_{mine}/{name.removeprefix('torch ')}": ratio(seconds[mine], times)
        for mine in ours
        for name, times in seconds.items()
        if name.startswith("torch ")
    }


def fresh_process(arguments: Sequence[str], environment: Mapping[str, str]) -> str:
    """What a new Python interpreter with these arguments prints.

    Raises:
        RuntimeError: It failed; what it said.
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
    """GFLOP/s of a square matrix product, the best of some rounds: what this machine can do."""
    import jax
    import jax.numpy as jnp

    a = jnp.ones((size, size), dtype)
    product = jax.jit(lambda a: a @ a)
    seconds = alternate({"product": lambda: product(a).block_until_ready()}, rounds)["product"]
    return round(2 * size**3 / min(seconds) / 1e9, 1)
