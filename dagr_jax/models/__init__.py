"""The models, in Flax Linen, channels last: a folder each, `Model` in the registry's modules."""
