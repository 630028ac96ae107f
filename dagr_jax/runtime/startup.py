"""Process setup of a command, before it imports heavy libraries."""

import atexit
import gc
import os
import sys
from pathlib import Path

_TUNABLE = "glibc.malloc.hugetlb"
_MODES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def set_up() -> None:
    """Calls `collect_rarely` and `use_huge_pages`. Only commands call it, as their first step."""
    collect_rarely()
    use_huge_pages()


def collect_rarely() -> None:
    """Runs Python's cyclic garbage collection every 100,000 objects instead of 700, not at exit.

    Importing JAX and tracing a network create a million objects that stay alive. By default Python
    visits them hundreds of times, which takes a third of the time of a short `dagr score`. Arrays
    and frames are still freed when their last reference goes away.
    """
    gc.set_threshold(100_000)
    atexit.register(gc.freeze)


def use_huge_pages() -> None:
    """Restarts this command once so that malloc requests huge pages from Linux.

    On a CPU, XLA allocates and frees gigabytes of buffers at every step, and Linux maps and clears
    every page again. This takes a third of a large training step with 4 kB pages and a tenth with
    2 MB pages. glibc requests huge pages only if GLIBC_TUNABLES was set when the process started,
    so the command restarts itself. It keeps its process id, arguments and streams.

    The function does nothing in these cases:

    * It would not help: glibc is older than 2.35, or Linux does not give huge pages on request
      (its mode is not "madvise").
    * GLIBC_TUNABLES already names the tunable (`=0` turns huge pages off).
    * Python was started for something else, such as a notebook.
    """
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    own = sys.argv[1:]
    started_for_this = bool(own) and sys.orig_argv[-len(own) :] == own
    if _TUNABLE in tunables or not started_for_this or not _on_request():
        return
    os.environ["GLIBC_TUNABLES"] = f"{tunables}:{_TUNABLE}=1".lstrip(":")
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _on_request() -> bool:
    try:
        name, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").split()
        new = name == "glibc" and tuple(map(int, version.split(".")[:2])) >= (2, 35)
        return new and "[madvise]" in _MODES.read_text()
    except (AttributeError, ValueError, OSError):  # no confstr, no such name, no such file
        return False
