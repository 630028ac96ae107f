"""What `--config` takes."""

from dagr_jax import registry


def get_config():
    return registry.contract("toy").tiny_config()
