"""Building and timing of sides on a device that runs asynchronously to the host."""

import concurrent.futures
import dataclasses
import os
import time
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping
from typing import Any

import jax

from dagr_jax.bench.gpu.plan import Plan
from dagr_jax.bench.timing import ratio, row

# Prefix of the errors of measurements for which no time was left.
NOT_STARTED = "not started"
# Maximum number of calls in one sample.
# Programs that are compiled at the same time: half of the cores, since XLA uses threads itself.
THREADS = max(1, min(8, (os.cpu_count() or 1) // 2))
_MOST_CALLS = 64


@dataclasses.dataclass
class Side:
    """A program to time.

    Attributes:
        run: Function that calls the program n times and waits until the device is done.
        facts: Further fields of its row: types, batch size, memory, FLOP.
        release: Function that frees memory for other sides; it is called after each sample.
    """

    run: Callable[[int], Any]
    facts: dict[str, Any]
    release: Callable[[], None] = lambda: None

    @classmethod
    def of_program(cls, compiled: Any, arguments: tuple[Any, ...], facts: dict[str, Any]) -> "Side":
        """Makes a side from a compiled JAX program.

        Args:
            compiled: Compiled program.
            arguments: Arguments of the program, already on the device.
            facts: Further fields of the row.
        """

        def run(calls: int) -> Any:
            for _ in range(calls):
                value = compiled(*arguments)
            return jax.block_until_ready(value)

        return cls(run, {**facts, **program_facts(compiled)})


def program_facts(compiled: Any) -> dict[str, Any]:
    """Returns the peak memory of a program and the GFLOP that XLA counts, if XLA reports them."""
    facts: dict[str, Any] = {}
    if memory := compiled.memory_analysis():
        held = memory.argument_size_in_bytes + memory.output_size_in_bytes
        held += memory.temp_size_in_bytes - memory.alias_size_in_bytes
        facts["peak_memory_mb"] = round(held / 2**20, 1)
    costs = compiled.cost_analysis() or {}
    if "flops" in costs:
        facts["xla_gflop"] = round(costs["flops"] / 1e9, 3)
    return facts


def measured_rows(
    builders: Mapping[str, Callable[[], Side]],
    plan: Plan,
    ratios: Iterable[tuple[str, str]] = (),
    together: Collection[str] = (),
) -> Iterator[dict[str, Any]]:
    """Builds sides and times them in strict alternation.

    Args:
        builders: {name: function that builds and compiles the side}, most important first. A side
            for which no time is left, or that cannot be built, gets a row with an error.
        plan: Plan of the part.
        ratios: Pairs of names. For each pair, a row gives the time of the first side divided by
            that of the second.
        together: Names of the sides that may be built at the same time, in threads. Compiling takes
            most of the time of a part, and XLA compiles several programs at once.

    Yields:
        A row for each side, and a row for each ratio whose sides were both timed.
    """
    sides: dict[str, Side] = {}
    longest = 0.0
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        begun = {name: pool.submit(_built, builders[name], plan, 0.0) for name in together}
        for name, build in builders.items():
            found = begun[name].result() if name in begun else _built(build, plan, longest)
            if isinstance(found, Side):
                begin = time.monotonic()
                try:
                    found.run(1)
                    found.release()
                except Exception as error:  # a full card can raise any exception
                    found = first_line(error)
                else:
                    found.facts["first_s"] += round(time.monotonic() - begin, 3)
                    longest = max(longest, found.facts["first_s"])
                    sides[name] = found
            if isinstance(found, str):
                yield {"what": name, "error": found}
    seconds = yield from _timed(sides, plan)
    for ours, theirs in ratios:
        if seconds.get(ours) and seconds.get(theirs):
            pairs = zip(seconds[ours], seconds[theirs], strict=False)
            both = [list(column) for column in zip(*pairs, strict=True)]
            yield {"what": f"{ours} / {theirs}", "ratio": ratio(*both)}


def _built(build: Callable[[], Side], plan: Plan, needed: float) -> Side | str:
    """Builds a side; returns an error line if it cannot be built or no time is left.

    Args:
        build: Builds and compiles the side.
        plan: Plan of the part.
        needed: Seconds that must be left.
    """
    if plan.left < needed:
        return f"{NOT_STARTED}: no time was left"
    begin = time.monotonic()
    try:
        side = build()
    except Exception as error:  # a compiler can raise any exception
        return first_line(error)
    side.facts.setdefault("first_s", round(time.monotonic() - begin, 3))
    return side


def _timed(
    sides: dict[str, Side], plan: Plan
) -> Generator[dict[str, Any], None, dict[str, list[float]]]:
    """Yields the rows of the sides, and returns {name: seconds of each sample}."""
    calls: dict[str, int] = {}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(plan.sizes.rounds):
        if number and plan.left < 0:
            break
        for name, side in list(sides.items()):
            try:
                begin = time.perf_counter()
                side.run(1)  # brings the side's data back into the card's memory and caches
                once = time.perf_counter() - begin
                n = calls.setdefault(
                    name, max(1, min(_MOST_CALLS, round(plan.sizes.sample_s / max(once, 1e-6))))
                )
                begin = time.perf_counter()
                side.run(n)
                seconds[name].append((time.perf_counter() - begin) / n)
                side.release()
            except Exception as error:
                del sides[name]
                yield {"what": name, "error": first_line(error)}
    for name, side in sides.items():
        yield {**row(name, seconds[name]), "calls": calls[name], **side.facts}
    return seconds


def first_line(error: BaseException) -> str:
    """Returns the type and the first line of an error, for a row."""
    text = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {text}"[:200]
