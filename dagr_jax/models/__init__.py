"""The networks, in Flax Linen, channels last: `Model` in the modules of the registry."""
