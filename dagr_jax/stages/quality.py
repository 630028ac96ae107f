"""Records of rated videos: their sources, and how predictions agree with their MOS."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from dagr_jax.data import loader
from dagr_jax.data.prepare import open_records
from dagr_jax.metrics import agreement
from dagr_jax.models.contract import TrainStage
from dagr_jax.report.agreement import METRICS
from dagr_jax.stages.artifacts import StageError
from dagr_jax.stages.run import Run


def stage_source(run: Run, stage: TrainStage, part: str) -> loader.QualitySource:
    """The videos of a part, with the cached streams that a stage takes."""
    records = {name: open_records(run.workdir / name, name, part) for name in stage.streams}
    return quality_source(run, part, records)


def quality_source(
    run: Run, part: str, streams: dict[str, Any] | None = None
) -> loader.QualitySource:
    """The videos of a part of the prepared set.

    Args:
        run: The run.
        part: "train", "val" or "test".
        streams: Name → records of a cached stream of these videos.
    """
    return source_of(run, run.rows[part], streams)


def source_of(
    run: Run, rows: np.ndarray, streams: dict[str, Any] | None = None
) -> loader.QualitySource:
    """Some videos of the prepared set, by the numbers of their records."""
    name, stream = run.stored
    return loader.QualitySource(run.data, rows, run.mos_range, streams, name, stream.crops)


def validate(
    run: Run, predict: Callable[..., Any], variables: Any, source: loader.QualitySource
) -> dict[str, float]:
    """SRCC, PLCC, KRCC and RMSE of the predictions for a source, on the MOS scale."""
    targets = labels(source)
    batches = run.predict(predict, variables, source, run.config.test.batch_size)
    predictions = gather(batches, len(targets))
    return quality_scores(to_mos(predictions, run.mos_range), targets)


def labels(source: loader.QualitySource) -> np.ndarray:
    """The MOS of each video, (N,) float64."""
    return np.array([fact["mos"] for fact in source.facts], np.float64)


def to_mos(prediction: np.ndarray, mos_range: tuple[float, float]) -> np.ndarray:
    """Predictions on the [0, 1] scale → MOS on the scale of the data set, float64, unclipped."""
    low, high = mos_range
    return low + np.asarray(prediction, np.float64) * (high - low)


def gather(pairs: Iterator[tuple[np.ndarray, np.ndarray]], count: int) -> np.ndarray:
    """(index, prediction) pairs → predictions in record order, (count,).

    Raises:
        StageError: A record was predicted twice or not at all.
    """
    out = np.full(count, np.nan)
    seen = np.zeros(count, int)
    for index, values in pairs:
        out[index] = values
        np.add.at(seen, index, 1)
    if (seen != 1).any():
        raise StageError(
            f"{(seen == 0).sum()} of {count} records have no prediction and {(seen > 1).sum()} "
            "have several; the record set changed while it was read, run the stage again"
        )
    return out


def quality_scores(predictions: np.ndarray, mos: np.ndarray) -> dict[str, float]:
    """SRCC, PLCC, KRCC and RMSE, both arguments on the MOS scale, (N,)."""
    return {name: getattr(agreement, name)(predictions, mos) for name in METRICS}
