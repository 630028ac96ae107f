"""Preparation of a data set: videos → decoded shards → record sets, a report and a video list.

Decoding runs in parallel. It writes one shard per video, atomically. After an interrupted call, the
next call reuses the shards and produces bit-identical records.
"""

import concurrent.futures
import contextlib
import csv
import functools
import hashlib
import math
import os
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from tqdm import tqdm

from dagr_jax.data.gaze import GazeSet, GazeVideo, gaze_record
from dagr_jax.data.prepare import (
    WHOLE,
    Frames,
    Gaze,
    Quality,
    Saliency,
    pack,
    quality_record,
    worker_pool,
    write_shard,
)
from dagr_jax.data.rated import RatedSet, Source
from dagr_jax.data.records import Clip, Listed, file_digest, write_list
from dagr_jax.runtime.atomic import atomic_file
from dagr_jax.runtime.errors import DagrError, environment, one_file
from dagr_jax.runtime.texts import open_text
from dagr_jax.video.decode import VideoError
from dagr_jax.video.inputs import Stream

T = TypeVar("T", Source, GazeVideo)

# Share of the labelled videos that may fail. A higher share means that something is wrong.
FAILURES = 0.01


class CollectError(DagrError):
    """A data set cannot be prepared. The message is one line."""


@dataclass(frozen=True)
class Collected:
    """Result of preparing a data set.

    Attributes:
        named: Number of videos in the label file.
        used: Number of videos in the records.
        mos_range: (lowest, highest) MOS of the scale; None for a gaze set.
        reasons: {reason: number of videos} of the videos that are not used.
        relative: Number of used videos whose MOS is comparable only within their content.
    """

    named: int
    used: int
    mos_range: tuple[float, float] | None
    reasons: dict[str, int]
    relative: int = 0


def collect(
    dataset: RatedSet,
    folder: Path,
    *,
    source: Path,
    label_files: Sequence[Path],
    stream: Stream,
    workers: int,
    max_failures: int | None = None,
) -> Collected:
    """Prepares a set of rated videos: `quality/` and `frames/` records, `report.csv`, `videos.csv`.

    Args:
        dataset: Description of the data set.
        folder: Output folder. Its subfolder `shards/` holds the videos that an earlier call with
            the same arguments decoded.
        source: Folder of the videos.
        label_files: Official label files, or lists; at least one.
        stream: Which frames of a video are stored, and at which size.
        workers: Processes that decode.
        max_failures: Videos that may be missing, unreadable, too short or there twice; None: one
            in a hundred.

    Raises:
        LabelError: A label file cannot be used.
        CollectError: Too many videos cannot be used; `report.csv` lists them.
    """
    found = [video for path in label_files for video in dataset.sources(source, path)]
    shards = folder / "shards"
    with environment(folder):
        shards.mkdir(parents=True, exist_ok=True)
    work = functools.partial(_sample, stream=stream)
    reasons = _decode_all(found, _unusable(found), work, shards, workers)
    used, failed = _finish(folder, found, reasons, max_failures, (Frames, Quality))
    scores = [v.mos for v in used]
    scale = dataset.scale or (min(scores), max(scores))
    return Collected(len(found), len(used), scale, failed, sum(v.relative for v in used))


def collect_gaze(
    dataset: GazeSet,
    folder: Path,
    *,
    source: Path,
    stream: Stream,
    map_size: tuple[int, int],
    workers: int,
    max_failures: int | None = None,
) -> Collected:
    """Prepares a gaze set: `saliency/` and `gaze/` records, `report.csv` and `videos.csv`.

    Args:
        dataset: How its videos are found.
        map_size: (h, w) of the stored frames and maps.
        folder, source, stream, workers, max_failures: As in `collect`.

    Raises:
        CollectError: There is no video, or too many videos cannot be used.
    """
    with environment(source, CollectError):
        found = dataset.find(source) if source.is_dir() else []
    if not found:
        raise CollectError(f"{source}: no video of {dataset.title} with gaze is in it")
    shards = folder / "shards"
    with environment(folder):
        shards.mkdir(parents=True, exist_ok=True)
    work = functools.partial(_sample_gaze, stream=stream, map_size=map_size)
    reasons = _decode_all(found, [""] * len(found), work, shards, workers)
    used, failed = _finish(folder, found, reasons, max_failures, (Gaze, Saliency))
    return Collected(len(found), len(used), None, failed)


def _decode_all(
    found: Sequence[T],
    reasons: Sequence[str],
    work: Callable[[T, Path], str],
    shards: Path,
    workers: int,
) -> list[str]:
    """Writes the missing shards of all usable videos.

    Args:
        found: Videos.
        reasons: For each video, why it cannot be used, or "".
        work: Function (video, shard) → why the shard cannot be written, or "".
        shards: Folder of the shards.
        workers: Number of processes.

    Returns:
        For each video, why it has no shard, or "".
    """
    told = list(reasons)
    paths = [_shard(shards, video) for video in found]
    waiting = [i for i, reason in enumerate(told) if not (reason or paths[i].exists())]
    done = len(found) - len(waiting)
    with tqdm(desc="prepare", total=len(found), initial=done, unit="video", disable=None) as bar:

        def decode(numbers: Sequence[int], count: int) -> list[int]:
            """Decodes some videos; returns those that are left when a process crashes."""
            missing = dict.fromkeys(numbers)
            with contextlib.suppress(BrokenProcessPool), worker_pool(count) as pool:
                jobs = {pool.submit(work, found[i], paths[i]): i for i in numbers}
                for job in concurrent.futures.as_completed(jobs):
                    told[jobs[job]] = job.result()
                    del missing[jobs[job]]
                    bar.update()
            return list(missing)

        left: list[int] = decode(waiting, workers)
        while left:
            # One of the first videos that are left has crashed its process: find it, alone.
            first = 2 * workers + 2
            suspects: list[int] = left[:first]
            rest: list[int] = left[first:]
            crashed: list[int] = decode(suspects, 1)
            if crashed:
                told[crashed[0]] = "unreadable: it crashed the process that decoded it"
                bar.update()
            left = decode([*crashed[1:], *rest], workers)
    return told


