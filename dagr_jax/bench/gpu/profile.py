"""What XLA made of the two slowest programs that users run, and where their time goes."""

import gzip
import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dagr_jax.bench.gpu.plan import Plan

# Bytes of a kept file, and kernels of a program that are listed.
_LARGEST = 8 << 20
_KERNELS = 12


def measure(plan: Plan) -> Iterator[dict[str, Any]]:
    """Yields a row for each kernel that takes the most time, and names the files that are kept.

    The optimised HLO and the trace of each program go to the folder, compressed.
    """
    slowest = slowest_programs([row for part in plan.before for row in part["rows"]])
    if not slowest:
        raise RuntimeError("no program was measured before this part, so there is none to profile")
    with tempfile.TemporaryDirectory(prefix="dagr-hlo-") as dump:
        # Before JAX starts. Nothing may come from a cache, which would leave nothing to dump.
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
    """Rows of the slowest programs, of each kind the one that a user should take.

    That is the fastest form and type at the smallest batch that was measured.
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
    """Keeps the optimised HLO of the largest module that was compiled."""
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
    """Operation → microseconds, of the events that say which operation of XLA they are.

    Numbers at the end of an operation's name tell copies of it apart and are dropped.
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
