"""Stage `test`, and a checkpoint on other data sets: what it is worth on unseen contents."""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import config_dict

from dagr_jax import __version__
from dagr_jax.data import loader
from dagr_jax.data.prepare import open_records
from dagr_jax.data.records import read_list
from dagr_jax.metrics import baselines
from dagr_jax.report import plots, tables
from dagr_jax.report.agreement import FITTED, METRICS, agreement
from dagr_jax.runtime import distributed
from dagr_jax.runtime.atomic import atomic_folder
from dagr_jax.runtime.errors import environment
from dagr_jax.stages.prepare import check_source, prepare_set
from dagr_jax.stages.quality import gather, quality_source, to_mos
from dagr_jax.stages.run import (
    Run,
    StageError,
    digest,
    plain,
    progress,
    read_json,
    unseen,
    write_json,
)
from dagr_jax.stages.saliency import write_maps
from dagr_jax.stages.saliency_scores import maps_of_test, saliency_report
from dagr_jax.stages.weights import trained
from dagr_jax.train import mesh as meshes
from dagr_jax.train.checkpoints import load_variables
from dagr_jax.train.steps import QualityTask


def test_stage(run: Run) -> Path:
    """Reads the test part, once: `test/predictions.csv`, `metrics.json`, `overview.png`.

    Then the other data sets of `config.test.others`, each into `test_NAME/`, likewise.
    """
    folder = run.workdir / "test"
    if not distributed.first(folder.exists):
        _test(run, folder)
    for name in run.config.test.others:
        other = run.workdir / f"test_{name}"
        if not distributed.first(other.exists):
            _evaluate(run.workdir, prepare_other(run, name), other, run.config.test)
    return folder


