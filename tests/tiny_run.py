"""The main job at toy size, as a file that the program takes as its --config."""

from dagr_jax.models.dagr.config import shrink, tiny_config

__all__ = ["get_config", "shrink", "tiny_config"]

get_config = tiny_config
