"""Optimised HLO and time per kernel of the two slowest programs that users run."""

import gzip
import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dagr_jax.bench.gpu.plan import Plan

# Maximum size of a kept file in bytes, and maximum number of listed kernels of a program.
_LARGEST = 8 << 20
_KERNELS = 12


def measure(plan: Plan) -> Iterator[dict[str, Any]]:
    """Profiles the slowest programs.

    The optimised HLO and the trace of each program are written to the folder, compressed.

    Args:
        plan: Plan of the part.

    Yields:
        Rows of the kernels that take the most time, and rows of the written files.

    Raises:
        RuntimeError: The earlier parts have measured no program.
    """
    slowest = slowest_programs([row for part in plan.before for row in part["rows"]])
    if not slowest:
        raise RuntimeError("no program was measured before this part, so there is none to profile")
    with tempfile.TemporaryDirectory(prefix="dagr-hlo-") as dump:
        # Set these before JAX starts. The cache is off, because cached programs are not dumped.
        flags = f"--xla_dump_to={dump} --xla_dump_hlo_as_text --xla_dump_hlo_module_re=jit_.*"
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()
        os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"
        from dagr_jax.bench.gpu import programs

        for number, row in enumerate(slowest):
            spec = programs.Spec(**row["program"])
            before = set(Path(dump).iterdir())
            side = programs.build(spec, plan.sizes)
            side.run(1)
            new = sorted(set(Path(dump).iterdir()) - before)
            yield _kept_hlo(spec.name, new, plan.folder / f"hlo_{number}.txt.gz")
            yield from _traced(spec.name, side, plan.folder / f"trace_{number}.json.gz")


def slowest_programs(rows: Sequence[Mapping[str, Any]], count: int = 2) -> list[Mapping[str, Any]]:
    """Selects the slowest kinds of program, each with the settings that a user should choose.

    These settings are the fastest form and type at the smallest measured batch size.

    Args:
        rows: Rows of all earlier parts.
        count: Number of kinds.

    Returns:
        The rows of the selected programs, slowest first.
    """
    chosen: dict[str, Mapping[str, Any]] = {}
    for row in rows:
        if "program" not in row or "median_s" not in row:
            continue
        kind, key = row["program"]["kind"], (row["program"]["batch"], row["median_s"])
        best = chosen.get(kind)
        if best is None or key < (best["program"]["batch"], best["median_s"]):
            chosen[kind] = row
    return sorted(chosen.values(), key=lambda row: -row["median_s"])[:count]


def _kept_hlo(name: str, files: Sequence[Path], out: Path) -> dict[str, Any]:
    """Writes the optimised HLO of the largest compiled module."""
    texts = [path for path in files if path.name.endswith("after_optimizations.txt")]
    if not texts:
        return {"what": f"HLO of {name}", "error": "XLA dumped none"}
    text = max(texts, key=lambda path: path.stat().st_size).read_bytes()
    return _kept(f"HLO of {name}", gzip.compress(text), out)


def _traced(name: str, side: Any, out: Path) -> Iterator[dict[str, Any]]:
    import jax

    with tempfile.TemporaryDirectory(prefix="dagr-trace-") as folder:
        with jax.profiler.trace(folder, create_perfetto_trace=False):
            side.run(3)
        found = sorted(Path(folder).rglob("*.trace.json.gz"))
        if not found:
            yield {"what": f"trace of {name}", "error": "JAX wrote none"}
            return
        packed = found[0].read_bytes()
    yield _kept(f"trace of {name}", packed, out)
    times = kernel_times(json.loads(gzip.decompress(packed)))
    total = sum(times.values())
    for kernel, microseconds in sorted(times.items(), key=lambda item: -item[1])[:_KERNELS]:
        share = round(microseconds / total, 3)
        yield {"what": f"kernel of {name}", "kernel": kernel, "share": share}


def kernel_times(trace: Mapping[str, Any]) -> dict[str, float]:
    """Sums the time per operation, over the events of a trace that name their XLA operation.

    Numbers at the end of an operation's name only distinguish its copies and are dropped.

    Args:
        trace: Trace of the profiler.

    Returns:
        {operation: microseconds}.
    """
    times: dict[str, float] = {}
    for event in trace.get("traceEvents", ()):
        operation = event.get("args", {}).get("hlo_op")
        if event.get("ph") == "X" and operation:
            kernel = event["name"]
            name = re.sub(r"(\.\d+)+$", "", kernel)[:120]
            times[name] = times.get(name, 0.0) + float(event.get("dur", 0))
    return times


def _kept(what: str, data: bytes, out: Path) -> dict[str, Any]:
    if len(data) > _LARGEST:
        return {"what": what, "error": f"{len(data) >> 20} MiB, too large to keep"}
    out.write_bytes(data)
    return {"what": what, "file": out.name, "kilobytes": round(len(data) / 1024, 1)}
