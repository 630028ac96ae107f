"""The models, in Flax Linen, channels last. Each model is one folder with a `CONTRACT`."""
