"""Metrics of quality scores and saliency maps, prediction files, significance tests, baselines."""
