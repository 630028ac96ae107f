"""The energy that the machine's processors use, where Linux tells it."""

import threading
from pathlib import Path

# A counter for each processor package, in microjoules; on most machines root alone may read it.
POWERCAP = Path("/sys/class/powercap")
# Seconds between two looks. A counter wraps around after 2^32 times 15 to 61 microjoules, 65 kJ at
# the least: three minutes at 350 W.
_EVERY = 60.0


class Meter:
    """Adds up what all processor packages use while it is open. A context manager.

    All of the machine is counted, whoever uses it, and no accelerator.

    Attributes:
        joules: Until now; None where the machine does not tell.
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
        """Adds what was used since the last look."""
        now = _counters()
        if self.joules is None or now.keys() != self._last.keys():
            self.joules = None  # a package went away: nothing can be said
            return
        for path, (value, limit) in now.items():
            before, _ = self._last[path]
            self.joules += (value - before if value >= before else value + limit - before) / 1e6
        self._last = now


def _counters() -> dict[Path, tuple[int, int]]:
    """Package → (counter, where it wraps around), in microjoules; empty where it cannot be read."""
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
