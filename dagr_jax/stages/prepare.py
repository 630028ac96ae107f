"""Stage `prepare`: makes the records of a data set from its name."""

import dataclasses
import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dagr_jax.data.decode_set import Collected, collect, collect_gaze
from dagr_jax.data.gaze import GazeSet
from dagr_jax.data.prepare import has_records
from dagr_jax.data.rated import RatedSet
from dagr_jax.registry import dataset_module
from dagr_jax.runtime.errors import environment
from dagr_jax.stages.artifacts import StageError, plain, read_json, refuse_differences, write_json
from dagr_jax.video.inputs import Resize, Stream

# Version of the layout of a prepared set. `read_prepared` also reads 2 and 3.
_FORMAT = 4

# Arguments that say where a data set is, not what it contains.
_WHERE = ("source", "labels", "max_failures")


def prepare_set(
    folder: Path,
    dataset: Mapping[str, Any],
    stream: Stream,
    map_size: Sequence[int] | None,
    gaze_frames: int = 0,
) -> Path:
    """Makes or decodes a data set: its records, `dataset.json` and `prepared.json`.

    An interrupted call leaves the decoded videos in a hidden folder next to `folder`. The next call
    with the same settings reuses them.

    Args:
        folder: Folder of the prepared set. If it already holds the requested set, nothing is done.
        dataset: `name` in `registry.DATASETS`, and its `args` as in `configs/vqa.py`.
        stream: Which frames of a video are stored, and how they are resized.
        map_size: (h, w) of gaze maps in pixels, if the set has any; None for a model without gaze.
        gaze_frames: Number of frames with gaze that are stored of a video; 0: those of `stream`.

    Returns:
        The folder.

    Raises:
        StageError: The folder holds something else, or an argument is missing.
        DagrError: The data set cannot be prepared.
    """
    module, reads_gaze = dataset_module(dataset["name"]), map_size is not None
    args = dict(dataset["args"])
    if folder.exists() and not (folder / "prepared.json").is_file():
        raise StageError(folder, "exists and is not a prepared set", "name another folder")
    if folder.exists():
        # The location of the source files does not change the records.
        held = read_prepared(folder)
        before = held["dataset"]["args"]
        args |= {name: before[name] for name in _WHERE if name in before}
        if map_size is None:  # a model without gaze does not read the maps
            map_size, gaze_frames = held["map_size"], held["gaze_frames"]
    gaze = map_size is not None and has_gaze(dataset["name"])
    if isinstance(getattr(module, "DATASET", None), GazeSet) and gaze_frames:
        stream, gaze_frames = dataclasses.replace(stream, frames=gaze_frames), 0
    if gaze_frames == stream.frames or not gaze:
        gaze_frames = 0
    wanted = {
        "format": _FORMAT,
        "dataset": {"name": dataset["name"], "args": args},
        "stream": plain(dataclasses.asdict(stream)),
        "map_size": list(map_size) if gaze and map_size else None,
        "gaze_frames": gaze_frames,
    }
    if folder.exists():
        refuse_differences(folder, held, wanted, "a prepared set")
        if reads_gaze:
            check_gaze(folder)
        return folder
    check_source(folder, dataset, "config.dataset")
    partial = folder.with_name(f".{folder.name}.partial")
    begun = partial / "wanted.json"
    # The number of permitted failures and the labels do not change the decoded frames.
    same = {**wanted, "dataset": [dataset["name"], args.get("source")]}
    if not begun.exists() or json.loads(begun.read_text()) != same:
        if getattr(getattr(module, "DATASET", None), "make", None) is None:
            shutil.rmtree(partial, ignore_errors=True)
        else:  # what was made, in hours, does not depend on the stored frames
            shutil.rmtree(partial / "shards", ignore_errors=True)
        with environment(folder):
            partial.mkdir(parents=True, exist_ok=True)
    if map_size is None:  # a gaze set is stored nevertheless, with maps as large as the frames
        assert stream.resize.size is not None
        map_size = stream.resize.size
    workers = os.cpu_count() or 1
    if hasattr(module, "DATASET"):
        write_json(begun, same)
        facts = _collect(module.DATASET, partial, stream, map_size, workers, args)
        begun.unlink()
    else:
        module.prepare(
            partial,
            stream=stream,
            map_size=(map_size[0], map_size[1]),
            gaze_frames=gaze_frames,
            workers=workers,
            **args,
        )
        facts = {"mos_range": list(module.MOS_RANGE), "videos": ""}
    write_json(partial / "dataset.json", {"name": dataset["name"], **facts})
    write_json(partial / "prepared.json", wanted)
    os.replace(partial, folder)
    return folder


