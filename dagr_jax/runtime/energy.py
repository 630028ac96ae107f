"""Measurement of the energy that the processors use, on Linux with RAPL counters."""

import threading
from pathlib import Path

# One counter per processor package, in microjoules. On most machines only root can read it.
POWERCAP = Path("/sys/class/powercap")
# Seconds between two readings. A counter wraps around after 2^32 units of 15 to 61 microjoules,
# at least 65 kJ: three minutes at 350 W.
_EVERY = 60.0


class Meter:
    """Context manager that adds up the energy of all processor packages.

    It counts the whole machine, other programs included. It does not count accelerators.

    Attributes:
        joules: Energy used so far, in joules; None if the counters cannot be read.
    """

    def __init__(self) -> None:
        self.joules: float | None = None
        self._last = _counters()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Meter":
        if self._last:
            self.joules = 0.0
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._last:
            self._over.set()
            self._thread.join()
            self.look()

    def _watch(self) -> None:
        while not self._over.wait(_EVERY):
            self.look()

    def look(self) -> None:
        """Adds the energy used since the last reading."""
        now = _counters()
        if self.joules is None or now.keys() != self._last.keys():
            self.joules = None  # a package is no longer listed: the sum is unknown
            return
        for path, (value, limit) in now.items():
            before, _ = self._last[path]
            self.joules += (value - before if value >= before else value + limit - before) / 1e6
        self._last = now


def _counters() -> dict[Path, tuple[int, int]]:
    """Returns {package: (counter, wrap-around value)} in microjoules; empty if unreadable."""
    try:
        return {
            path: (
                int((path / "energy_uj").read_text()),
                int((path / "max_energy_range_uj").read_text()),
            )
            for path in sorted(POWERCAP.glob("intel-rapl:?"))
        }
    except (OSError, ValueError):
        return {}
