"""Programs that tests start, monitor and stop."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# As in conftest.py: most of the test time is compilation.
QUICK_COMPILE = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"


@contextlib.contextmanager
def started(
    command: Sequence[str], environment: Mapping[str, str], log: Path
) -> Iterator[subprocess.Popen]:
    """Starts a program as leader of its own process group; the context ends the group.

    Args:
        command: Command, run in the repository.
        environment: All environment variables.
        log: File to which stderr is appended; stdout goes to the same name with suffix .out.
    """
    with open(log, "a") as errors, open(log.with_suffix(".out"), "a") as results:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdout=results,
            stderr=errors,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_for(process: subprocess.Popen, reached: Callable[[], bool]) -> None:
    until = time.monotonic() + 300
    while not reached():
        assert process.poll() is None, "the program ended before it could be stopped"
        assert time.monotonic() < until, "the program does not get there"
        time.sleep(0.01)


def lines(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.exists() else 0


def install(site: Path, name: str, points: str) -> None:
    """Writes what pip would: a package with entry points, found once `site` is on the path."""
    about = site / f"{name}-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(points)
