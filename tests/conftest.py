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
import json  # noqa: E402
import zlib  # noqa: E402
from collections.abc import Callable, Mapping  # noqa: E402
from pathlib import Path  # noqa: E402

import numpy as np  # noqa: E402
import pytest  # noqa: E402

pytest_plugins = ["tests.scoring"]
GOLDEN = Path(__file__).parent / "golden"


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

    def load(name: str) -> Mapping[str, np.ndarray]:
        with np.load(GOLDEN / f"{name}.npz") as arrays:
            return dict(arrays)

    return load


@pytest.fixture(scope="session")
def golden_data() -> Callable[..., np.ndarray]:
    """(key, *shape) → the input that golden/README.md calls data."""

    def data(key: list[int], *shape: int) -> np.ndarray:
        return np.random.default_rng(key).uniform(0, 1, shape).astype(np.float32)

    return data


@pytest.fixture(scope="session")
def golden_weights() -> Callable[[str], dict[str, np.ndarray]]:
    """name → the state_dict of golden/keys_<name>.json by the recipe of golden/README.md."""

    def weights(name: str) -> dict[str, np.ndarray]:
        shapes = json.loads((GOLDEN / f"keys_{name}.json").read_text())
        return {key: golden_weight(key, tuple(shape)) for key, shape in shapes.items()}

    return weights


@pytest.fixture(scope="session")
def gradient_errors() -> Callable[..., dict[str, float]]:
    """(golden arrays, gradients by PyTorch's keys) → the error of each gradient.

    The larger one of its norm's and its first values', in units of 1e-3 of the norm plus 1e-5.
    """

    def errors(
        expected: Mapping[str, np.ndarray], gradients: Mapping[str, np.ndarray]
    ) -> dict[str, float]:
        off = {}
        for name, want in expected.items():
            if name.startswith("grad/"):
                key = name.removeprefix("grad/")
                mine = gradients[key].ravel()
                difference = [np.linalg.norm(mine) - want[0], *(mine[:8] - want[1 : 1 + mine.size])]
                off[key] = float(np.abs(difference).max() / (1e-3 * want[0] + 1e-5))
        return off

    return errors


def golden_weight(key: str, shape: tuple[int, ...], seed: int = 7) -> np.ndarray:
    """The value of one state_dict entry (golden/README.md)."""
    rng = np.random.default_rng([seed, zlib.crc32(key.encode())])
    if key.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    if key.endswith("running_var"):
        value = rng.uniform(0.5, 1.5, shape)
    elif key.endswith("running_mean"):
        value = 0.1 * rng.standard_normal(shape)
    elif len(shape) == 1 and key.endswith("bn3.weight"):
        value = rng.uniform(0.05, 0.25, shape)
    elif len(shape) == 1 and key.endswith("weight"):
        value = rng.uniform(0.5, 1.5, shape)
    elif len(shape) == 1:
        value = 0.1 * rng.standard_normal(shape)
    elif "register_tokens" in key:
        value = rng.standard_normal(shape)
    else:
        value = rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
    return value.astype(np.float32)


@pytest.fixture(scope="session")
def fill() -> Callable[..., dict]:
    """(model, *inputs) → variables filled with random numbers, without compiling `init`.

    Kernels have variance 2 / fan_in, scales and variances lie around one, the rest around zero.
    """

    from dagr_jax.bench.sides import random_variables

    return random_variables
