"""What saliency maps are worth on a saliency set: validation, the test stage, and Table 3."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dagr_jax.data import loader
from dagr_jax.data.prepare import has_records
from dagr_jax.data.records import read_list
from dagr_jax.metrics import agreement, saliency
from dagr_jax.models.dagr import unet3d
from dagr_jax.stages.run import Run, StageError, progress, read_json, say, unseen
from dagr_jax.train import mesh as meshes
from dagr_jax.train.checkpoints import load_variables
from dagr_jax.train.steps import SaliencyTask

# (map, truth in [0, 1], fixations) → value of one frame.
Metric = Callable[[np.ndarray, np.ndarray, np.ndarray], float]

# What is cheap enough for every validation.
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
# In the order of Table 3.
NAMES = (*ALL, "auc_shuffled", "temporal_consistency")


@dataclasses.dataclass(frozen=True)
class Judged:
    """Every metric of the maps of each video of a set.

    Attributes:
        contents: (n) content of each video.
        sums: metric of `NAMES` → (n,) sum over the frames where it is defined; of the temporal
            consistency, which is a video's, its value.
        counts: metric → (n,) how many these are; a frame without fixations has no NSS and is left
            out of the mean, not counted as zero.
    """

    contents: tuple[str, ...]
    sums: Mapping[str, np.ndarray]
    counts: Mapping[str, np.ndarray]

    def means(self) -> dict[str, float]:
        """The mean of each metric over all frames of all videos; NaN where it has no value."""
        return {name: _ratio(self.sums[name], self.counts[name]) for name in self.sums}


def _ratio(sums: np.ndarray, counts: np.ndarray) -> float:
    return float(sums.sum() / counts.sum()) if counts.sum() else float("nan")


def saliency_source(run: Run, part: str) -> loader.SaliencySource:
    """The saliency records of a part."""
    assert run.saliency_data is not None  # the callers have looked
    return loader.SaliencySource(run.saliency_data, run.saliency_rows[part])


def quick_scores(
    run: Run, predict: Callable[..., Any], variables: Any, source: Any, batch_size: int
) -> dict[str, float]:
    """Mean CC and NSS of predicted maps over the frames of a saliency set."""
    values: list[dict[str, float]] = []
    for index, maps in run.predict(predict, variables, source, batch_size):
        for i, video in zip(index.tolist(), maps, strict=True):
            values += _frame_scores(source[i], video, QUICK)
    return {name: _mean([frame[name] for frame in values]) for name in QUICK}


def _frame_scores(
    item: Mapping[str, np.ndarray], maps: np.ndarray, scorers: Mapping[str, Metric]
) -> list[dict[str, float]]:
    """Metric → value for each frame of one saliency record; `maps` (T, h, w)."""
    truths = item["maps"] / 255.0
    return [
        {name: scorer(m, truth, fixations) for name, scorer in scorers.items()}
        for m, truth, fixations in zip(maps, truths, item["fixations"], strict=True)
    ]


def _mean(values: Sequence[float]) -> float:
    defined = np.array(values)[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else float("nan")


def judge(source: loader.SaliencySource, maps: Sequence[np.ndarray]) -> Judged:
    """All metrics of the maps (T, h, w) of each record."""
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


def maps_of_test(run: Run, params: Any, stats: Any) -> list[np.ndarray]:
    """Predicted maps (T, h, w) of each record of the saliency test part."""
    variables = {"params": params["saliency"], "batch_stats": stats["saliency"]}
    task = SaliencyTask(run.saliency_model, run.config.preset)
    predict = meshes.jit_predict(task.predict, run.mesh)
    source, size = saliency_source(run, "test"), run.config.saliency.batch_size
    return [m for _, maps in run.predict(predict, variables, source, size) for m in maps]


def ignorant(
    source: loader.SaliencySource, training: loader.SaliencySource | None
) -> dict[str, list[np.ndarray]]:
    """Maps of each record that ignore the video: what a network has to beat.

    Returns:
        "centre_bias", a Gaussian at the centre, and with `training` "training_mean", the mean of
        its gaze maps.
    """
    shape = source[0]["maps"].shape
    found = {"centre_bias": saliency.centre_bias(*shape[1:])}
    if training is not None:
        means = [training[i]["maps"].mean(0) for i in range(len(training))]
        found["training_mean"] = np.mean(means, axis=0)
    return {k: [np.broadcast_to(m, shape)] * len(source) for k, m in found.items()}


def saliency_report(run: Run, predicted: Sequence[np.ndarray]) -> dict[str, Any]:
    """All saliency metrics of `maps_of_test`, beside those of maps that ignore the video."""
    source, training = saliency_source(run, "test"), saliency_source(run, "train")
    others = {k: judge(source, maps).means() for k, maps in ignorant(source, training).items()}
    return {**judge(source, predicted).means(), **others}


def saliency_rows(
    networks: Mapping[str, Sequence[Path]],
    data: Path,
    part: str,
    *,
    batch_size: int = 8,
    resamples: int = 1000,
) -> list[dict[str, Any]]:
    """Table 3: saliency networks on a prepared saliency set.

    Args:
        networks: Name → checkpoints of one network, such as its seeds; their scores are averaged.
        data: A prepared saliency set.
        part: See `records_of`.
        batch_size: Videos at once.
        resamples: Of the bootstrap over contents, seed 0.

    Returns:
        A row for each name, of two names one for the difference, first minus second, and one for
        each of `ignorant`: "network", "networks" (how many), "videos", "left_out", and each of
        `NAMES` as {"value", "low", "high"}.

    Raises:
        StageError, CheckpointError: The set has no such part, or a checkpoint does not fit it.
    """
    every = [path for paths in networks.values() for path in paths]
    source, left_out = records_of(data, part, every)
    judged: dict[str, list[Judged]] = {}
    with progress(len(every), "saliency", "network") as bar:
        for name, paths in networks.items():
            for path in paths:
                maps = _maps_by(path, data, source, batch_size)
                judged.setdefault(name, []).append(judge(source, maps))
                bar.update()
    rows = [_row(name, several, resamples) for name, several in judged.items()]
    if len(judged) == 2:
        (a, first), (b, second) = judged.items()
        rows.append(_row(f"{a} - {b}", first, resamples, second))
    for name, maps in ignorant(source, _training(data)).items():
        rows.append(_row(name, [judge(source, maps)], resamples))
    return [{**row, "left_out": left_out} for row in rows]


def records_of(
    data: Path, part: str, checkpoints: Sequence[Path]
) -> tuple[loader.SaliencySource, int]:
    """Saliency records of a prepared set, and how many of it they leave out.

    Args:
        data: The prepared set.
        part: "unseen": those that none of the networks was trained or validated on, by the split
            that stands beside each checkpoint. "train", "val" or "test": the part of that name, as
            the set's own files say; "all": all. Of these it is said how many were seen.
        checkpoints: Of the networks.

    Raises:
        StageError: It is no saliency set, or has no such part, or nothing is unseen.
    """
    if not (data / "prepared.json").is_file() or not has_records(data, "saliency"):
        raise StageError(f"{data}: no prepared saliency set is here; make one with dagr prepare")
    listed = read_list(data)
    splits = ("split.csv", "saliency_split.csv")
    new = set(range(len(listed)))
    for path in checkpoints:
        new &= set(unseen(path, listed, splits).tolist())
    if part == "unseen":
        chosen = sorted(new)
        if not chosen:
            raise StageError(
                f"{data}: the networks were trained on all of its contents; take another set"
            )
    else:
        chosen = [i for i, row in enumerate(listed) if part in ("all", row.part)]
        if not chosen:
            known = ", ".join(sorted({row.part for row in listed} - {""})) or "none"
            raise StageError(
                f"{data}: has no part {part} (it has: {known}); take another, all or unseen"
            )
        if seen := len(set(chosen) - new):
            say(f"{data}: {seen} of these {len(chosen)} videos were trained or validated on")
    return loader.SaliencySource(data, np.array(chosen)), len(listed) - len(chosen)


def _training(data: Path) -> loader.SaliencySource | None:
    """The training part, where the set's own files name one."""
    numbers = [i for i, row in enumerate(read_list(data)) if row.part == "train"]
    return loader.SaliencySource(data, np.array(numbers)) if numbers else None


