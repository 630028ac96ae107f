"""Settings that must stand before JAX starts, and the golden numbers of the PyTorch release."""

import os
import signal
import tempfile

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# A shell lets what it starts in the background ignore Ctrl-C; programs that tests stop would too.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# Eight fake devices, so that sharding is tested everywhere. They share few cores, with other tests:
# XLA aborts the process when they wait for each other for longer than it expects of real ones.
# Compiling is most of what tests wait for: LLVM's optimizer is a third of that, and XLA's newer way
# to fused loops half of the rest. `.ci/run` lets the tests beside PyTorch run as users do.
for flag in (
    "--xla_backend_optimization_level=0",
    "--xla_cpu_use_fusion_emitters=false",
    "--xla_force_host_platform_device_count=8",
    "--xla_cpu_collective_call_terminate_timeout_seconds=900",
):
    if flag.partition("=")[0] not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()

# Many tests compile the same small networks: once is enough for all of them, and for the processes
# they start. A folder of this session's own, so that no run depends on an earlier one.
if "PYTEST_XDIST_WORKER" not in os.environ:  # its workers share the folder of their parent
    _COMPILED = tempfile.TemporaryDirectory(prefix="dagr-compiled-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _COMPILED.name
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

from jaxtyping import install_import_hook  # noqa: E402

# Shapes and types of public functions are checked while the tests run; needs to come first.
install_import_hook(["dagr_jax.models", "dagr_jax.layers"], "beartype.beartype")

import fcntl  # noqa: E402
from collections.abc import Callable, Mapping  # noqa: E402
from pathlib import Path  # noqa: E402

import numpy as np  # noqa: E402
import pytest  # noqa: E402

pytest_plugins = ["tests.scoring"]


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Workdir of the main job at toy size, all stages (`tests.tiny_run`); not to be changed."""
    from dagr_jax import stages
    from tests.tiny_run import tiny_config

    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # one run for all workers: who comes later finds it finished
    with open(base / "tiny.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        stages.run_stages(tiny_config(), base / "tiny")
    return base / "tiny"


# Minutes each. They come first, so that at the end no worker waits for one of them.
LONG = (
    "tests/test_release.py",
    "tests/test_resume.py",
    "tests/runtime/test_distributed.py",
    "tests/test_sweep.py",
    "tests/test_pipeline.py",
    "tests/layers/test_conv3d.py",
    "tests/train/test_devices.py",
    "tests/test_main_job.py",
    "tests/test_protocols.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        name = item.location[0]
        return LONG.index(name) if name in LONG else len(LONG)

    items.sort(key=place)


@pytest.fixture(scope="session")
def golden() -> Callable[[str], Mapping[str, np.ndarray]]:
    """name → arrays of golden/<name>.npz."""

    from dagr_jax.bench import golden

    return golden.arrays


@pytest.fixture(scope="session")
def golden_data() -> Callable[..., np.ndarray]:
    """(key, *shape) → the input that golden/README.md calls data."""

    from dagr_jax.bench import golden

    return golden.data


@pytest.fixture(scope="session")
def golden_weights() -> Callable[[str], dict[str, np.ndarray]]:
    """name → the state_dict of golden/keys_<name>.json by the recipe of golden/README.md."""

    from dagr_jax.bench import golden

    return golden.weights


@pytest.fixture(scope="session")
def gradient_errors() -> Callable[..., dict[str, float]]:
    """`bench.golden.gradient_errors`."""
    from dagr_jax.bench import golden

    return golden.gradient_errors


@pytest.fixture(scope="session")
def fill() -> Callable[..., dict]:
    """(model, *inputs) → variables filled with random numbers, without compiling `init`.

    Kernels have variance 2 / fan_in, scales and variances lie around one, the rest around zero.
    """

    from dagr_jax.bench.sides import random_variables

    return random_variables