def _unusable(found: Sequence[Source]) -> list[str]:
    """Returns why each video cannot be used, or "", as far as known without decoding."""
    reasons = [""] * len(found)
    seen: dict[str, int] = {}
    for i, video in enumerate(found):
        if video.path is None:
            reasons[i] = "missing: no file of this name"
        elif math.isnan(video.mos):
            reasons[i] = "unlabelled: its MOS is empty"
        elif video.video in seen:
            reasons[i] = f"duplicate: same video as row {seen[video.video] + 1}"
        seen.setdefault(video.video, i)
    return reasons


def _sample(video: Source, shard: Path, *, stream: Stream) -> str:
    """Writes the shard of a rated video; returns why it cannot, or ""."""
    path = video.path
    assert path is not None
    clip = Clip(video.video, video.content, video.mos, video.relative)
    return _write(shard, path, lambda: quality_record(path, clip, stream))


def _sample_gaze(
    video: GazeVideo, shard: Path, *, stream: Stream, map_size: tuple[int, int]
) -> str:
    """Writes the shard of a video with gaze; returns why it cannot, or ""."""
    return _write(shard, video.frames, lambda: gaze_record(video, stream, map_size))


def _write(shard: Path, file: os.PathLike[str], read: Callable[[], dict[str, Any]]) -> str:
    try:
        with one_file(file, VideoError, "reading it"), environment(file, VideoError):
            record = read()
            digest = file_digest(file)
    except VideoError as error:
        return f"unreadable: {error.problem}"
    if record["length"] < 2:
        return "too short: it has one frame"
    write_shard(shard, {**record, "digest": digest})
    return ""


def _finish(
    folder: Path,
    found: Sequence[T],
    reasons: Sequence[str],
    max_failures: int | None,
    kinds: Sequence[type],
) -> tuple[list[T], dict[str, int]]:
    """Writes the report and the video list, and packs the decoded videos.

    Args:
        folder: Output folder.
        found: Videos.
        reasons: For each video, why it has no shard, or "".
        max_failures: Number of videos that may fail; None: one in a hundred.
        kinds: Record sets to write.

    Returns:
        The used videos; and {reason: number of videos} of the others.

    Raises:
        CollectError: Too many videos cannot be used.
    """
    told, shards = list(reasons), folder / "shards"
    digests = [
        "" if reason else _digest_in(_shard(shards, video))
        for video, reason in zip(found, told, strict=True)
    ]
    first: dict[str, int] = {}
    for i, digest in enumerate(digests):
        if digest and first.setdefault(digest, i) != i:
            told[i] = f"duplicate: the same file as {found[first[digest]].video}"
    failed = _report(folder, [v.video for v in found], told, max_failures)
    used = [i for i, reason in enumerate(told) if not reason]
    listed = [Listed(found[i].video, found[i].content, found[i].part, digests[i]) for i in used]
    write_list(folder, listed)
    for kind in kinds:
        # Records from an interrupted call may be incomplete or hold other videos.
        shutil.rmtree(folder / kind.__name__.lower(), ignore_errors=True)
        pack(kind, folder, {WHOLE: [_shard(shards, found[i]) for i in used]})
    shutil.rmtree(shards)
    return [found[i] for i in used], dict(failed)


def _report(
    folder: Path, videos: Sequence[str], reasons: Sequence[str], max_failures: int | None
) -> Counter[str]:
    """Writes `report.csv` (file, status, reason) with one row per video.

    Returns:
        {kind of reason: number of videos} of the videos that failed.

    Raises:
        CollectError: More than `max_failures` videos failed.
    """
    path = folder / "report.csv"
    with atomic_file(path) as partial, open_text(partial) as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(("file", "status", "reason"))
        for video, reason in zip(videos, reasons, strict=True):
            writer.writerow((video, _kind(reason) if reason else "used", reason))
    failed = Counter(_kind(reason) for reason in reasons if reason)
    allowed = math.floor(FAILURES * len(videos)) if max_failures is None else max_failures
    if failed.total() > allowed:
        counted = ", ".join(f"{count} {kind}" for kind, count in failed.most_common())
        raise CollectError(
            f"{path}: {failed.total()} of {len(videos)} videos cannot be used "
            f"({counted}) and {allowed} may fail; correct them, or allow {failed.total()} failures"
        )
    return failed


def _digest_in(shard: Path) -> str:
    """Returns the file digest in a shard. It reads nothing else: there may be 10,000s of shards."""
    with np.load(shard, allow_pickle=False) as record:
        return str(record["digest"])


def _shard(shards: Path, video: Source | GazeVideo) -> Path:
    """Returns the path of a video's shard, which changes when the label or the file changes."""
    file = video.path if isinstance(video, Source) else video.frames
    known = os.stat(file) if file is not None and os.path.exists(file) else None
    state = (repr(video), known and (known.st_size, known.st_mtime_ns))
    return shards / f"{hashlib.sha256(repr(state).encode()).hexdigest()[:24]}.npz"


def _kind(reason: str) -> str:
    return reason.partition(":")[0]
