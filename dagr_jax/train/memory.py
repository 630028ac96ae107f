"""How the C library keeps the memory that XLA's CPU backend takes and frees."""

import ctypes

# From malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> None:
    """Asks glibc to keep freed memory for the next allocation; elsewhere nothing happens.

    XLA on a CPU takes and frees its buffers, gigabytes, at every step. By default glibc hands them
    back to the kernel, which then clears them again page by page: a quarter of the time of an
    embedded train step, half that of a large one. Works only before other threads allocate.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, -1)  # never


def give_memory_back() -> None:
    """Hands what is free back to the kernel after all, for another user of this process."""
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if malloc_trim is not None:
        malloc_trim(0)
