import jax
import pytest


@pytest.fixture
def eight_devices():
    if jax.device_count() < 8:
        pytest.skip("needs XLA_FLAGS=--xla_force_host_platform_device_count=8")
    return jax.devices()[:8]
