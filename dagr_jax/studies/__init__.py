"""Analyses of the paper: metrics of saliency networks, and the effect of register tokens."""
