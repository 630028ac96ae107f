"""Table 3: metrics of saliency networks on a prepared saliency set."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from scipy import stats

from dagr_jax.data import loader
from dagr_jax.data.prepare import has_records
from dagr_jax.data.records import read_list
from dagr_jax.metrics import resampling
from dagr_jax.models.dagr import unet3d
from dagr_jax.models.dagr.tasks import SaliencyTask
from dagr_jax.stages.artifacts import StageError
from dagr_jax.stages.console import progress, say
from dagr_jax.stages.gaze import NAMES, Judged, ignorant, judge
from dagr_jax.stages.prepare import check_gaze
from dagr_jax.stages.split import unseen
from dagr_jax.train.checkpoints import load_variables


def saliency_rows(
    networks: Mapping[str, Sequence[Path]],
    data: Path,
    part: str,
    *,
    window: int = 0,
    batch_size: int = 8,
    resamples: int = 1000,
) -> list[dict[str, Any]]:
    """Computes Table 3: metrics of saliency networks on a prepared saliency set.

    Args:
        networks: {name: checkpoints of one network, such as its seeds}; their scores are averaged.
        data: Folder of the prepared saliency set.
        part: Part of the set, as in `records_of`.
        window: Number of successive frames that the networks see together; 0: all of a record.
        batch_size: Videos or windows per batch.
        resamples: Number of bootstrap resamples, of contents and of checkpoints; the seed is 0.

    Returns:
        A row for each name; for each name but the last, a row for the difference (this minus the
        last); and a row for each baseline of `ignorant`. Fields: "network", "networks" (number of
        checkpoints), "videos", "left_out", and each of `NAMES` as {"value", "low", "high"}.

    Raises:
        StageError, CheckpointError: The set has no such part, or a checkpoint does not match it.
    """
    every = [path for paths in networks.values() for path in paths]
    source, left_out = records_of(data, part, every, window)
    judged: dict[str, list[Judged]] = {}
    with progress(len(every), "saliency", "network") as bar:
        for name, paths in networks.items():
            for path in paths:
                maps = _maps_by(path, data, source, window, batch_size)
                judged.setdefault(name, []).append(judge(source, maps))
                bar.update()
    rows = [_row(name, several, resamples) for name, several in judged.items()]
    *others, last = judged
    rows += [_row(f"{a} - {last}", judged[a], resamples, judged[last]) for a in others]
    for name, maps in ignorant(source, _training(data)).items():
        rows.append(_row(name, [judge(source, maps)], resamples))
    videos = len(set(source.videos))
    return [{**row, "videos": videos, "left_out": left_out} for row in rows]


def records_of(
    data: Path, part: str, checkpoints: Sequence[Path], window: int = 0
) -> tuple[loader.SaliencySource, int]:
    """Selects saliency records of a prepared set.

    Args:
        data: Folder of the prepared set.
        part: "unseen": videos on which no network was trained or validated, according to the split
            file next to each checkpoint. "train", "val" or "test": the part of that name in the
            set's own files. "all": all videos. For all but "unseen", a message reports how many of
            the videos were seen.
        checkpoints: Checkpoints of the networks.
        window: Number of successive frames that the networks see together; 0: all of a record.

    Returns:
        The records or their windows, and the number of records of the set that were left out.

    Raises:
        StageError: The folder is not a saliency set, it has no such part, or all videos were seen.
        DagrError: The frames of the records do not divide into windows.
    """
    if not (data / "prepared.json").is_file() or not has_records(data, "saliency"):
        raise StageError(f"{data}: no prepared saliency set is here; make one with dagr prepare")
    check_gaze(data)
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
            say(f"{data}: the networks have seen {seen} of these {len(chosen)} videos")
    return loader.SaliencySource(data, np.array(chosen), window), len(listed) - len(chosen)


def _training(data: Path) -> loader.SaliencySource | None:
    """Returns the training part, if the set's own files define one; else None."""
    numbers = [i for i, row in enumerate(read_list(data)) if row.part == "train"]
    return loader.SaliencySource(data, np.array(numbers)) if numbers else None


