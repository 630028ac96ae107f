"""The networks, in Flax Linen, channels last: one file each, `Model` in those of the registry."""
