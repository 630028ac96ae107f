"""How the process of a command is set up, before it loads anything heavy."""

import atexit
import gc
import os
import sys
from pathlib import Path

_TUNABLE = "glibc.malloc.hugetlb"
_MODES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def set_up() -> None:
    """`collect_rarely` and `use_huge_pages`. To be called first, and by commands alone."""
    collect_rarely()
    use_huge_pages()


def collect_rarely() -> None:
    """Has Python look for cyclic garbage after 100,000 new objects instead of 700, not at exit.

    Loading JAX and tracing a network make a million objects that stay, and by default Python walks
    over them hundreds of times: a third of a short `dagr score`. Arrays and frames are freed when
    their last reference goes, as ever.
    """
    gc.set_threshold(100_000)
    atexit.register(gc.freeze)


def use_huge_pages() -> None:
    """Starts this command again, once, so that malloc asks Linux for huge pages.

    XLA on a CPU takes and frees its buffers, gigabytes, at every step, and Linux maps and clears
    each page anew: with pages of 4 kB that is a third of a large training step, with those of
    2 MB a tenth. glibc asks for them only if GLIBC_TUNABLES said so when the process started,
    hence the second start: the process keeps its number, arguments and streams.

    Nothing happens where it would not help (no glibc of 2.35 or later; huge pages not on request,
    as they are with "madvise"), where GLIBC_TUNABLES names the tunable already (`=0` switches
    this off), and where Python was started for something else, like a notebook.
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
