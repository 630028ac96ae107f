"""Analyses of one paper: what saliency networks are worth, and what their registers carry."""
