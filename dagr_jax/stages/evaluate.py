"""Stage `test`, and the evaluation of a checkpoint on other data sets: unseen contents only."""

import dataclasses
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np
from ml_collections import config_dict

from dagr_jax import __version__, registry
from dagr_jax.data import loader
from dagr_jax.data.prepare import open_records
from dagr_jax.data.records import read_list
from dagr_jax.layers.augment import to_unit
from dagr_jax.metrics import baselines
from dagr_jax.models.contract import Outputs
from dagr_jax.report import plots, tables
from dagr_jax.report.agreement import FITTED, METRICS, agreement
from dagr_jax.runtime import distributed
from dagr_jax.runtime.atomic import atomic_folder
from dagr_jax.runtime.errors import environment
from dagr_jax.stages.artifacts import StageError, digest, plain, read_json, write_json
from dagr_jax.stages.cached import write_stream
from dagr_jax.stages.console import progress
from dagr_jax.stages.gaze import gaze_report, maps_of_test
from dagr_jax.stages.prepare import check_source, prepare_set, read_prepared
from dagr_jax.stages.quality import gather, quality_source, source_of, to_mos
from dagr_jax.stages.run import Run, stored_stream
from dagr_jax.stages.split import unseen
from dagr_jax.stages.start import trained
from dagr_jax.train import mesh as meshes
from dagr_jax.train.checkpoints import load_variables
from dagr_jax.video.inputs import InputSpec


def test_stage(run: Run) -> Path:
    """Evaluates the test part once: `test/predictions.csv`, `metrics.json`, `overview.png`.

    It then evaluates each data set of `config.test.others` and writes the same files to
    `test_NAME/`.
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
    """Prepares another data set for testing, if it is missing.

    Args:
        run: The run.
        name: Name of the set in `config.test.others`.

    Returns:
        Folder of the prepared set.
    """
    chosen = run.config.test.others[name]
    folder = Path(chosen.data_dir) if chosen.data_dir else run.workdir / "others" / name

    def prepare() -> None:
        with environment(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
        dataset = {"name": chosen.name, "args": plain(chosen.args)}
        check_source(folder, dataset, f"config.test.others.{name}")
        prepare_set(folder, dataset, run.stored[1], run.map_size, run.gaze_frames)

    distributed.first(prepare, makes=folder)
    return folder


def _test(run: Run, folder: Path) -> None:
    if not len(run.rows["test"]):
        raise StageError(
            f"{run.workdir / 'split.csv'}: the test part is empty; omit the stage test, or use "
            "another config.split"
        )
    variables = meshes.put_whole(trained(run, run.last), run.mesh)
    result: dict[str, Any] = {"dataset": run.config.dataset.name}
    predicted: dict[str, list[np.ndarray]] = {}
    gazes = [stage for stage in run.gaze_stages if run.gaze_data(stage) is not None]
    for stage in gazes if run.config.test.extras else ():
        predicted[stage.name] = maps_of_test(run, stage, variables)

    def more(source: loader.QualitySource) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if run.config.test.extras:
            training, name = quality_source(run, "train"), run.stored[0]
            both = whole_records(source, name), whole_records(training, name)
            found["baselines"] = baselines.evaluate(*both)
        for stage in gazes:
            if stage.name in predicted:
                found[stage.name] = gaze_report(run, stage, predicted[stage.name])
        return {**found, "config_digest": digest(plain(run.config))}

    with atomic_folder(folder) as partial:
        _judge(run, variables, run.rows["test"], partial, result, more)


def evaluate(
    checkpoint: Path, data: Path, folder: Path, *, batch_size: int = 4, maps: str = ""
) -> dict[str, Any]:
    """Evaluates a checkpoint on the unseen videos of a prepared set, like the test stage.

    Videos on which the checkpoint was trained or validated are left out, with all videos of the
    same contents. They are recognised by the file digests in the `split.csv` of the run.

    Args:
        checkpoint: Working directory of a run, its `vqa/` folder, or a folder that `dagr convert`
            wrote.
        data: Prepared set, decoded as the checkpoint needs it.
        folder: Output folder; must not exist.
        batch_size: Number of videos per batch.
        maps: Folder of saliency maps, for a checkpoint that was trained with maps of another model.

    Returns:
        The content of `metrics.json`.

    Raises:
        CheckpointError: There is no complete checkpoint.
        StageError: The checkpoint does not score, the set was decoded with other settings, or all
            its contents were seen.
    """
    if folder.exists():
        raise StageError(f"{folder}: exists already; use another --workdir")
    how = {"batch_size": batch_size, "bootstrap": 1000, "extras": True}
    return _evaluate(checkpoint, data, folder, config_dict.ConfigDict(how), maps)


def _evaluate(
    checkpoint: Path, data: Path, folder: Path, how: config_dict.ConfigDict, maps: str = ""
) -> dict[str, Any]:
    """Does the work of `evaluate`; `how` has the fields of the config section `test`."""
    variables, meta = load_variables(checkpoint)
    if meta["mos_range"] is None:
        raise StageError(
            f"{checkpoint}: holds one network, which gives no score by itself; name a checkpoint "
            "of a complete model"
        )
    run = _run_of(meta, data, folder, how, maps)
    listed = read_list(data)
    rows = unseen(checkpoint, listed)
    if not len(rows):
        raise StageError(
            f"{data}: the checkpoint was trained on all of its contents; use another data set"
        )
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
        if not how.extras:
            return {}
        return {"baselines": baselines.evaluate(whole_records(source, run.stored[0]))}

    with atomic_folder(folder) as partial:
        _judge(run, variables, rows, partial, result, more)
    return read_json(folder / "metrics.json")


def summary(result: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the content of `metrics.json` as one flat row."""
    row = {name: result[name] for name in ("dataset", "n", "left_out")}
    for name in (*METRICS, *FITTED):
        row[name] = result[name]["value"]
        if name == "srcc":
            row |= {f"srcc_{end}": result[name][end] for end in ("low", "high")}
    return row


