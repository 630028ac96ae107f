"""Records of rated videos: their sources, and the agreement of predictions with MOS."""

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
    """Returns the videos of a part, with the cached streams that a stage reads.

    Args:
        run: The run.
        stage: Training stage.
        part: "train" or "val"; the test part has no stored streams.
    """
    records = {name: open_records(run.workdir / name, name, part) for name in stage.streams}
    own = {"stored": stage.stored, "contents": stage.contents}
    return source_of(run, run.rows[part], records, **own)


def quality_source(
    run: Run, part: str, streams: dict[str, Any] | None = None
) -> loader.QualitySource:
    """Returns the videos of a part of the prepared set.

    Args:
        run: The run.
        part: "train", "val" or "test".
        streams: Name → records of a cached stream of these videos.
    """
    return source_of(run, run.rows[part], streams)


def source_of(
    run: Run,
    rows: np.ndarray,
    streams: dict[str, Any] | None = None,
    *,
    stored: bool = True,
    contents: bool = False,
) -> loader.QualitySource:
    """Returns videos of the prepared set, selected by the numbers of their records.

    Args:
        run: The run.
        rows: (N,) numbers of the records.
        streams: Name → records of a cached stream of these videos.
        stored: Whether items hold the stored frames.
        contents: Whether items hold their content (`loader.QualitySource`).
    """
    name, stream = run.stored
    own = run.data, rows, run.mos_range, streams, name, stream.crops
    return loader.QualitySource(*own, stored=stored, contents=contents)


def validate(
    run: Run, predict: Callable[..., Any], variables: Any, source: loader.QualitySource
) -> dict[str, float]:
    """Predicts all videos of a source.

    Args:
        run: The run.
        predict: Function of `mesh.jit_predict`.
        variables: Variables of the model.
        source: Rated videos.

    Returns:
        SRCC, PLCC, KRCC and RMSE of the predictions on the MOS scale.
    """
    targets = labels(source)
    batches = run.predict(predict, variables, source, run.config.test.batch_size)
    predictions = gather(batches, len(targets))
    return quality_scores(to_mos(predictions, run.mos_range), targets)


def labels(source: loader.QualitySource) -> np.ndarray:
    """Returns the MOS of each video, (N,) float64."""
    return np.array([fact["mos"] for fact in source.facts], np.float64)


def to_mos(prediction: np.ndarray, mos_range: tuple[float, float]) -> np.ndarray:
    """Maps predictions from [0, 1] to the MOS scale of the data set.

    Args:
        prediction: Predictions on the [0, 1] scale, of any shape.
        mos_range: (lowest, highest) MOS of the data set.

    Returns:
        Predictions on the MOS scale, float64, not clipped.
    """
    low, high = mos_range
    return low + np.asarray(prediction, np.float64) * (high - low)


def gather(pairs: Iterator[tuple[np.ndarray, np.ndarray]], count: int) -> np.ndarray:
    """Collects predictions in record order.

    Args:
        pairs: (record numbers, predictions) of each batch, both (B,).
        count: Number of records.

    Returns:
        (count,) float64 predictions.

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
            "have several, because the record set changed while it was read; run the stage again"
        )
    return out


def quality_scores(predictions: np.ndarray, mos: np.ndarray) -> dict[str, float]:
    """Computes SRCC, PLCC, KRCC and RMSE; both arguments are (N,) on the MOS scale."""
    return {name: getattr(agreement, name)(predictions, mos) for name in METRICS}
