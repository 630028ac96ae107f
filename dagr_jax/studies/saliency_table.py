"""Table 3: metrics of saliency networks on a prepared saliency set."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dagr_jax.data import loader
from dagr_jax.data.prepare import has_records
from dagr_jax.data.records import read_list
from dagr_jax.metrics import agreement
from dagr_jax.models.dagr import unet3d
from dagr_jax.models.dagr.tasks import SaliencyTask
from dagr_jax.stages.artifacts import StageError
from dagr_jax.stages.console import progress, say
from dagr_jax.stages.gaze import NAMES, Judged, ignorant, judge, ratio
from dagr_jax.stages.prepare import read_prepared
from dagr_jax.stages.split import unseen
from dagr_jax.train.checkpoints import load_variables


def saliency_rows(
    networks: Mapping[str, Sequence[Path]],
    data: Path,
    part: str,
    *,
    batch_size: int = 8,
    resamples: int = 1000,
) -> list[dict[str, Any]]:
    """Computes Table 3: metrics of saliency networks on a prepared saliency set.

    Args:
        networks: {name: checkpoints of one network, such as its seeds}; their scores are averaged.
        data: Folder of the prepared saliency set.
        part: Part of the set, as in `records_of`.
        batch_size: Videos per batch.
        resamples: Number of bootstrap resamples over contents; the seed is 0.

    Returns:
        A row for each name; if there are two names, a row for the difference (first minus second);
        and a row for each baseline of `ignorant`. Fields: "network", "networks" (number of
        checkpoints), "videos", "left_out", and each of `NAMES` as {"value", "low", "high"}.

    Raises:
        StageError, CheckpointError: The set has no such part, or a checkpoint does not match it.
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
    """Selects saliency records of a prepared set.

    Args:
        data: Folder of the prepared set.
        part: "unseen": videos on which no network was trained or validated, according to the split
            file next to each checkpoint. "train", "val" or "test": the part of that name in the
            set's own files. "all": all videos. For all but "unseen", a message reports how many of
            the videos were seen.
        checkpoints: Checkpoints of the networks.

    Returns:
        The records, and the number of records of the set that were left out.

    Raises:
        StageError: The folder is not a saliency set, it has no such part, or all videos were seen.
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
            say(f"{data}: the networks have seen {seen} of these {len(chosen)} videos")
    return loader.SaliencySource(data, np.array(chosen)), len(listed) - len(chosen)


def _training(data: Path) -> loader.SaliencySource | None:
    """Returns the training part, if the set's own files define one; else None."""
    numbers = [i for i, row in enumerate(read_list(data)) if row.part == "train"]
    return loader.SaliencySource(data, np.array(numbers)) if numbers else None


def network_of(
    path: Path, data: Path, source: loader.SaliencySource
) -> tuple[unet3d.Model, dict[str, Any]]:
    """Loads the saliency network of a checkpoint and checks that it matches a prepared set.

    Args:
        path: Working directory of a run, or folder of a stage.
        data: Folder of the prepared set.
        source: Records of the set.

    Returns:
        The network and its variables.

    Raises:
        StageError, CheckpointError: The checkpoint has no trained saliency network, or the set was
            prepared with a different number of frames or a different map size.
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
    held = read_prepared(data)["stream"]["frames"]
    wanted = meta["inputs"]["frames"]["frames"]
    if held != wanted:
        raise StageError(
            f"{data}: was prepared with {held} frames a video, and {path} wants {wanted}; prepare "
            f"it anew with --frames {wanted}"
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
    """Predicts the maps of all records with the saliency network of a checkpoint."""
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
    """Makes the row of a network: means over its checkpoints, with intervals over contents.

    With `against`, the values are differences to these other checkpoints.
    """
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
                np.mean([ratio(j.sums[metric][rows], j.counts[metric][rows]) for j in side])
                for side in (several, against)
                if side
            ]
            return float(sides[0] - sides[1]) if against else float(sides[0])

        low, high = agreement.bootstrap(value, numbers, numbers, contents, n=resamples, seed=0)
        row[metric] = {"value": value(numbers, numbers), "low": float(low), "high": float(high)}
    return row