def _run_of(
    meta: Mapping[str, Any], data: Path, folder: Path, how: config_dict.ConfigDict, maps: str
) -> Run:
    """Makes a run that evaluates a checkpoint on a prepared set with the checkpoint's settings.

    Raises:
        StageError: `data` is not a prepared set, or was decoded with other settings; or maps are
            missing, or given but not needed.
    """
    if not (data / "prepared.json").is_file():
        raise StageError(f"{data}: is not a prepared set; make one with dagr prepare")
    held = read_prepared(data)
    contract, inputs = registry.contract(meta["model"]), InputSpec.from_json(meta["inputs"])
    wanted = plain(dataclasses.asdict(stored_stream(inputs)[1]))
    if held["stream"] != wanted:
        height, width = wanted["resize"]["size"]
        differing = ", ".join(
            f"{name} {held['stream'].get(name)} instead of {value}"
            for name, value in wanted.items()
            if held["stream"].get(name) != value
        )
        raise StageError(
            f"{data}: was not prepared as the checkpoint needs it ({differing}); prepare it with "
            f"--frames {wanted['frames']} --rule {wanted['rule']} --size {height} {width}"
        )
    model = contract.build(meta["model_args"])
    settings = {**meta["settings"], "folder": maps, "batch_size": how.batch_size}
    streams = tuple(contract.streams(model, inputs, settings))
    if any(stream.outside for stream in streams) != bool(maps):
        raise StageError(
            "the checkpoint was trained with maps of another model; name the folder of the maps of "
            "this set with --maps"
            if not maps
            else f"{maps}: the checkpoint makes its own maps; leave --maps out"
        )
    config = config_dict.ConfigDict(
        {
            "preset": meta["preset"],
            "dataset": {"name": held["dataset"]["name"]},
            "data_dir": str(data),
            "model": {"name": meta["model"], "args": dict(meta["model_args"])},
            "test": how,
        }
    )
    return Run(config, folder).of_checkpoint(inputs, model, streams)


def _judge(
    run: Run,
    variables: Mapping[str, Any],
    rows: np.ndarray,
    partial: Path,
    result: dict[str, Any],
    more: Callable[[loader.QualitySource], dict[str, Any]],
) -> None:
    """Predicts some records; writes `predictions.csv`, `metrics.json` and `overview.png`.

    Args:
        run: Run with the model and the data.
        variables: Variables of the complete model, on the devices of the run.
        rows: (N,) numbers of the records.
        partial: Empty output folder.
        result: First entries of `metrics.json`.
        more: Function: videos → further entries of `metrics.json`; called only in process 0.
    """
    rows = run.comparable(rows)
    source = source_of(run, rows)
    stored = partial / "streams"
    made = [stream for stream in run.streams if not stream.inline]
    if made:
        distributed.first(stored.mkdir, makes=stored)
        for stream in made:
            write_stream(run, stream, variables, stored, {"test": source})
        records = {stream.name: open_records(stored, stream.name, "test") for stream in made}
        source = source_of(run, rows, records)
    predict = meshes.jit_predict(lambda v, batch: _outputs(run, v, batch).score, run.mesh)
    batches = run.predict(predict, variables, source, run.config.test.batch_size)
    with progress(len(source), "test: scoring", "video") as bar:

        def counted() -> Iterator[tuple[np.ndarray, np.ndarray]]:
            for index, values in batches:
                bar.update(len(index))
                yield index, values

        predictions = to_mos(gather(counted(), len(source)), run.mos_range)
    distributed.first(lambda: _report(run, variables, source, predictions, partial, result, more))