def prepare_other(run: Run, name: str) -> Path:
    """Folder of another data set that the model is tested on, made if it is not there."""
    chosen = run.config.test.others[name]
    folder = Path(chosen.data_dir) if chosen.data_dir else run.workdir / "others" / name

    def prepare() -> None:
        with environment(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
        dataset = {"name": chosen.name, "args": plain(chosen.args)}
        check_source(folder, dataset, f"config.test.others.{name}")
        prepare_set(folder, dataset, plain(run.config.sampling), run.saliency_size)

    distributed.first(prepare, makes=folder)
    return folder


def _test(run: Run, folder: Path) -> None:
    if not len(run.rows["test"]):
        raise StageError(
            f"{run.workdir / 'split.csv'}: nothing tests; leave the stage test out, or take "
            "another config.split"
        )
    variables = meshes.put_whole(trained(run, "vqa"), run.mesh)
    result: dict[str, Any] = {"dataset": run.config.dataset.name}
    maps = None
    if run.config.test.extras and run.uses_saliency and run.saliency_data is not None:
        maps = maps_of_test(run, variables["params"], variables["batch_stats"])

    def more(source: loader.QualitySource) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if run.config.test.extras:
            training = quality_source(run, "train")
            found["baselines"] = baselines.evaluate(whole_records(source), whole_records(training))
        if maps is not None:
            found["saliency"] = saliency_report(run, maps)
        return {**found, "config_digest": digest(plain(run.config))}

    with atomic_folder(folder) as partial:
        _judge(run, variables, run.rows["test"], partial, result, more)


def evaluate(
    checkpoint: Path, data: Path, folder: Path, *, batch_size: int = 4, maps: str = ""
) -> dict[str, Any]:
    """A checkpoint on all of a prepared set that it has not seen, as the test stage does it.

    What the checkpoint was trained or validated on is left out, with its contents: known by the
    files' digests from the `split.csv` of the checkpoint's run.

    Args:
        checkpoint: A run's workdir or its `vqa/`, or a folder that `dagr convert` made.
        data: A prepared set, decoded as the checkpoint wants it.
        folder: To make; it must not exist.
        batch_size: Videos at once.
        maps: Folder of saliency maps, for a checkpoint that was trained with another model's.

    Returns:
        What `metrics.json` holds.

    Raises:
        CheckpointError, StageError: The checkpoint does not score, the set was decoded otherwise,
            or nothing of it is unseen.
    """
    if folder.exists():
        raise StageError(f"{folder}: is there already; take another --workdir, or delete it")
    how = {"batch_size": batch_size, "bootstrap": 1000, "extras": True}
    return _evaluate(checkpoint, data, folder, config_dict.ConfigDict(how), maps)


def _evaluate(
    checkpoint: Path, data: Path, folder: Path, how: config_dict.ConfigDict, maps: str = ""
) -> dict[str, Any]:
    """`evaluate` as a section `test` of a configuration says."""
    variables, meta = load_variables(checkpoint)
    if meta["mos_range"] is None:
        raise StageError(f"{checkpoint}: holds one network, which gives no score by itself")
    run = _run_of(meta, data, folder, how, maps)
    listed = read_list(data)
    rows = unseen(checkpoint, listed)
    if not len(rows):
        raise StageError(f"{data}: the checkpoint was trained on all of its contents")
    variables = meshes.put_whole(variables, run.mesh)
    low, high = meta["mos_range"]
    result = {
        "dataset": run.config.dataset.name,
        "checkpoint": str(checkpoint),
        "trained_on": meta["dataset"],
        "trained_mos_range": [low, high],
        "left_out": len(listed) - len(rows),
    }

    def more(source: loader.QualitySource) -> dict[str, Any]:
        return {"baselines": baselines.evaluate(whole_records(source))} if how.extras else {}

    with atomic_folder(folder) as partial:
        _judge(run, variables, rows, partial, result, more)
    return read_json(folder / "metrics.json")


def summary(result: Mapping[str, Any]) -> dict[str, Any]:
    """`metrics.json` as one flat row."""
    row = {name: result[name] for name in ("dataset", "n", "left_out")}
    for name in (*METRICS, *FITTED):
        row[name] = result[name]["value"]
        if name == "srcc":
            row |= {f"srcc_{end}": result[name][end] for end in ("low", "high")}
    return row


def _run_of(
    meta: Mapping[str, Any], data: Path, folder: Path, how: config_dict.ConfigDict, maps: str
) -> Run:
    """A run that evaluates a checkpoint on a prepared set as it was trained.

    Raises:
        StageError: The set is none, or was decoded otherwise; maps are missing or not wanted.
    """
    prepared = data / "prepared.json"
    if not prepared.is_file():
        raise StageError(f"{data}: no prepared set is here; make one with dagr prepare")
    held = read_json(prepared)
    wanted = {**meta["sampling"], "size": meta["resize"]["size"]}
    if held["sampling"] != wanted:
        height, width = wanted["size"]
        raise StageError(
            f"{data}: was prepared as {held['sampling']} and the checkpoint wants {wanted}; "
            f"prepare it with --frames {wanted['num_frames']} --rule {wanted['rule']} "
            f"--size {height} {width}"
        )
    plan = {"outside": False, **meta["maps"]}
    if plan.pop("outside") != bool(maps):
        raise StageError(
            "the checkpoint was trained with saliency maps of another model; name the folder of "
            "this set's with --maps"
            if not maps
            else f"{maps}: the checkpoint makes its own saliency maps; leave --maps out"
        )
    config = config_dict.ConfigDict(
        {
            "preset": meta["preset"],
            "dataset": {"name": held["dataset"]["name"]},
            "data_dir": str(data),
            "sampling": wanted,
            "model": {"name": meta["model"], "args": dict(meta["model_args"])},
            "maps": {**plan, "folder": maps, "batch_size": how.batch_size},
            "test": how,
        }
    )
    return Run(config, folder)


def _judge(
    run: Run,
    variables: Mapping[str, Any],
    rows: np.ndarray,
    partial: Path,
    result: dict[str, Any],
    more: Callable[[loader.QualitySource], dict[str, Any]],
) -> None:
    """Predicts some records: `predictions.csv`, `metrics.json` and `overview.png` in a folder.

    Args:
        run: Model and data.
        variables: Of the whole model, on its devices.
        rows: Numbers of the records.
        partial: The folder, empty.
        result: What stands first in `metrics.json`.
        more: From the videos, what stands last; process 0 asks.
    """
    source = loader.QualitySource(run.data, rows, run.mos_range)
    stored = None
    if run.uses_maps and not run.map_plan.plain:
        stored = partial / "maps"
        distributed.first(stored.mkdir, makes=stored)
        write_maps(run, variables, stored, {"test": source})
        source = loader.QualitySource(
            run.data, rows, run.mos_range, open_records(stored, "maps", "test")
        )
    task = QualityTask(run.model, run.config.preset)
    predict = meshes.jit_predict(
        lambda v, b: task.predict(v, b) if stored else task.predict_frames(v, b["frames"]), run.mesh
    )
    batches = run.predict(predict, variables, source, run.config.test.batch_size)
    with progress(len(source), "test: scoring", "video") as bar:

        def counted() -> Iterator[tuple[np.ndarray, np.ndarray]]:
            for index, values in batches:
                bar.update(len(index))
                yield index, values

        predictions = to_mos(gather(counted(), len(source)), run.mos_range)
    distributed.first(
        lambda: _report(run, variables, source, predictions, stored, partial, result, more)
    )


def _report(
    run: Run,
    variables: Mapping[str, Any],
    source: loader.QualitySource,
    predictions: np.ndarray,
    stored: Path | None,
    partial: Path,
    result: dict[str, Any],
    more: Callable[[loader.QualitySource], dict[str, Any]],
) -> None:
    """What `_judge` writes, by process 0.

    Args:
        predictions: Of each record of `source`, on the MOS scale.
        stored: Folder of the maps that were made for this, to delete; None where there are none.
    """
    clips = list(source.facts)
    first, predictions = per_video(clips, predictions)
    facts = [clips[i] for i in first.tolist()]
    mos = np.array([fact["mos"] for fact in facts], np.float64)
    contents = np.array([fact["content"].decode() for fact in facts])

    result = {**result, "n": len(mos)}
    result |= agreement(predictions, mos, contents, run.config.test.bootstrap)
    result |= more(source)
    result["version"] = __version__

    table = [
        {"video": fact["video"].decode(), "mos": f"{m:.6f}", "prediction": f"{p:.7f}"}
        for fact, m, p in zip(facts, mos, predictions, strict=True)
    ]
    (partial / "predictions.csv").write_text(tables.render(table, "csv"))
    write_json(partial / "metrics.json", result)
    chosen = plots.spread(mos)
    items = [source[int(first[i])] for i in chosen]
    maps = None
    if stored:
        maps = [item["maps"] / 255.0 for item in items]
        # They were needed for the scores alone.
        shutil.rmtree(stored)
    else:
        maps = maps_of_frames(run, variables, [item["frames"] for item in items])
    plots.overview(
        partial / "overview.png",
        frames=[item["frames"] for item in items],
        maps=maps,
        chosen=chosen,
        mos=mos,
        predictions=predictions,
        srcc=result["srcc"],
        dataset=run.config.dataset.name,
    )


def maps_of_frames(
    run: Run, variables: Mapping[str, Any], clips: Sequence[np.ndarray]
) -> list[np.ndarray] | None:
    """Maps (T, h, w) in [0, 1] of clips, each its frames (T, H, W, 3) uint8.

    None without a saliency network, or where the maps are of windows over every frame.
    """
    if not run.uses_saliency or run.map_plan.window:
        return None
    here = jax.device_get(variables)  # what spans hosts only all of them can compute with
    look = jax.jit(lambda v, frames: run.model.apply(v, frames, method="maps"))
    found = [np.asarray(look(here, frames[None])[0]) for frames in clips]
    return [run.map_plan.of_sampled(maps) for maps in found]


def per_video(
    facts: Sequence[Mapping[str, Any]], predictions: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Averages the clips of each video.

    Args:
        facts: "video" and "mos" of each clip.
        predictions: (clips,).

    Returns:
        (first, mean): the number of each video's first clip, and the mean of its predictions, in
        the order of the first clips.

    Raises:
        StageError: clips of one video have different labels.
    """
    place: dict[bytes, int] = {}
    video_of = np.array([place.setdefault(fact["video"], len(place)) for fact in facts])
    _, first = np.unique(video_of, return_index=True)
    for clip, fact in enumerate(facts):
        if fact["mos"] != facts[first[video_of[clip]]]["mos"]:
            raise StageError(
                f"{fact['video'].decode()}: its clips have different MOS; correct the labels and "
                "prepare again"
            )
    return first, np.bincount(video_of, predictions) / np.bincount(video_of)


def whole_records(source: loader.QualitySource) -> Iterator[dict[str, Any]]:
    """Frames and facts of each video, one after the other."""
    for index, fact in enumerate(source.facts):
        yield {**fact, "frames": source[index]["frames"]}
