"""Compiled programs kept on disk, so that the next process need not compile them again."""

import hashlib
import os
from pathlib import Path

import jax


def keep_compiled() -> Path | None:
    """Keeps what JAX compiles in the user's cache folder, and uses what is there.

    The folder is `$XDG_CACHE_HOME/dagr_jax` (`~/.cache/dagr_jax`), with one in it for each kind of
    processor: a program for one may crash another, and a home directory may be shared. An own
    JAX_COMPILATION_CACHE_DIR is left as it is, and where the folder cannot be written nothing is
    kept.

    Returns:
        The folder; None where nothing is kept by this.
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
    # Programs that compile faster than they are read are not worth a file.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    jax.config.update("jax_compilation_cache_max_size", 2**30)  # bytes; the oldest go first
    return folder


def _processor() -> str:
    """Twelve digits that stand for what the processor can do."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    told = {line for line in lines if line.startswith(("model name", "flags", "Features"))}
    return hashlib.sha256("\n".join(sorted(told)).encode()).hexdigest()[:12]