def read_prepared(folder: Path) -> dict[str, Any]:
    """Returns what `prepared.json` of a prepared set holds, in the format of this version.

    Version 0.1 wrote the format 2, whose field `sampling` describes the stream of the frames. Up to
    the format 3, the fixations were on the grid of the maps (`check_gaze`). The other records are
    the same in all formats.
    """
    held = read_json(folder / "prepared.json")
    if held["format"] == 2:
        sampling = held.pop("sampling")
        height, width = sampling["size"]
        stream = Stream(sampling["rule"], sampling["num_frames"], Resize((height, width)))
        held |= {"format": 3, "stream": plain(dataclasses.asdict(stream))}
    if held["format"] == 3:
        held |= {"format": _FORMAT, "gaze_frames": 0}
    return held


def check_gaze(folder: Path) -> None:
    """Raises StageError if the gaze of a prepared set is of an earlier version."""
    if read_prepared(folder)["map_size"] is not None and not has_records(folder, "gaze"):
        raise StageError(
            folder,
            "was prepared by an earlier version, which kept no fixations in their own size",
            "prepare it again into a new folder",
        )


def gaze_frames_of(folder: Path) -> int:
    """Returns the number of frames with gaze of each record of a prepared set."""
    check_gaze(folder)
    held = read_prepared(folder)
    return held["gaze_frames"] or held["stream"]["frames"]


def check_source(folder: Path, dataset: Mapping[str, Any], field: str) -> None:
    """Checks that a data set is prepared, or that the configuration gives its source folder.

    Args:
        folder: Folder of the prepared set.
        dataset: `name` in `registry.DATASETS`, and its `args`.
        field: Field of the configuration that selects the set, for the error message.

    Raises:
        StageError: The set is not prepared, and its source folder is not given.
    """
    module = dataset_module(dataset["name"])
    if not folder.exists() and hasattr(module, "DATASET") and not dataset["args"]["source"]:
        raise StageError(
            f"{module.DATASET.title} is not prepared yet; give the folder of its videos with "
            f"--{field}.args.source=DIR"
        )


def _collect(
    dataset: RatedSet | GazeSet,
    folder: Path,
    stream: Stream,
    map_size: Sequence[int],
    workers: int,
    args: Mapping[str, Any],
) -> dict[str, Any]:
    """Prepares a set from source videos; returns its metadata for `dataset.json`."""
    source, failures = Path(args["source"]), args["max_failures"]
    common: dict[str, Any] = {
        "source": source,
        "stream": stream,
        "workers": workers,
        "max_failures": None if failures < 0 else failures,
    }
    if isinstance(dataset, GazeSet):
        result = collect_gaze(dataset, folder, map_size=(map_size[0], map_size[1]), **common)
    else:
        named = [args["labels"]] if isinstance(args["labels"], str) else args["labels"]
        label_files = [Path(n) for n in named if n]
        if dataset.make is not None and label_files:
            raise StageError(
                f"{dataset.title} makes its own labels; leave out --labels (config.dataset.args."
                "labels)"
            )
        if dataset.make is not None:
            label_files = [dataset.make(source, folder, workers)]
            common["source"] = label_files[0].parent / "videos"
        elif not label_files:
            label_files = [dataset.find_labels(source)]
        result = collect(dataset, folder, label_files=label_files, **common)
    print(_counts(dataset, result), file=sys.stderr)
    return {
        "mos_range": result.mos_range,
        "citation": dataset.citation,
        # "": the folder `videos` of the prepared set
        "videos": "" if common["source"] != source else str(source.resolve()),
        "used": result.used,
        "named": result.named,
        "relative": result.relative,
    }


def has_gaze(name: str) -> bool:
    """Whether a data set has gaze maps, so that their size must be set."""
    module = dataset_module(name)
    return isinstance(getattr(module, "DATASET", None), GazeSet) or not hasattr(module, "DATASET")


def _counts(dataset: RatedSet | GazeSet, result: Collected) -> str:
    """Returns one line that compares the number of used videos with the published number."""
    left_out = ", ".join(f"{count} {reason}" for reason, count in result.reasons.items())
    published = ", ".join(f"{part} {n}".strip() for part, n in dataset.counts.items())
    return (
        f"{dataset.title}: {result.used} of {result.named} videos used"
        + (f" (left out: {left_out})" if left_out else "")
        + (f"; published: {published}" if published else "")
    )
