"""Hardware and software: card, driver, versions, and the peak rates for all shares of peak."""

import functools
import shutil
import subprocess
from collections.abc import Callable, Iterator
from importlib import metadata
from typing import Any

import jax
import jax.numpy as jnp

from dagr_jax.bench.gpu.plan import Plan
from dagr_jax.bench.gpu.programs import dtypes
from dagr_jax.bench.gpu.timing import Side, measured_rows
from dagr_jax.bench.sides import precision
from dagr_jax.runtime.machine import machine

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "torch", "triton")
_ASKED = "name,driver_version,memory.total,clocks.max.sm,clocks.max.memory,power.limit"


def measure(plan: Plan) -> Iterator[dict[str, Any]]:
    """Yields rows of the machine, the versions, the card, matrix products and a copy."""
    yield {"what": "machine", "backend": jax.default_backend(), **machine()}
    yield {"what": "versions", **versions()}
    if card := driver():
        yield {"what": "card", **card}
    n = plan.sizes.matrix
    sides: dict[str, Callable[[], Side]] = {
        f"matrix product, {dtype}": functools.partial(_product, n, dtype) for dtype in dtypes()
    }
    sides["copy"] = functools.partial(_copy, plan.sizes.copied)
    yield from measured_rows(sides, plan)


def versions() -> dict[str, str]:
    """Returns {package: version} of the installed packages."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def driver() -> dict[str, str]:
    """Returns what nvidia-smi reports for the first card; {} if there is none."""
    if shutil.which("nvidia-smi") is None:
        return {}
    command = ["nvidia-smi", f"--query-gpu={_ASKED}", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    if done.returncode or not done.stdout.strip():
        return {}
    values = done.stdout.splitlines()[0].split(", ")
    return dict(zip(_ASKED.replace(".", "_").split(","), values, strict=False))


def _product(n: int, dtype: str) -> Side:
    kind = "bfloat16" if dtype == "bfloat16" else "float32"
    # Random numbers, because products of zeros run faster.
    keys = jax.random.split(jax.random.key(0))
    a, b = (jax.random.normal(key, (n, n), kind) for key in keys)
    with precision(dtype):
        compiled = jax.jit(lambda a, b: a @ b).lower(a, b).compile()
    return Side.of_program(compiled, (a, b), {"dtype": dtype, "needed_gflop": 2 * n**3 / 1e9})


def _copy(size: int) -> Side:
    x = jax.random.normal(jax.random.key(0), (size // 4,), "float32")
    compiled = jax.jit(jnp.negative).lower(x).compile()
    return Side.of_program(compiled, (x,), {"moved_gb": 2 * size / 1e9})
