"""Grain pipelines: prepared records → batches of numpy arrays."""

import functools
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import grain
import numpy as np
from absl import flags

from dagr_jax.data.prepare import begin_worker, open_records
from dagr_jax.runtime.errors import DagrError
from dagr_jax.video.inputs import Crops

Batch = dict[str, np.ndarray]


class Source(Protocol):
    """Random access to records by number, as Grain requires it."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Batch: ...


@runtime_checkable
class FrameSource(Source, Protocol):
    """A source that can also read only some frames of a record."""

    num_frames: int

    def read(
        self, index: int, chosen: np.ndarray, rng: np.random.Generator | None = None
    ) -> Batch: ...


class Rows(Sequence[Any]):
    """Lazy view of selected items of a sequence."""

    def __init__(self, items: Sequence[Any], numbers: np.ndarray):
        self._items, self._numbers = items, numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: Any) -> Any:
        return self._items[int(self._numbers[index])]


class QualitySource:
    """Videos of a quality set, with the cached streams that belong to them.

    Items: the stored frames (T, H, W, 3) uint8 under the name of their stream, with crops
    (count, T, h, w, 3); each cached stream (T, …) under its name; `target` float32 in [0, 1], the
    MOS on the set's range; `index` int32. With `contents` also `content` int32, equal for videos of
    one content, and `relative`, whether the target is comparable only within the content.

    Args:
        folder: Folder of the prepared set.
        rows: (N,) numbers of its records, one a video, in the order of the items.
        mos_range: (lowest, highest) MOS of the set.
        streams: Name → records of a cached stream of these videos, in this order.
        name: Name of the stream whose frames are stored.
        crops: Cut out of the stored frames; None for whole frames.
        stored: Whether items hold the stored frames; otherwise no frame is read.
        contents: Whether items hold their content.

    Attributes:
        facts: Label and file metadata of each video (`prepare.Quality`), in the order of the items.
        num_frames: Number of frames per video, T.

    Raises:
        DagrError: Frames or streams are not those of these videos.
    """

    def __init__(
        self,
        folder: Path,
        rows: np.ndarray,
        mos_range: tuple[float, float],
        streams: Mapping[str, Sequence[dict[str, Any]]] | None = None,
        name: str = "frames",
        crops: Crops | None = None,
        stored: bool = True,
        contents: bool = False,
    ):
        everything = open_records(folder, "quality")
        self._rows, self._name, self._crops, self._stored = rows, name, crops, stored
        self.facts = Rows(everything, rows)
        self._frames = open_records(folder, "frames")
        self.num_frames, remainder = divmod(len(self._frames), len(everything))
        if remainder:
            raise DagrError(
                f"{folder}: {len(self._frames)} frames do not divide over "
                f"{len(everything)} videos; delete the folder and run the prepare stage again"
            )
        self._contents: dict[bytes, int] = {}
        if contents:
            names = dict.fromkeys(fact["content"] for fact in self.facts)
            self._contents = {name: number for number, name in enumerate(names)}
        self._streams = dict(streams or {})
        self._low, self._high = mos_range
        for stream, records in self._streams.items():
            if len(records) != len(rows):
                raise DagrError(
                    f"{len(records)} records of {stream} for {len(rows)} videos of {folder}; "
                    f"delete the folder {stream} and run the stage {stream} again"
                )

    def __len__(self) -> int:
        return len(self.facts)

    def __getitem__(self, index: int) -> Batch:
        return self.read(index, np.arange(self.num_frames))

    def read(self, index: int, chosen: np.ndarray, rng: np.random.Generator | None = None) -> Batch:
        """An item that holds some of its frames; no other frame is read.

        Args:
            index: Number of the item.
            chosen: Numbers of its frames.
            rng: Draws the places of crops, for training; None: the places of an evaluation.
        """
        fact = self.facts[index]
        item: dict[str, Any] = {
            "target": np.float32((fact["mos"] - self._low) / (self._high - self._low)),
            "index": np.int32(index),
        }
        if self._contents:
            item["content"] = np.int32(self._contents[fact["content"]])
            # Sets that an earlier version prepared have no such field.
            item["relative"] = np.bool_(fact.get("relative", False))
        if self._stored:
            first = int(self._rows[index]) * self.num_frames
            frames = np.stack([self._frames[first + t]["frame"] for t in chosen.tolist()])
            item[self._name] = frames if self._crops is None else self._crops.apply(frames, rng)
        for name, records in self._streams.items():
            record = records[index]
            if record["video"] != fact["video"]:
                raise DagrError(
                    f"{name} of {record['video'].decode()!r} stand where those of "
                    f"{fact['video'].decode()!r} belong; delete the folder {name} and run the "
                    f"stage {name} again"
                )
            item[name] = record["entries"][chosen]
        return item


class SaliencySource:
    """Records of a saliency set, each whole or in windows of successive frames.

    Each item has `frames` (T, h, w, 3), `maps` (T, h, w) with 255 at the peak of each map, and
    `fixations` (T, h, w) 0 or 1 on the grid of the maps, all uint8; and `index` int32.

    Args:
        folder: Folder of the prepared set.
        rows: (N,) record numbers, in the order of the items.
        window: Number of frames of an item, T; a record gives its windows as successive items. 0:
            an item has all frames of a record.

    Attributes:
        num_frames: Number of frames of an item, T.

    Raises:
        DagrError: The frames of a record do not divide into windows.
    """

    def __init__(self, folder: Path, rows: np.ndarray, window: int = 0):
        videos = open_records(folder, "saliency")
        self._gaze = open_records(folder, "gaze")
        stored = len(self._gaze) // len(videos)
        self.num_frames = window or stored
        self._each, remainder = divmod(stored, self.num_frames)
        if remainder:
            raise DagrError(
                f"{folder}: its records have {stored} frames, which do not divide into windows of "
                f"{window}; prepare the set with a multiple of {window} frames"
            )
        self._rows, self._stored = np.repeat(rows, self._each), stored
        self._videos = Rows(videos, self._rows)

    @functools.cached_property
    def contents(self) -> list[str]:
        """Content key of each item."""
        return [video["content"].decode() for video in self._videos]

    @functools.cached_property
    def videos(self) -> list[str]:
        """Video name of each item."""
        return [video["video"].decode() for video in self._videos]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Batch:
        return self.with_points(index)[0]

    def with_points(self, index: int) -> tuple[Batch, list[np.ndarray]]:
        """Returns an item, and the fixations of its frames (see `points`), read once."""
        records = self._records(index)
        points = [record["points"] for record in records]
        maps = np.stack([record["map"] for record in records])
        fixations, native = np.zeros_like(maps), self.native_size(index)
        for t, own in enumerate(points):
            fixations[(t, *(own * maps.shape[1:] // native).T)] = 1
        item = {
            "frames": np.stack([record["frame"] for record in records]),
            "maps": maps,
            "fixations": fixations,
            "index": np.asarray(index, np.int32),
        }
        return item, points

    def native_size(self, index: int) -> tuple[int, int]:
        """Returns the (height, width) in which the data set gives the fixations of an item."""
        height, width = self._videos[index]["shape"].tolist()
        return height, width

    def points(self, index: int) -> list[np.ndarray]:
        """Returns the fixations (k, 2) of each frame of an item: y and x in its native size."""
        return [record["points"] for record in self._records(index)]

    def _records(self, index: int) -> list[dict[str, Any]]:
        first = int(self._rows[index]) * self._stored + index % self._each * self.num_frames
        return [self._gaze[first + t] for t in range(self.num_frames)]


class _Share(grain.MapDataset):
    """The part of each global batch that belongs to one process.

    Elements at the end of an epoch that do not fill a batch are dropped. It is applied before
    anything is read, and after all random draws, which depend on the position in the global order.

    Args:
        parent: Elements in the global order.
        batch_size: Global batch size.
        share: (number of this process, number of processes).
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