def network_of(
    path: Path, data: Path, source: loader.SaliencySource, window: int = 0
) -> tuple[unet3d.Model, dict[str, Any]]:
    """Loads the saliency network of a checkpoint and checks that it matches a prepared set.

    Args:
        path: Working directory of a run, or folder of a stage.
        data: Folder of the prepared set.
        source: Records of the set.
        window: Number of frames of an item of `source`, if its records were cut into windows.

    Returns:
        The network and its variables.

    Raises:
        StageError, CheckpointError: The checkpoint has no trained saliency network, or the set was
            prepared with a different map size or, without windows, number of frames.
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
    wanted = meta["inputs"]["frames"]["frames"]
    if not window and source.num_frames != wanted:
        raise StageError(
            f"{data}: was prepared with {source.num_frames} frames a video, and {path} scores with "
            f"{wanted}; prepare it anew with --frames {wanted}, or measure in windows with --window"
        )
    here = source[0]["maps"].shape[1:]
    if size is not None and tuple(size) != here:
        raise StageError(
            f"{data}: its frames are {here[0]}x{here[1]}, and {path} looks at {size[0]}x{size[1]}; "
            f"prepare it anew with --map-size {size[0]} {size[1]}"
        )
    return unet3d.Model(**args), variables


def _maps_by(
    path: Path, data: Path, source: loader.SaliencySource, window: int, batch_size: int
) -> list[np.ndarray]:
    """Predicts the maps of all records with the saliency network of a checkpoint."""
    model, variables = network_of(path, data, source, window)
    predict = jax.jit(SaliencyTask(model, model.preset).predict)
    found: list[np.ndarray] = []
    for batch in loader.eval_batches(source, batch_size=batch_size):
        maps = np.asarray(predict(variables, {"frames": batch["frames"]}))
        found += list(maps[batch["mask"]])
    return found


def _row(
    name: str, several: Sequence[Judged], resamples: int, against: Sequence[Judged] = ()
) -> dict[str, Any]:
    """Makes the row of a network: means over its checkpoints, with 95 % intervals.

    With `against`, the values are differences to these other checkpoints. Each resample draws
    contents, and the checkpoints of each side, with replacement. A mean of k drawn checkpoints
    spreads too little, and few checkpoints need Student's distribution, as `resampling.interval`
    explains for contents. So its distance from the mean of all is enlarged by √(k / (k − 1)) and by
    the ratio of the two quantiles t. With one checkpoint a side, intervals cover contents alone.
    """
    contents = several[0].contents
    sides = [_Side(several), *([_Side(against)] if against else [])]
    freedom = len(several) + len(against) - len(sides)
    others = len(set(contents)) - 1
    if freedom and others:
        tails = stats.t.ppf(0.975, freedom) / stats.t.ppf(0.975, others)
        for side in sides:
            side.tails = max(tails, 1.0)
    rng = np.random.default_rng(1)
    values = [
        sides[0].drawn(rows, rng) - (sides[1].drawn(rows, rng) if against else 0.0)
        for rows in resampling.resamples(contents, resamples, seed=0)
    ]
    everything = np.arange(len(contents))
    value = sides[0].means(everything).mean(axis=0)
    if against:
        value = value - sides[1].means(everything).mean(axis=0)
    low = high = np.full(len(NAMES), np.nan)
    if values:
        low, high = resampling.interval(values, contents)
    row: dict[str, Any] = {"network": name, "networks": len(several)}
    for metric, one, least, most in zip(NAMES, value, low, high, strict=True):
        row[metric] = {"value": float(one), "low": float(least), "high": float(most)}
    return row


class _Side:
    """The checkpoints of one network, for the bootstrap."""

    def __init__(self, several: Sequence[Judged]) -> None:
        # (checkpoints, metrics, records)
        self._sums = np.array([[one.sums[name] for name in NAMES] for one in several], np.float64)
        self._counts = np.array([[one.counts[name] for name in NAMES] for one in several])
        self.tails = 1.0

    def means(self, rows: np.ndarray) -> np.ndarray:
        """Returns (checkpoints, metrics) means over the frames of some records."""
        with np.errstate(invalid="ignore"):  # a metric that is undefined for all frames
            return self._sums[..., rows].sum(axis=-1) / self._counts[..., rows].sum(axis=-1)

    def drawn(self, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Returns (metrics,) means over drawn checkpoints."""
        every = self.means(rows)
        count, middle = len(every), every.mean(axis=0)
        if count == 1:
            return middle
        away = every[rng.integers(count, size=count)].mean(axis=0) - middle
        return middle + away * self.tails * np.sqrt(count / (count - 1))
