"""Scores of videos with a checkpoint."""

from dagr_jax.score.maps import MapPlan
from dagr_jax.score.results import Failure, Result, Segment
from dagr_jax.score.scorer import Scorer

__all__ = ["Failure", "MapPlan", "Result", "Scorer", "Segment"]
