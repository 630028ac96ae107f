"""Cache of compiled programs on disk, so that the next process does not compile them again."""

import hashlib
import os
from pathlib import Path

import jax


def keep_compiled() -> Path | None:
    """Turns on JAX's persistent compilation cache in the user's cache folder.

    The folder is `$XDG_CACHE_HOME/dagr_jax` (default `~/.cache/dagr_jax`). It has one subfolder for
    each kind of processor: a program compiled for one processor may crash on another, and machines
    may share a home directory. If JAX_COMPILATION_CACHE_DIR is set, or if the folder is not
    writable, this function changes nothing.

    Returns:
        The cache folder; None if this function did not turn on the cache.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return None
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = home / "dagr_jax" / f"jax-{jax.__version__}-{_processor()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    if not os.access(folder, os.W_OK):
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    # Programs that compile faster than this take longer to read from disk than to compile.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    jax.config.update("jax_compilation_cache_max_size", 2**30)  # bytes; the oldest go first
    return folder


def _processor() -> str:
    """Returns 12 hex digits that identify the processor model and its instruction sets."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    told = {line for line in lines if line.startswith(("model name", "flags", "Features"))}
    return hashlib.sha256("\n".join(sorted(told)).encode()).hexdigest()[:12]
