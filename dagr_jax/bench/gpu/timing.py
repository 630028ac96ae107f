"""How sides are built and timed on a device that works behind the host's back."""

import dataclasses
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from typing import Any

import jax

from dagr_jax.bench.gpu.plan import Plan
from dagr_jax.bench.timing import ratio, row

# How the errors of what was left out begin.
NOT_STARTED = "not started"
# Calls of one sample, at most.
_MOST_CALLS = 64


@dataclasses.dataclass
class Side:
    """What is timed.

    Attributes:
        run: Calls it n times and waits until the device is done.
        facts: What stands in its row: types, batch, memory, arithmetic.
        release: Gives memory back that other sides may need, after each sample.
    """

    run: Callable[[int], Any]
    facts: dict[str, Any]
    release: Callable[[], None] = lambda: None

    @classmethod
    def of_program(cls, compiled: Any, arguments: tuple[Any, ...], facts: dict[str, Any]) -> "Side":
        """A compiled JAX program with its arguments, which are on the device already."""

        def run(calls: int) -> Any:
            for _ in range(calls):
                value = compiled(*arguments)
            return jax.block_until_ready(value)

        return cls(run, {**facts, **program_facts(compiled)})


def program_facts(compiled: Any) -> dict[str, Any]:
    """Peak memory of a program and the arithmetic that XLA counts, where it tells."""
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
) -> Iterator[dict[str, Any]]:
    """Builds sides and times them in strict alternation.

    Args:
        builders: Name → what builds the side, which compiles it. Most important first: a side that
            there is no time to build is named in a row, as is one that cannot be built.
        plan: Of the part.
        ratios: Pairs of names; the first one's time over the second one's is a row of its own.

    Yields:
        A row for each side and each ratio whose sides were timed.
    """
    sides: dict[str, Side] = {}
    longest = 0.0
    for name, build in builders.items():
        if plan.left < longest:
            yield {"what": name, "error": f"{NOT_STARTED}: no time was left"}
            continue
        begin = time.monotonic()
        try:
            side = build()
            side.run(1)
            side.release()
        except Exception as error:  # whatever a compiler or a full card raises
            yield {"what": name, "error": first_line(error)}
            continue
        took = time.monotonic() - begin
        longest = max(longest, took)
        side.facts["first_s"] = round(took, 3)
        sides[name] = side
    seconds = yield from _timed(sides, plan)
    for ours, theirs in ratios:
        if seconds.get(ours) and seconds.get(theirs):
            pairs = zip(seconds[ours], seconds[theirs], strict=False)
            both = [list(column) for column in zip(*pairs, strict=True)]
            yield {"what": f"{ours} / {theirs}", "ratio": ratio(*both)}


def _timed(
    sides: dict[str, Side], plan: Plan
) -> Generator[dict[str, Any], None, dict[str, list[float]]]:
    """Yields the rows of the sides; returns the seconds of each."""
    calls: dict[str, int] = {}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(plan.sizes.rounds):
        if number and plan.left < 0:
            break
        for name, side in list(sides.items()):
            try:
                begin = time.perf_counter()
                side.run(1)  # the side has the card's memory and caches again
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
    """Type and first line of an error, for a row."""
    text = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {text}"[:200]
