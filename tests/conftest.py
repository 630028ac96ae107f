"""Settings that must be made before JAX starts, and the golden numbers of the PyTorch release."""

import os
import signal
import tempfile

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Background jobs of a shell ignore Ctrl-C, and programs that the tests stop would inherit this.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# Eight fake devices, so that sharding is tested on every machine. They share few cores with other
# tests, so they wait for each other longer than real devices; by default XLA then aborts.
# Most of the test time is compilation. LLVM's optimizer takes a third of it, and XLA's new fusion
# emitters half of the rest. `.ci/run` runs the tests with PyTorch with the settings of users.
for flag in (
    "--xla_backend_optimization_level=0",
    "--xla_cpu_use_fusion_emitters=false",
    "--xla_force_host_platform_device_count=8",
    "--xla_cpu_collective_call_terminate_timeout_seconds=900",
):
    if flag.partition("=")[0] not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()

# Many tests, and the processes that they start, compile the same small networks. They share one
# cache. Each session has its own folder, so that no session depends on an earlier one.
if "PYTEST_XDIST_WORKER" not in os.environ:  # workers share the folder of their parent
    _COMPILED = tempfile.TemporaryDirectory(prefix="dagr-compiled-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _COMPILED.name
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

from jaxtyping import install_import_hook  # noqa: E402

# Checks shapes and types of public functions at run time. It must come before other imports.
install_import_hook(["dagr_jax.models", "dagr_jax.layers"], "beartype.beartype")

import fcntl  # noqa: E402
from collections.abc import Callable, Mapping  # noqa: E402
from pathlib import Path  # noqa: E402

import numpy as np  # noqa: E402
import pytest  # noqa: E402

pytest_plugins = ["tests.scoring"]


@pytest.fixture(scope="session", autouse=True)
def two_devices():
    """Runs use two of the eight devices unless a test names them; this compiles faster."""
    import jax

    from dagr_jax.train import mesh

    real = mesh.make_mesh
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mesh, "make_mesh", lambda devices=None: real(devices or jax.devices()[:2]))
        yield


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Working directory of a tiny run with all stages (`tests.tiny_run`); tests only read it."""
    from dagr_jax import stages
    from tests.tiny_run import tiny_config

    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # one run for all workers; the first worker makes it
    with open(base / "tiny.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        stages.run_stages(tiny_config(), base / "tiny")
    return base / "tiny"


# These take minutes each. They run first, so that no worker has to wait for one at the end.
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
    """Function: name → arrays of golden/<name>.npz."""

    from dagr_jax.bench import golden

    return golden.arrays


@pytest.fixture(scope="session")
def golden_data() -> Callable[..., np.ndarray]:
    """Function: (key, *shape) → the input that golden/README.md calls data."""

    from dagr_jax.bench import golden

    return golden.data


@pytest.fixture(scope="session")
def golden_weights() -> Callable[[str], dict[str, np.ndarray]]:
    """Function: name → state_dict of golden/keys_<name>.json, by the recipe of golden/README.md."""

    from dagr_jax.bench import golden

    return golden.weights


@pytest.fixture(scope="session")
def gradient_errors() -> Callable[..., dict[str, float]]:
    """`bench.golden.gradient_errors`."""
    from dagr_jax.bench import golden

    return golden.gradient_errors


@pytest.fixture(scope="session")
def fill() -> Callable[..., dict]:
    """Function: (model, *inputs) → random variables, without compiling `init`.

    Kernels have variance 2 / fan_in. Scales and variances are around 1, all others around 0.
    """

    from dagr_jax.bench.sides import random_variables

    return random_variables