def network_of(
    path: Path, data: Path, source: loader.SaliencySource
) -> tuple[unet3d.Model, dict[str, Any]]:
    """The saliency network of a checkpoint, and its variables, for a prepared set.

    Args:
        path: A run's workdir or a stage's folder.
        data: The prepared set.
        source: Records of it.

    Raises:
        StageError, CheckpointError: There is none, or the set was prepared otherwise than it wants.
    """
    variables, meta = load_variables(path)
    args, size = dict(meta["model_args"]), None
    if meta["model"] != "unet3d":
        if not args.get("saliency") or "saliency" not in variables["params"]:
            raise StageError(f"{path}: holds no saliency network; name another checkpoint")
        variables = {k: tree["saliency"] for k, tree in variables.items() if "saliency" in tree}
        if not args["alpha"]:
            raise StageError(
                f"{path}: its alpha is 0, so that its saliency network was never trained; name "
                "another checkpoint"
            )
        size = args["saliency_size"]
        args = {"preset": args["preset"], "dtype": args["dtype"], **args["saliency"]}
    held, wanted = read_json(data / "prepared.json")["sampling"], meta["sampling"]
    if held["num_frames"] != wanted["num_frames"]:
        raise StageError(
            f"{data}: was prepared with {held['num_frames']} frames a video, and {path} wants "
            f"{wanted['num_frames']}; prepare it anew with --frames {wanted['num_frames']}"
        )
    here = source[0]["maps"].shape[1:]
    if size is not None and tuple(size) != here:
        raise StageError(
            f"{data}: its frames are {here[0]}x{here[1]}, and {path} looks at {size[0]}x{size[1]}; "
            f"prepare it anew with --map-size {size[0]} {size[1]}"
        )
    return unet3d.Model(**args), variables


