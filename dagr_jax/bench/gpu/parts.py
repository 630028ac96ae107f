"""The parts of the measurement, each in its own process with a time limit."""

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

# JAX and PyTorch share the card, so JAX must not allocate all of its memory at the start.
_ENVIRONMENT = {
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.55",
    "PYTHONUNBUFFERED": "1",
}


@dataclasses.dataclass(frozen=True)
class Part:
    """One part of the measurement.

    Attributes:
        name: Name of the part in the results.
        module: Full name of a module with `measure(plan) -> Iterator[row]` (`plan.Plan`).
        weight: Share of the remaining time, relative to the weights of the parts after it.
    """

    name: str
    module: str
    weight: float


PARTS = (
    Part("facts", "dagr_jax.bench.gpu.facts", 0.06),
    Part("correctness", "dagr_jax.bench.gpu.correctness", 0.2),
    Part("saliency", "dagr_jax.bench.gpu.saliency", 0.28),
    Part("quality", "dagr_jax.bench.gpu.quality", 0.18),
    Part("training", "dagr_jax.bench.gpu.training", 0.2),
    Part("profile", "dagr_jax.bench.gpu.profile", 0.08),
)


def run_parts(
    parts: Sequence[Part], folder: Path, seconds: float, *, small: bool
) -> Iterator[dict[str, Any]]:
    """Runs the parts one after the other.

    Args:
        parts: Parts in the order of their importance.
        folder: Existing output folder. Its `log.txt` receives stdout and stderr of the parts.
        seconds: Time limit for all parts together, in seconds. Time that a part does not use is
            available to the parts after it.
        small: Use small sizes, for a test on a CPU.

    Yields:
        After each part, its result: "name", "status", "seconds", "limit_s", "rows" and, if the
        status is not "complete", "error". The status is "complete", "failed", "late" (stopped at
        its limit) or "not started" (no time was left). Rows that were measured before a failure are
        kept.
    """
    until = time.monotonic() + seconds
    done: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="dagr-gpu-") as scratch:
        for number, part in enumerate(parts):
            left = until - time.monotonic()
            limit = left * part.weight / sum(later.weight for later in parts[number:])
            if limit < 1:
                result: dict[str, Any] = {"status": "not started", "error": "no time was left"}
                result |= {"rows": [], "seconds": 0.0, "limit_s": 0.0}
            else:
                before = Path(scratch) / f"{part.name}.before.json"
                before.write_text(json.dumps(done))
                rows = Path(scratch) / f"{part.name}.jsonl"
                result = _run(part, folder, rows, before, limit, small=small)
            done.append({"name": part.name, **result})
            yield done[-1]


def _run(
    part: Part, folder: Path, rows: Path, before: Path, limit: float, *, small: bool
) -> dict[str, Any]:
    """Runs one part. At its time limit, its process and all child processes are killed."""
    command = [sys.executable, "-m", "dagr_jax.bench.gpu.worker", part.module]
    command += [str(rows), str(before), str(folder), str(limit), *(["--small"] if small else [])]
    begin = time.monotonic()
    status, error = "complete", ""
    with open(folder / "log.txt", "ab") as log:
        log.write(f"== {part.name}\n".encode())
        log.flush()
        start = log.tell()
        process = subprocess.Popen(
            command,
            env=_environment(os.environ),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            code = process.wait(limit)
            if code:
                status, error = "failed", f"exit code {code}"
        except subprocess.TimeoutExpired:
            status, error = "late", f"stopped after {limit:.0f} s"
        finally:
            _kill(process)
    if status == "failed" and (said := _last_line(folder / "log.txt", start)):
        error = f"{said} ({error})"
    result: dict[str, Any] = {"status": status, "seconds": round(time.monotonic() - begin, 1)}
    result |= {"limit_s": round(limit, 1), "rows": _rows(rows)}
    return {**result, "error": error} if error else result


def _environment(given: Mapping[str, str]) -> dict[str, str]:
    """Returns the environment variables of a part. Variables that the user has set are kept."""
    return {**_ENVIRONMENT, **given}


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kills a process and its child processes, such as the compiler processes of PyTorch."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _last_line(log: Path, start: int) -> str:
    """Returns the last line of a part's log: type and message of a Python error."""
    with open(log, "rb") as stream:
        stream.seek(start)
        lines = stream.read().decode(errors="replace").strip().splitlines()
    return lines[-1].strip()[:300] if lines else ""


def _rows(path: Path) -> list[dict[str, Any]]:
    """Returns the rows that a part has written, without an incomplete last row."""
    found = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            found.append(json.loads(line))
        except ValueError:
            break
    return found
