"""The machine: its devices, and its description."""

import os
import platform
import shutil
from typing import TYPE_CHECKING, Any

from dagr_jax.runtime.errors import DagrError, in_a_line

if TYPE_CHECKING:
    import jax


def devices() -> "list[jax.Device]":
    """Returns all devices of JAX, of all processes.

    Raises:
        DagrError: JAX_PLATFORMS asks for devices that this machine does not have.
    """
    import jax

    try:
        return jax.devices()
    except (RuntimeError, AssertionError) as error:
        asked = os.environ.get("JAX_PLATFORMS", "")
        if not asked:
            raise
        raise DagrError(
            f"JAX_PLATFORMS={asked}",
            f"JAX finds no such device here ({in_a_line(error)})",
            "unset it, or install the extra cuda12 or cuda13 on a machine with a GPU",
        ) from error


def shared_memory() -> int | None:
    """Returns the size of /dev/shm in bytes; None if there is none (not Linux)."""
    try:
        return shutil.disk_usage("/dev/shm").total
    except OSError:
        return None


def machine() -> dict[str, Any]:
    """Returns the hardware and software on which a run or measurement was made."""
    import jax

    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as stream:
            models = [line.partition(":")[2].strip() for line in stream if "model name" in line]
        name = models[0] if models else name
    except OSError:
        pass  # not Linux
    pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return {
        "cpu": name,
        "cores": os.cpu_count(),
        "memory_gib": round(pages * size / 2**30, 1),
        "devices": sorted({device.device_kind for device in devices()}),
        "device_count": jax.device_count(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "jax": jax.__version__,
    }
