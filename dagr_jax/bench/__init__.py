"""Measurements, and the PyTorch twin that they compare with."""
