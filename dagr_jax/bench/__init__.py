"""Benchmarks, and the PyTorch twin of the networks with which they compare."""