def _outputs(run: Run, variables: Mapping[str, Any], batch: Mapping[str, Any]) -> Outputs:
    """Runs the model on a batch of records; the model computes inline streams that are missing."""
    names = {run.stored[0], *(stream.name for stream in run.streams)}
    given = {name: value for name, value in batch.items() if name in names}
    for stream in run.streams:
        if stream.quantized and stream.name in given:
            given[stream.name] = to_unit(given[stream.name])
    return cast(Outputs, run.model.apply(variables, given))


def _report(
    run: Run,
    variables: Mapping[str, Any],
    source: loader.QualitySource,
    predictions: np.ndarray,
    partial: Path,
    result: dict[str, Any],
    more: Callable[[loader.QualitySource], dict[str, Any]],
) -> None:
    """Writes the output of `_judge`; called only in process 0.

    Args:
        run: Run with the model and the data.
        variables: Variables of the complete model, on the devices of the run.
        source: Predicted records.
        predictions: (N,) prediction for each record of `source`, on the MOS scale.
        partial: Output folder.
        result: First entries of `metrics.json`.
        more: Function: videos → further entries of `metrics.json`.
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
    tables.write(table, partial / "predictions.csv")
    write_json(partial / "metrics.json", result)
    chosen = plots.spread(mos)
    items = [source[int(first[i])] for i in chosen]
    maps = maps_of_items(run, variables, items)
    # The stored streams were needed only to compute the predictions and maps.
    shutil.rmtree(partial / "streams", ignore_errors=True)
    plots.overview(
        partial / "overview.png",
        frames=[shown_frames(item[run.stored[0]]) for item in items],
        maps=maps,
        chosen=chosen,
        mos=mos,
        predictions=predictions,
        srcc=result["srcc"],
        dataset=run.config.dataset.name,
    )


def maps_of_items(
    run: Run, variables: Mapping[str, Any], items: Sequence[Mapping[str, np.ndarray]]
) -> list[dict[str, np.ndarray]]:
    """Computes the maps that the scores of some records use.

    Args:
        run: Run with the model.
        variables: Variables of the complete model.
        items: Records, name → array without the batch axis.

    Returns:
        For each record, name → (T, h, w) in [0, 1]; {} if the score uses no maps, or if the record
        lacks a stream that the model does not compute itself.
    """
    names = {stream.name for stream in run.streams if not stream.inline}
    if not items or not names <= items[0].keys():
        return [{} for _ in items]
    # Arrays that span several hosts can be used only by all hosts together.
    here = jax.device_get(variables)
    look = jax.jit(lambda v, batch: _outputs(run, v, batch).maps)
    skipped = ("target", "index")
    found = []
    for item in items:
        batch = {name: value[None] for name, value in item.items() if name not in skipped}
        found.append({name: np.asarray(maps[0]) for name, maps in look(here, batch).items()})
    return found


def shown_frames(frames: np.ndarray) -> np.ndarray:
    """Returns the frames to show, (T, H, W, 3): the first crop if there are several."""
    return frames[0] if frames.ndim == 5 else frames


def per_video(
    facts: Sequence[Mapping[str, Any]], predictions: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Averages the predictions of the clips of each video.

    Args:
        facts: "video" and "mos" of each clip.
        predictions: (clips,) prediction for each clip.

    Returns:
        (first, mean), both (videos,): the number of each video's first clip, and the mean of the
        predictions for its clips, in the order of the first clips.

    Raises:
        StageError: The clips of one video have different labels.
    """
    place: dict[bytes, int] = {}
    video_of = np.array([place.setdefault(fact["video"], len(place)) for fact in facts])
    _, first = np.unique(video_of, return_index=True)
    for clip, fact in enumerate(facts):
        if fact["mos"] != facts[first[video_of[clip]]]["mos"]:
            raise StageError(
                f"{fact['video'].decode()}: its clips have different MOS; correct the labels and "
                "prepare the set again"
            )
    return first, np.bincount(video_of, predictions) / np.bincount(video_of)


def whole_records(source: loader.QualitySource, name: str) -> Iterator[dict[str, Any]]:
    """Yields the facts of each video with its frames, read from the stream `name`."""
    for index, fact in enumerate(source.facts):
        yield {**fact, "frames": shown_frames(source[index][name])}