_AHEAD = 2  # batches that a reading process makes ahead
BUFFERED = _AHEAD + 2  # batches of each that are in shared memory at once, with those in hand


def train_iterator(
    source: Source,
    *,
    batch_size: int,
    seed: int,
    workers: int,
    frames: int = 0,
    random_crops: bool = False,
    share: tuple[int, int] = (0, 1),
) -> grain.DatasetIterator:
    """Makes an endless iterator of training batches, in a new random order every epoch.

    Records at the end of an epoch that do not fill a batch are dropped.

    Args:
        source: `QualitySource` or `SaliencySource`.
        batch_size: Global batch.
        seed: The order follows from it and from nothing else.
        workers: Processes that read and decode; 0 reads in threads of this process.
        frames: How many frames of a video are used, with their maps: each epoch another random
            subset, in its order. 0 uses all; another number wants a `FrameSource`.
        random_crops: Whether the places of crops are drawn, for each record and epoch.
        share: (number of this process, number of processes): of each batch this slice is read and
            given. The order and the frames are those of a process that reads all.

    Returns:
        An iterator. Its state is JSON and counts batches. The state is the same in every process
        and for any number of processes, but depends on `workers`. Its `close` ends the readers.

    Raises:
        DagrError: The source has fewer records than a batch, a video has fewer than `frames`
            frames, or the batch size is not a multiple of the number of processes.
        TypeError: `frames` is set, but the source can only read whole records.
    """
    if len(source) < batch_size:
        raise DagrError(
            f"the training part has {len(source)} records, fewer than the batch of {batch_size}; "
            "lower batch_size"
        )
    own = _own(batch_size, share)
    drawn = grain.MapDataset.range(len(source)).shuffle(seed=seed)
    read: Callable[..., Batch] = source.__getitem__
    if frames or random_crops:
        if not isinstance(source, FrameSource):
            raise TypeError(f"frames={frames}: a {type(source).__name__} has only whole records")
        chooser = _frame_chooser(source, frames or source.num_frames, random_crops)
        drawn = drawn.random_map(chooser, seed=seed)
        read = functools.partial(_read_chosen, source)
    if share != (0, 1):
        drawn = _Share(drawn, batch_size, share)
    # Repeat after batching, so that no batch spans two epochs, where it could hold a record twice.
    batches = drawn.map(read).batch(own, drop_remainder=True).repeat()
    iterable = batches.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=2))
    if workers:
        if not flags.FLAGS.is_parsed():
            # Grain passes absl flags to its workers. A library has no command line to parse.
            flags.FLAGS.mark_as_parsed()
        iterable = iterable.mp_prefetch(
            grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=_AHEAD),
            worker_init_fn=_begin_reader,
        )
    return iter(iterable)


