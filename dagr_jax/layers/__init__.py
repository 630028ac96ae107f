"""Layers that models share, in Flax Linen, channels last."""
