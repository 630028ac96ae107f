"""Stage `prepare`: from a data set's name to its records."""

import json
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dagr_jax.data.collect import Collected, collect
from dagr_jax.data.prepare import Sampling
from dagr_jax.data.quality import QualitySet
from dagr_jax.data.splits import Protocol
from dagr_jax.registry import dataset_module
from dagr_jax.stages.run import StageError, claim, write_json

# Arguments that say where a data set is, not what.
_WHERE = ("source", "labels", "max_failures")


def prepare_set(
    folder: Path,
    dataset: Mapping[str, Any],
    sampling: Mapping[str, Any],
    map_size: list[int] | None,
) -> Path:
    """Makes or decodes a data set: its records, `dataset.json` and `prepared.json`.

    What an interrupted call has decoded lies beside the folder and is used by the next one, if it
    asks for the same.

    Args:
        folder: Of the prepared set; nothing is done where it is there and holds what is asked for.
        dataset: `name` in `registry.DATASETS`, and its `args` as in `configs/vqa.py`.
        sampling: `num_frames`, `rule` and `size`.
        map_size: (h, w) of gaze maps, for a set that has any.

    Raises:
        StageError: The folder holds something else, or an argument is missing.
        ValueError: The data set cannot be prepared; one line.
    """
    module = dataset_module(dataset["name"])
    args = dict(dataset["args"])
    if folder.exists():
        # Where the files lay does not change what was prepared of them.
        held = json.loads((folder / "prepared.json").read_text())["dataset"]["args"]
        args |= {name: held[name] for name in _WHERE if name in held}
    wanted = {
        "dataset": {"name": dataset["name"], "args": args},
        "sampling": dict(sampling),
        "map_size": map_size,
    }
    if folder.exists():
        claim(folder / "prepared.json", wanted, "a prepared set")
        return folder
    partial = folder.with_name(f".{folder.name}.partial")
    begun = partial / "wanted.json"
    if not begun.exists() or json.loads(begun.read_text()) != wanted:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    chosen = Sampling(sampling["num_frames"], sampling["rule"], tuple(sampling["size"]))
    workers = os.cpu_count() or 1
    if hasattr(module, "DATASET"):
        write_json(begun, wanted)
        facts = _collect(module.DATASET, partial, chosen, workers, args)
        begun.unlink()
    else:
        assert map_size is not None  # the corpus has gaze maps
        module.prepare(
            partial,
            sampling=chosen,
            map_size=(map_size[0], map_size[1]),
            workers=workers,
            **args,
        )
        facts = {"mos_range": list(module.MOS_RANGE), "videos": ""}
    write_json(partial / "dataset.json", {"name": dataset["name"], **facts})
    write_json(partial / "prepared.json", wanted)
    os.replace(partial, folder)
    return folder


def _collect(
    dataset: QualitySet, folder: Path, sampling: Sampling, workers: int, args: Mapping[str, Any]
) -> dict[str, Any]:
    """Prepares a set of rated videos; returns what it says of itself."""
    if not args["source"]:
        raise StageError(
            f"{dataset.title} is not here: give the folder of its videos, "
            "--config.dataset.args.source=DIR"
        )
    source = Path(args["source"])
    label_file = Path(args["labels"]) if args["labels"] else dataset.find_labels(source)
    failures = args["max_failures"]
    result = collect(
        dataset,
        folder,
        source=source,
        label_file=label_file,
        sampling=sampling,
        protocol=Protocol(**args["protocol"]),
        workers=workers,
        max_failures=None if failures < 0 else failures,
    )
    print(_counts(dataset, result), file=sys.stderr)
    return {
        "mos_range": list(result.mos_range),
        "higher_is_better": dataset.higher_is_better,
        "citation": dataset.citation,
        "videos": str(source.resolve()),
        "used": result.used,
        "named": result.named,
        "parts": result.parts,
    }


def _counts(dataset: QualitySet, result: Collected) -> str:
    """The counts of used videos beside the published ones, in one line."""
    left_out = ", ".join(f"{count} {reason}" for reason, count in result.reasons.items())
    parts = ", ".join(f"{count} {part}" for part, count in result.parts.items())
    published = ", ".join(f"{part} {n}".strip() for part, n in dataset.counts.items())
    return (
        f"{dataset.title}: {result.used} of {result.named} videos used"
        + (f" (not: {left_out})" if left_out else "")
        + (f"; published: {published}" if published else "")
        + f"; split: {parts}"
    )
