"""Rated videos → decoded shards → record sets, with a report of every video and a split.

Decoding runs in parallel, one shard a video, each written whole or not at all. What an interrupted
call has decoded is there for the next one, which ends with the same records to the bit.
"""

import concurrent.futures
import csv
import math
import os
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from dagr_jax.data.prepare import (
    Frames,
    Quality,
    Sampling,
    pack,
    quality_record,
    worker_pool,
    write_shard,
)
from dagr_jax.data.quality import QualitySet, Source
from dagr_jax.data.records import Clip
from dagr_jax.data.splits import PARTS, Protocol, write_split
from dagr_jax.video.decode import VideoError

# Of the videos that a label file names: more that cannot be used means that something is wrong.
FAILURES = 0.01


class CollectError(ValueError):
    """A data set that cannot be prepared; one line."""


@dataclass(frozen=True)
class Collected:
    """What became of a data set.

    Attributes:
        named: Videos in the label file.
        used: Videos in the records.
        reasons: Why the others are not, and how many.
        parts: Videos in each part of the split.
        mos_range: (lowest, highest) MOS of the scale.
    """

    named: int
    used: int
    mos_range: tuple[float, float]
    reasons: dict[str, int]
    parts: dict[str, int]


def collect(
    dataset: QualitySet,
    folder: Path,
    *,
    source: Path,
    label_file: Path,
    sampling: Sampling,
    protocol: Protocol,
    workers: int,
    max_failures: int | None = None,
) -> Collected:
    """Prepares a data set: `quality/` and `frames/` records, `report.csv` and `split.csv`.

    Args:
        dataset: What the label file means and how its videos are called.
        folder: To fill; `shards/` in it is what an earlier call with the same arguments decoded.
        source: Folder of the videos.
        label_file: Official label file, or a list.
        sampling: Which frames of a video are stored, and at which size.
        protocol: How videos are split.
        workers: Processes that decode.
        max_failures: Videos that may be missing, unreadable, too short or named twice; None: one
            in a hundred.

    Raises:
        LabelError: The label file cannot be used.
        SplitError: The videos cannot be split so.
        CollectError: Too many videos cannot be used; `report.csv` names all.
    """
    found = dataset.sources(source, label_file)
    shards = folder / "shards"
    shards.mkdir(parents=True, exist_ok=True)
    reasons = _decode_all(found, shards, sampling, workers)
    _write_report(folder / "report.csv", found, reasons)
    failed = Counter(_kind(reason) for reason in reasons if reason)
    allowed = math.floor(FAILURES * len(found)) if max_failures is None else max_failures
    if failed.total() > allowed:
        counted = ", ".join(f"{count} {kind}" for kind, count in failed.most_common())
        raise CollectError(
            f"{folder / 'report.csv'}: {failed.total()} of {len(found)} videos cannot be used "
            f"({counted}) and {allowed} may fail; mend them, or allow {failed.total()} failures"
        )
    used = [i for i, reason in enumerate(reasons) if not reason]
    parts = protocol.assign([found[i].content for i in used], [found[i].part for i in used])
    write_split(
        folder / "split.csv",
        [found[i].video for i in used],
        [found[i].content for i in used],
        parts,
    )
    packed = {
        part: [_shard(shards, i) for i, p in zip(used, parts, strict=True) if p == part]
        for part in PARTS
        if part in parts
    }
    for kind in (Frames, Quality):
        pack(kind, folder, packed)
    shutil.rmtree(shards)
    scores = [found[i].mos for i in used]
    return Collected(
        named=len(found),
        used=len(used),
        mos_range=dataset.scale or (min(scores), max(scores)),
        reasons=dict(failed),
        parts={part: len(paths) for part, paths in packed.items()},
    )


def _decode_all(
    found: Sequence[Source], shards: Path, sampling: Sampling, workers: int
) -> list[str]:
    """Writes the shards that are not there yet; returns why each video has none, "" if it has."""
    reasons = [""] * len(found)
    seen: dict[str, int] = {}
    waiting = []
    for i, video in enumerate(found):
        if video.path is None:
            reasons[i] = "missing: no file of this name"
        elif math.isnan(video.mos):
            reasons[i] = "unlabelled: its MOS is empty"
        elif video.video in seen:
            reasons[i] = f"duplicate: of row {seen[video.video] + 1}"
        elif not _shard(shards, i).exists():
            waiting.append(i)
        seen.setdefault(video.video, i)
    done = len(found) - len(waiting)
    with (
        tqdm(desc="prepare", total=len(found), initial=done, unit="video", disable=None) as bar,
        worker_pool(workers) as pool,
    ):
        jobs = {pool.submit(_decode, found[i], _shard(shards, i), sampling): i for i in waiting}
        for job in concurrent.futures.as_completed(jobs):
            reasons[jobs[job]] = job.result()
            bar.update()
    return reasons


def _decode(video: Source, shard: Path, sampling: Sampling) -> str:
    """Writes the shard of one video; returns why it cannot, or ""."""
    assert video.path is not None
    # The split is made when it is known which videos can be used; the records do not hold it.
    clip = Clip(video.video, video.content, "", video.mos)
    try:
        record = quality_record(video.path, clip, sampling)
    except VideoError as error:
        return f"unreadable: {error.problem}"
    if record["length"] < 2:
        return "too short: it has one frame"
    write_shard(shard, record)
    return ""


def _shard(shards: Path, number: int) -> Path:
    return shards / f"{number:06d}.npz"


def _kind(reason: str) -> str:
    return reason.partition(":")[0]


def _write_report(path: Path, found: Sequence[Source], reasons: Sequence[str]) -> None:
    """Writes `file,status,reason`, a row for each row of the label file."""
    partial = path.with_name(f".{path.name}.partial")
    with open(partial, "w", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(("file", "status", "reason"))
        for video, reason in zip(found, reasons, strict=True):
            writer.writerow((video.video, _kind(reason) if reason else "used", reason))
    os.replace(partial, path)
