"""DAGR-VQA: frames → saliency maps → fused frames → score."""

from dagr_jax.models.dagr.model import Model, fuse, normalize_maps, release_maps

__all__ = ["Model", "fuse", "normalize_maps", "release_maps"]
