"""Configurations in the package: plain `ml_collections` data."""
