"""Configurations that are shipped with the program: plain `ml_collections` data."""