def _begin_reader(*_: int) -> None:
    """Sets up a reader process: it ignores the signals that ask the trainer to stop.

    The trainer needs the data position, and possibly one more batch, to save a checkpoint. It then
    ends its readers itself.
    """
    begin_worker()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _own(batch_size: int, share: tuple[int, int]) -> int:
    """Returns the number of records of a batch that one process reads."""
    own, remainder = divmod(batch_size, share[1])
    if remainder:
        raise DagrError(
            f"batch_size={batch_size} does not divide over {share[1]} processes; "
            f"use a multiple of {share[1]}"
        )
    return own


Drawn = tuple[int, np.ndarray, int | None]  # record, its frames, seed of its crops


def _frame_chooser(
    source: FrameSource, frames: int, crops: bool
) -> Callable[[int, np.random.Generator], Drawn]:
    stored = source.num_frames
    if frames > stored:
        raise DagrError(f"frames={frames} exceeds the {stored} frames of a record")

    def choose(index: int, rng: np.random.Generator) -> Drawn:
        chosen = np.sort(rng.choice(stored, frames, replace=False))
        return index, chosen, int(rng.integers(2**32)) if crops else None

    return choose


def _read_chosen(source: FrameSource, drawn: Drawn) -> Batch:
    index, chosen, seed = drawn
    return source.read(index, chosen, None if seed is None else np.random.default_rng(seed))


def eval_batches(
    source: Source, *, batch_size: int, share: tuple[int, int] = (0, 1)
) -> Iterator[Batch]:
    """Yields every record once, in order, in batches of equal size.

    The last batch is padded with the last record.

    Args:
        source: Records, read in the order of their numbers.
        batch_size: Global batch size.
        share: (number of this process, number of processes). Only this process's slice of each
            batch is returned.

    Yields:
        Batches with a `mask` (B,) that is True for real records and False for padding.

    Raises:
        DagrError: The batch size is not a multiple of the number of processes.
    """
    own, last = _own(batch_size, share), len(source) - 1

    def read(number: int) -> Batch:
        return {**source[min(number, last)], "mask": np.asarray(number <= last)}

    padded = grain.MapDataset.range(-(-len(source) // batch_size) * batch_size)
    dataset = _Share(padded, batch_size, share).map(read).batch(own)
    yield from dataset.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=2))
