"""Gaze records: metrics of predicted saliency maps, for validation and for the test stage.

Validation and the rows of a sweep have CC and NSS on the grid of the maps. The test stage and
`dagr report saliency` compute all metrics of fixations in the size in which the data set gives the
fixations: on a smaller grid, neighbouring fixations would become one.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from dagr_jax.data import loader
from dagr_jax.metrics import saliency
from dagr_jax.models.contract import TrainStage
from dagr_jax.report.plots import overlay
from dagr_jax.stages.artifacts import StageError
from dagr_jax.stages.prepare import gaze_frames_of, read_prepared
from dagr_jax.stages.run import Run
from dagr_jax.stages.split import rows_of
from dagr_jax.stages.start import trained
from dagr_jax.train import mesh as meshes

# Metrics of a predicted map against the true map, both (h, w).
DENSITY: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "cc": saliency.cc,
    "sim": saliency.sim,
    "kld": saliency.kld,
}
# In the order of Table 3 of the paper.
NAMES = (
    "cc",
    "nss",
    "sim",
    "kld",
    "auc_judd",
    "auc_borji",
    "auc_shuffled",
    "temporal_consistency",
)


@dataclasses.dataclass(frozen=True)
class Judged:
    """All metrics of the maps of n videos.

    Attributes:
        contents: (n) content of each video.
        sums: Metric of `NAMES` → (n,) sum over the frames for which the metric is defined. The
            temporal consistency has one value per video instead of a sum.
        counts: Metric of `NAMES` → (n,) number of values in the sum. A frame without fixations has
            no NSS; it is left out of the mean, not counted as zero.
    """

    contents: tuple[str, ...]
    sums: Mapping[str, np.ndarray]
    counts: Mapping[str, np.ndarray]

    def means(self) -> dict[str, float]:
        """Returns the mean of each metric over all frames of all videos; NaN if undefined."""
        return {name: ratio(self.sums[name], self.counts[name]) for name in self.sums}


def ratio(sums: np.ndarray, counts: np.ndarray) -> float:
    """Returns the mean over all frames; NaN if there are none."""
    return float(sums.sum() / counts.sum()) if counts.sum() else float("nan")


def gaze_source(run: Run, stage: TrainStage, part: str) -> loader.SaliencySource:
    """Returns the gaze records of a part.

    Args:
        run: The run.
        stage: Training stage that learns from the gaze set.
        part: "train", "val" or "test".

    Raises:
        StageError: The set was prepared with another number of frames or size of maps.
    """
    data = run.gaze_data(stage)
    assert data is not None  # checked by the callers
    held, wanted = gaze_frames_of(data), run.gaze_frames or run.stored[1].frames
    if held != wanted:
        raise StageError(
            data,
            f"was prepared with {held} frames a video, and the configuration wants {wanted}",
            f"prepare it again with --frames {wanted}",
        )
    size, own = read_prepared(data)["map_size"], list(run.map_size or ())
    if size != own:
        raise StageError(
            data,
            f"was prepared with gaze maps of {size[0]} × {size[1]}, and the configuration wants "
            f"{own[0]} × {own[1]}",
            f"prepare it again with --map-size {own[0]} {own[1]}",
        )
    return loader.SaliencySource(data, rows_of(run.gaze_parts(stage))[part], stage.frames)


def quick_scores(
    run: Run,
    predict: Callable[..., Any],
    variables: Any,
    source: Any,
    batch_size: int,
    drawn: dict[int, Any],
) -> dict[str, float]:
    """Computes mean CC and NSS of the predicted maps over all frames, on the grid of the maps.

    Args:
        run: The run.
        predict: Function of `mesh.jit_predict`.
        variables: Variables of the saliency network.
        source: Gaze records.
        batch_size: Global batch size.
        drawn: Record number → predicted maps (T, h, w). The maps of its keys are kept in it.

    Returns:
        {"cc", "nss"}; NaN if a metric is undefined for all frames.
    """
    found: dict[str, list[float]] = {"cc": [], "nss": []}
    for index, maps in run.predict(predict, variables, source, batch_size):
        for i, video in zip(index.tolist(), maps, strict=True):
            item = source[i]
            found["cc"] += [saliency.cc(m, t) for m, t in zip(video, item["maps"], strict=True)]
            both = zip(video, item["fixations"], strict=True)
            found["nss"] += [saliency.nss(m, fixations) for m, fixations in both]
            if i in drawn:
                drawn[i] = np.array(video)
    return {name: _mean(values) for name, values in found.items()}


def _mean(values: Sequence[float]) -> float:
    defined = np.array(values)[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else float("nan")


def judge(source: loader.SaliencySource, maps: Sequence[np.ndarray]) -> Judged:
    """Computes all metrics of predicted maps.

    Args:
        source: Gaze records.
        maps: Predicted maps (T, h, w) of each record, in the order of the records.

    Returns:
        The metrics of each record.
    """
    everyone = _Everyone(source)
    sums = {name: np.zeros(len(maps)) for name in NAMES}
    counts = {name: np.zeros(len(maps), int) for name in NAMES}
    for index, content in enumerate(source.contents):
        (item, looked), size = source.with_points(index), source.native_size(index)
        others = everyone.elsewhere(content, size)
        found: dict[str, list[float]] = {name: [] for name in NAMES}
        for m, truth, points in zip(maps[index], item["maps"], looked, strict=True):
            for name, density in DENSITY.items():
                found[name].append(density(m, truth / 255.0))
            for name, value in fixated(m, points, size, others).items():
                found[name].append(value)
        found["temporal_consistency"] = [saliency.temporal_consistency(maps[index], item["frames"])]
        for name, values in found.items():
            defined = np.array(values)[~np.isnan(values)]
            sums[name][index], counts[name][index] = defined.sum(), len(defined)
    return Judged(tuple(source.contents), sums, counts)


def fixated(
    prediction: np.ndarray, points: np.ndarray, size: tuple[int, int], others: np.ndarray
) -> dict[str, float]:
    """Computes the metrics of one map against fixations, in the size of the fixations.

    Args:
        prediction: (h, w) saliency, which is resized.
        points: (k, 2) y and x of the fixations, in pixels of `size`.
        size: (H, W) in pixels.
        others: (H, W) number of fixations in other videos at each pixel.

    Returns:
        NSS, AUC-Judd, AUC-Borji and shuffled AUC (see `metrics.saliency`).
    """
    fixations = np.zeros(size, np.uint8)
    fixations[tuple(points.T)] = 1
    full = saliency.resized(np.asarray(prediction, np.float64), size)
    return {
        "nss": saliency.nss(full, fixations),
        "auc_judd": saliency.auc_judd(full, fixations),
        "auc_borji": saliency.auc_borji(full, fixations, seed=0),
        "auc_shuffled": saliency.auc_shuffled(full, fixations, others, seed=0),
    }


class _Everyone:
    """The fixations of all records, for the shuffled AUC."""

    def __init__(self, source: loader.SaliencySource) -> None:
        self._contents = np.array(source.contents)
        # Places in [0, 1), so that videos of different sizes can be compared.
        self._places = [
            (np.concatenate(source.points(i)) + 0.5) / source.native_size(i)
            for i in range(len(source))
        ]

    def elsewhere(self, content: str, size: tuple[int, int]) -> np.ndarray:
        """Returns the number of fixations (H, W) of the other contents at each pixel of a size."""
        chosen = [self._places[i] for i in np.flatnonzero(self._contents != content)]
        y, x = (np.concatenate([np.zeros((0, 2)), *chosen]) * size).astype(int).T
        return np.bincount(y * size[1] + x, minlength=size[0] * size[1]).reshape(size)


def maps_of_test(run: Run, stage: TrainStage, variables: Mapping[str, Any]) -> list[np.ndarray]:
    """Predicts the maps of the gaze test part.

    Args:
        run: The run.
        stage: The stage that trained the network.
        variables: Variables of the complete model.

    Returns:
        Maps (T, h, w) of each record, in the order of the records.
    """
    own = {kind: tree[stage.part] for kind, tree in variables.items() if stage.part in tree}
    predict = meshes.jit_predict(stage.task.predict, run.mesh)
    source, size = gaze_source(run, stage, "test"), run.config[stage.name].batch_size
    return [m for _, maps in run.predict(predict, own, source, size) for m in maps]


def test_scores(run: Run, stage: TrainStage) -> dict[str, float]:
    """Computes CC and NSS of a trained network on the gaze test part (see `quick_scores`)."""
    predict = meshes.jit_predict(stage.task.predict, run.mesh)
    source, size = gaze_source(run, stage, "test"), run.config[stage.name].batch_size
    return quick_scores(run, predict, trained(run, stage), source, size, {})


def few(source: loader.SaliencySource) -> list[int]:
    """Returns the numbers of the three records that `overlays` draws."""
    return np.linspace(0, len(source) - 1, 3).astype(int).tolist()


def overlays(
    source: loader.SaliencySource, predicted: Mapping[int, np.ndarray]
) -> dict[str, np.ndarray]:
    """Draws the middle frame of some records with the true and the predicted map, side by side.

    Args:
        source: Gaze records.
        predicted: Record number → predicted maps (T, h, w).

    Returns:
        Name → (h, 3w, 3) picture.
    """
    pictures = {}
    for i, maps in predicted.items():
        item, t = source[i], len(maps) // 2
        frame = item["frames"][t]
        both = [overlay(frame, m) for m in (item["maps"][t] / 255.0, maps[t])]
        pictures[f"validation/record_{i}"] = np.hstack([frame, *both])
    return pictures


def ignorant(
    source: loader.SaliencySource, training: loader.SaliencySource | None
) -> dict[str, list[np.ndarray]]:
    """Makes maps that ignore the video: the baselines that a network has to beat.

    Args:
        source: Gaze records.
        training: Gaze records of the training part; None if there are none.

    Returns:
        Name → maps (T, h, w) of each record. "centre_bias" is a Gaussian at the centre;
        "training_mean", only with `training`, is the mean of the training gaze maps.
    """
    shape = source[0]["maps"].shape
    found = {"centre_bias": saliency.centre_bias(*shape[1:])}
    if training is not None:
        means = [training[i]["maps"].mean(0) for i in range(len(training))]
        found["training_mean"] = np.mean(means, axis=0)
    return {k: [np.broadcast_to(m, shape)] * len(source) for k, m in found.items()}


def gaze_report(run: Run, stage: TrainStage, predicted: Sequence[np.ndarray]) -> dict[str, Any]:
    """Computes all saliency metrics of the predicted maps and of maps that ignore the video.

    Args:
        run: The run.
        stage: The stage that trained the network.
        predicted: Maps (T, h, w) of each record of the gaze test part (`maps_of_test`).

    Returns:
        Metric → mean over all frames, and the same under the name of each baseline.
    """
    source, training = gaze_source(run, stage, "test"), gaze_source(run, stage, "train")
    others = {k: judge(source, maps).means() for k, maps in ignorant(source, training).items()}
    return {**judge(source, predicted).means(), **others}
