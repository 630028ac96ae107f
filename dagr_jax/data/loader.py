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
from dagr_jax.runtime.errors import DagrError

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
        DagrError: Frames or maps are not those of these videos.
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
            raise DagrError(
                f"{folder}: {len(self._frames)} frames do not divide over "
                f"{len(everything)} videos; delete the folder and run the prepare stage again"
            )
        self._maps = maps
        self._low, self._high = mos_range
        if maps is not None and len(maps) != len(rows):
            raise DagrError(
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
                raise DagrError(
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

    @functools.cached_property
    def videos(self) -> list[str]:
        """The name of each record's video."""
        return [record["video"].decode() for record in self._records]

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


class _Share(grain.MapDataset):
    """Of every `batch_size` elements in a row one process's part, of those of an epoch that fill
    batches.

    Applied before anything is read, and after whatever is drawn by the place in the whole order.
    """

    def __init__(self, parent: grain.MapDataset, batch_size: int, share: tuple[int, int]):
        super().__init__(parent)
        number, count = share
        self._all, self._batch, self._own = len(parent), batch_size, batch_size // count
        self._first = number * self._own

    def __len__(self) -> int:
        return self._all // self._batch * self._own

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self.slice(index)
        epoch, index = divmod(index, len(self))
        batch, place = divmod(index, self._own)
        return self._parent[epoch * self._all + batch * self._batch + self._first + place]


def train_iterator(
    source: Source,
    *,
    batch_size: int,
    seed: int,
    workers: int,
    frames: int = 0,
    share: tuple[int, int] = (0, 1),
) -> grain.DatasetIterator:
    """Endless batches in a fresh order every epoch, of which the remainder is dropped.

    Args:
        source: `QualitySource` or `SaliencySource`.
        batch_size: Global batch.
        seed: The order follows from it and from nothing else.
        workers: Processes that read and decode; 0 reads in threads of this process.
        frames: How many frames of a video are used, with their maps: each epoch another random
            subset, in its order. 0 uses all; another number wants a `FrameSource`.
        share: (number of this process, number of processes): of each batch this slice is read and
            given. The order and the frames are those of a process that reads all.

    Returns:
        An iterator whose state, JSON, counts batches: it is the same in every process and for
        any number of them, and depends on `workers`. Its `close` ends them.

    Raises:
        DagrError: The source holds fewer records than a batch, or a video fewer frames than
            asked for, or the batch does not divide over the processes.
        TypeError: `frames` of a source that has only whole records.
    """
    if len(source) < batch_size:
        raise DagrError(
            f"the training part has {len(source)} records, fewer than the batch of {batch_size}; "
            "lower batch_size"
        )
    own = _own(batch_size, share)
    drawn = grain.MapDataset.range(len(source)).shuffle(seed=seed)
    read: Callable[..., Batch] = source.__getitem__
    if frames:
        if not isinstance(source, FrameSource):
            raise TypeError(f"frames={frames}: a {type(source).__name__} has only whole records")
        drawn = drawn.random_map(_frame_chooser(source, frames), seed=seed)
        read = functools.partial(_read_chosen, source)
    if share != (0, 1):
        drawn = _Share(drawn, batch_size, share)
    # Repeated after batching: no batch reaches over the end of an epoch and holds a record twice.
    batches = drawn.map(read).batch(own, drop_remainder=True).repeat()
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


def _own(batch_size: int, share: tuple[int, int]) -> int:
    """Records of a batch that one process reads."""
    own, remainder = divmod(batch_size, share[1])
    if remainder:
        raise DagrError(
            f"batch_size={batch_size} does not divide over {share[1]} processes; "
            f"use a multiple of {share[1]}"
        )
    return own


def _frame_chooser(
    source: FrameSource, frames: int
) -> Callable[[int, np.random.Generator], tuple[int, np.ndarray]]:
    stored = source.num_frames
    if frames > stored:
        raise DagrError(f"frames={frames} exceeds the {stored} frames of a record")

    def choose(index: int, rng: np.random.Generator) -> tuple[int, np.ndarray]:
        return index, np.sort(rng.choice(stored, frames, replace=False))

    return choose


def _read_chosen(source: FrameSource, drawn: tuple[int, np.ndarray]) -> Batch:
    return source.read(*drawn)


def eval_batches(
    source: Source, *, batch_size: int, share: tuple[int, int] = (0, 1)
) -> Iterator[Batch]:
    """Every record once, in order, in batches of one size.

    The last batch is padded with the last record; `mask` (B,) is True for real records.

    Args:
        source: Its records are read in the order of their numbers.
        batch_size: Global batch.
        share: (number of this process, number of processes): of each batch this slice is given.

    Raises:
        DagrError: The batch does not divide over the processes.
    """
    own, last = _own(batch_size, share), len(source) - 1

    def read(number: int) -> Batch:
        return {**source[min(number, last)], "mask": np.asarray(number <= last)}

    padded = grain.MapDataset.range(-(-len(source) // batch_size) * batch_size)
    dataset = _Share(padded, batch_size, share).map(read).batch(own)
    yield from dataset.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=2))
