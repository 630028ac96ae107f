"""Grain pipelines: prepared records → batches of numpy arrays."""

import functools
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import grain
import numpy as np
from absl import flags

from dagr_jax.data.prepare import begin_worker, open_records

Batch = dict[str, np.ndarray]


class Source(Protocol):
    """Records by number, as Grain reads them."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Batch: ...


@runtime_checkable
class FrameSource(Source, Protocol):
    """A source that also reads some frames of a record alone."""

    num_frames: int

    def read(self, index: int, chosen: np.ndarray) -> Batch: ...


class Rows(Sequence[Any]):
    """Some of a sequence's items, read when they are asked for."""

    def __init__(self, items: Sequence[Any], numbers: np.ndarray):
        self._items, self._numbers = items, numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: Any) -> Any:
        return self._items[int(self._numbers[index])]


class QualitySource:
    """Videos of a quality set with the saliency maps that belong to them.

    Items: `frames` (T, H, W, 3) uint8; `maps` (T, h, w) uint8, 255 for the most salient (absent
    without maps); `target` float32 in [0, 1], the MOS on the set's range; `index` int32.

    Args:
        folder: Of the prepared set.
        rows: (N,) numbers of its records, one a video, in the order of the items.
        mos_range: (lowest, highest) MOS of the set.
        maps: `prepare.Maps` records of these videos, in this order; None for none.

    Attributes:
        facts: Label and file facts of each video (`prepare.Quality`), in the order of the items.
        num_frames: T.

    Raises:
        ValueError: Frames or maps are not those of these videos.
    """

    def __init__(
        self,
        folder: Path,
        rows: np.ndarray,
        mos_range: tuple[float, float],
        maps: Sequence[dict[str, Any]] | None = None,
    ):
        everything = open_records(folder, "quality")
        self._rows = rows
        self.facts = Rows(everything, rows)
        self._frames = open_records(folder, "frames")
        self.num_frames, remainder = divmod(len(self._frames), len(everything))
        if remainder:
            raise ValueError(
                f"{folder}: {len(self._frames)} frames do not divide over "
                f"{len(everything)} videos; delete the folder and run the prepare stage again"
            )
        self._maps = maps
        self._low, self._high = mos_range
        if maps is not None and len(maps) != len(rows):
            raise ValueError(
                f"{len(maps)} saliency maps for {len(rows)} videos of {folder}; delete the maps "
                "folder and run the maps stage again"
            )

    def __len__(self) -> int:
        return len(self.facts)

    def __getitem__(self, index: int) -> Batch:
        return self.read(index, np.arange(self.num_frames))

    def read(self, index: int, chosen: np.ndarray) -> Batch:
        """An item that holds the chosen ones of its frames; no other frame is read."""
        fact = self.facts[index]
        first = int(self._rows[index]) * self.num_frames
        item: dict[str, Any] = {
            "frames": np.stack([self._frames[first + t]["frame"] for t in chosen.tolist()]),
            "target": np.float32((fact["mos"] - self._low) / (self._high - self._low)),
            "index": np.int32(index),
        }
        if self._maps is not None:
            saliency = self._maps[index]
            if saliency["video"] != fact["video"]:
                raise ValueError(
                    f"saliency maps of {saliency['video'].decode()!r} stand where those of "
                    f"{fact['video'].decode()!r} belong; delete the maps folder and run the "
                    "maps stage again"
                )
            item["maps"] = saliency["maps"][chosen]
        return item


class SaliencySource:
    """Records of a saliency set.

    Items: `frames` (T, h, w, 3), `maps` (T, h, w) 255 at each map's peak, `fixations` (T, h, w)
    0 or 1, all uint8; `index` int32.

    Args:
        folder: Of the prepared set.
        rows: (N,) numbers of its records, in the order of the items.
    """

    def __init__(self, folder: Path, rows: np.ndarray):
        self._records = Rows(open_records(folder, "saliency"), rows)

    @functools.cached_property
    def contents(self) -> list[str]:
        """The content of each record."""
        return [record["content"].decode() for record in self._records]

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Batch:
        record = self._records[index]
        return {
            "frames": record["frames"],
            "maps": record["maps"],
            "fixations": record["fixations"],
            "index": np.int32(index),
        }


def train_iterator(
    source: Source, *, batch_size: int, seed: int, workers: int, frames: int = 0
) -> grain.DatasetIterator:
    """Endless batches in a fresh order every epoch, of which the remainder is dropped.

    Args:
        source: `QualitySource` or `SaliencySource`.
        batch_size: Global batch.
        seed: The order follows from it and from nothing else.
        workers: Processes that read and decode; 0 reads in threads of this process.
        frames: How many frames of a video are used, with their maps: each epoch another random
            subset, in its order. 0 uses all; another number wants a `FrameSource`.

    Returns:
        An iterator whose state `grain.checkpoint` saves and restores. The state depends on
        `workers`. Its `close` ends them.

    Raises:
        ValueError: The source holds fewer records than a batch, or a video fewer frames than
            asked for.
        TypeError: `frames` of a source that has only whole records.
    """
    if len(source) < batch_size:
        raise ValueError(
            f"the training part has {len(source)} records, fewer than the batch of {batch_size}; "
            "lower batch_size"
        )
    order = grain.MapDataset.range(len(source)).shuffle(seed=seed)
    if not frames:
        dataset = order.map(source.__getitem__)
    elif isinstance(source, FrameSource):
        dataset = order.random_map(_frame_chooser(source, frames), seed=seed)
    else:
        raise TypeError(f"frames={frames}: a {type(source).__name__} has only whole records")
    # Repeated after batching: no batch reaches over the end of an epoch and holds a record twice.
    batches = dataset.batch(batch_size, drop_remainder=True).repeat()
    iterable = batches.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=2))
    if workers:
        if not flags.FLAGS.is_parsed():
            # Grain's workers are handed the flags; a library has no command line to parse.
            flags.FLAGS(sys.argv[:1])
        iterable = iterable.mp_prefetch(
            grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2),
            worker_init_fn=_begin_reader,
        )
    return iter(iterable)


def _begin_reader(*_: int) -> None:
    """First act of a reading process: it outlives the signals that ask the trainer to leave.

    The trainer needs its data position, and perhaps one more batch, to save what is done; then it
    ends its readers itself.
    """
    begin_worker()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _frame_chooser(source: FrameSource, frames: int) -> Callable[[int, np.random.Generator], Batch]:
    stored = source.num_frames
    if frames > stored:
        raise ValueError(f"frames={frames} exceeds the {stored} frames of a record")

    def choose(index: int, rng: np.random.Generator) -> Batch:
        return source.read(index, np.sort(rng.choice(stored, frames, replace=False)))

    return choose


def eval_batches(source: Source, *, batch_size: int) -> Iterator[Batch]:
    """Every record once, in order, in batches of one size.

    The last batch is padded with its last record; `mask` (B,) is True for real records.
    """

    def pad(batch: Batch) -> Batch:
        missing = batch_size - len(batch["index"])
        mask = np.arange(batch_size) < batch_size - missing
        padded = {
            key: np.concatenate([value, np.repeat(value[-1:], missing, 0)])
            for key, value in batch.items()
        }
        return {**padded, "mask": mask}

    dataset = grain.MapDataset.source(source).batch(batch_size, drop_remainder=False)
    yield from dataset.map(pad).to_iter_dataset(
        grain.ReadOptions(num_threads=2, prefetch_buffer_size=2)
    )
