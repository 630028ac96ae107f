"""Gaze records: metrics of predicted saliency maps, for validation and for the test stage."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from dagr_jax.data import loader
from dagr_jax.metrics import saliency
from dagr_jax.models.contract import TrainStage
from dagr_jax.report.plots import overlay
from dagr_jax.stages.run import Run
from dagr_jax.stages.split import rows_of
from dagr_jax.train import mesh as meshes

# (predicted map, true map in [0, 1], fixation map), each (h, w) → value for one frame.
Metric = Callable[[np.ndarray, np.ndarray, np.ndarray], float]

# Metrics that are cheap enough for every validation.
QUICK: dict[str, Metric] = {
    "cc": lambda m, truth, fixations: saliency.cc(m, truth),
    "nss": lambda m, truth, fixations: saliency.nss(m, fixations),
}
ALL: dict[str, Metric] = {
    **QUICK,
    "sim": lambda m, truth, fixations: saliency.sim(m, truth),
    "kld": lambda m, truth, fixations: saliency.kld(m, truth),
    "auc_judd": lambda m, truth, fixations: saliency.auc_judd(m, fixations),
    "auc_borji": lambda m, truth, fixations: saliency.auc_borji(m, fixations, seed=0),
}
# In the order of Table 3 of the paper.
NAMES = (*ALL, "auc_shuffled", "temporal_consistency")


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
    """
    data = run.gaze_data(stage)
    assert data is not None  # checked by the callers
    return loader.SaliencySource(data, rows_of(run.gaze_parts(stage))[part])


def quick_scores(
    run: Run,
    predict: Callable[..., Any],
    variables: Any,
    source: Any,
    batch_size: int,
    drawn: dict[int, Any],
) -> dict[str, float]:
    """Computes mean CC and NSS of the predicted maps over all frames of a saliency set.

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
    values: list[dict[str, float]] = []
    for index, maps in run.predict(predict, variables, source, batch_size):
        for i, video in zip(index.tolist(), maps, strict=True):
            values += _frame_scores(source[i], video, QUICK)
            if i in drawn:
                drawn[i] = np.array(video)
    return {name: _mean([frame[name] for frame in values]) for name in QUICK}


def _frame_scores(
    item: Mapping[str, np.ndarray], maps: np.ndarray, scorers: Mapping[str, Metric]
) -> list[dict[str, float]]:
    """Returns metric → value for each frame of one saliency record; `maps` is (T, h, w)."""
    truths = item["maps"] / 255.0
    return [
        {name: scorer(m, truth, fixations) for name, scorer in scorers.items()}
        for m, truth, fixations in zip(maps, truths, item["fixations"], strict=True)
    ]


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
    looked = {c: np.zeros(source[0]["fixations"].shape[1:]) for c in source.contents}
    for index, content in enumerate(source.contents):
        looked[content] += source[index]["fixations"].sum(0)
    everywhere = sum(looked.values())
    sums = {name: np.zeros(len(maps)) for name in NAMES}
    counts = {name: np.zeros(len(maps), int) for name in NAMES}
    for index, content in enumerate(source.contents):
        item = source[index]
        scorers = {**ALL, "auc_shuffled": _shuffled(everywhere - looked[content])}
        frames = _frame_scores(item, maps[index], scorers)
        found = {name: np.array([frame[name] for frame in frames]) for name in scorers}
        steady = saliency.temporal_consistency(maps[index], item["frames"])
        for name, values in {**found, "temporal_consistency": np.array([steady])}.items():
            defined = values[~np.isnan(values)]
            sums[name][index], counts[name][index] = defined.sum(), len(defined)
    return Judged(tuple(source.contents), sums, counts)


def _shuffled(others: np.ndarray) -> Metric:
    def score(m: np.ndarray, truth: np.ndarray, fixations: np.ndarray) -> float:
        return saliency.auc_shuffled(m, fixations, others, seed=0)

    return score


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