def _maps_by(
    path: Path, data: Path, source: loader.SaliencySource, batch_size: int
) -> list[np.ndarray]:
    """The maps that a checkpoint's saliency network predicts for a set."""
    model, variables = network_of(path, data, source)
    predict = jax.jit(SaliencyTask(model, model.preset).predict)
    found: list[np.ndarray] = []
    for batch in loader.eval_batches(source, batch_size=batch_size):
        maps = np.asarray(predict(variables, {"frames": batch["frames"]}))
        found += list(maps[batch["mask"]])
    return found


def _row(
    name: str, several: Sequence[Judged], resamples: int, against: Sequence[Judged] = ()
) -> dict[str, Any]:
    """The mean over networks of each metric, or of its difference, with intervals over contents."""
    row: dict[str, Any] = {
        "network": name,
        "networks": len(several),
        "videos": len(several[0].contents),
    }
    contents = several[0].contents
    numbers = np.arange(len(contents), dtype=np.float64)
    for metric in NAMES:

        def value(chosen: np.ndarray, _: np.ndarray, metric: str = metric) -> float:
            rows = chosen.astype(int)
            sides = [
                np.mean([_ratio(j.sums[metric][rows], j.counts[metric][rows]) for j in side])
                for side in (several, against)
                if side
            ]
            return float(sides[0] - sides[1]) if against else float(sides[0])

        low, high = agreement.bootstrap(value, numbers, numbers, contents, n=resamples, seed=0)
        row[metric] = {"value": value(numbers, numbers), "low": float(low), "high": float(high)}
    return row
