"""Grain pipelines: prepared records → batches of numpy arrays."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import grain
import numpy as np
from absl import flags

from dagr_jax.data.prepare import open_records

Batch = dict[str, np.ndarray]


class Source(Protocol):
    """Records by number, as Grain reads them."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Batch: ...


class QualitySource:
    """Records of a quality set with the saliency maps that belong to them.

    Items: `frames` (T, H, W, 3) uint8; `maps` (T, h, w) uint8, 255 for the most salient (absent
    without maps); `target` float32 in [0, 1], the MOS on the set's range; `index` int32.
    """

    def __init__(self, folder: Path, split: str, mos_range: tuple[float, float], maps: Path | None):
        self._records = open_records(folder, "quality", split)
        self._maps = open_records(maps, "maps", split) if maps is not None else None
        self._low, self._high = mos_range
        if self._maps is not None and len(self._maps) != len(self._records):
            raise ValueError(
                f"{maps}: {len(self._maps)} saliency maps for the {len(self._records)} videos of "
                f"{folder} ({split}); delete the maps folder and run the maps stage again"
            )

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Batch:
        record = self._records[index]
        item = {
            "frames": record["frames"],
            "target": np.float32((record["mos"] - self._low) / (self._high - self._low)),
            "index": np.int32(index),
        }
        if self._maps is not None:
            saliency = self._maps[index]
            if saliency["video"] != record["video"]:
                raise ValueError(
                    f"saliency maps of {saliency['video'].decode()!r} stand where those of "
                    f"{record['video'].decode()!r} belong; delete the maps folder and run the "
                    "maps stage again"
                )
            item["maps"] = saliency["maps"]
        return item


class SaliencySource:
    """Records of a saliency set.

    Items: `frames` (T, h, w, 3), `maps` (T, h, w) 255 at each map's peak, `fixations` (T, h, w)
    0 or 1, all uint8; `index` int32.
    """

    def __init__(self, folder: Path, split: str):
        self._records = open_records(folder, "saliency", split)

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
    """Endless batches in a fresh order every epoch; the remainder of the epochs is never padded.

    Args:
        source: `QualitySource` or `SaliencySource`.
        batch_size: Global batch; each host takes its contiguous slice of it.
        seed: The order follows from it and from nothing else.
        workers: Processes that read and decode; 0 reads in threads of this process.
        frames: How many of a record's frames are used, with their maps: each epoch another random
            subset, in its order. 0 uses all. Chosen here, so that no other frame travels.

    Returns:
        An iterator whose state `grain.checkpoint` saves and restores. The state depends on
        `workers`.

    Raises:
        ValueError: The source holds fewer records than a batch, or a record fewer frames than
            asked for.
    """
    if len(source) < batch_size:
        raise ValueError(
            f"the training part has {len(source)} records, fewer than the batch of {batch_size}; "
            "lower batch_size"
        )
    dataset = grain.MapDataset.source(source).shuffle(seed=seed).repeat()
    if frames:
        stored = len(source[0]["frames"])
        if frames > stored:
            raise ValueError(f"frames={frames} exceeds the {stored} frames of a record")

        def choose(item: Batch, rng: np.random.Generator) -> Batch:
            chosen = np.sort(rng.choice(stored, frames, replace=False))
            return {**item, **{k: item[k][chosen] for k in ("frames", "maps") if k in item}}

        dataset = dataset.random_map(choose, seed=seed)
    iterable = dataset.batch(batch_size, drop_remainder=True).to_iter_dataset(
        grain.ReadOptions(num_threads=2, prefetch_buffer_size=2)
    )
    if workers:
        if not flags.FLAGS.is_parsed():
            # Grain's workers are handed the flags; a library has no command line to parse.
            flags.FLAGS(sys.argv[:1])
        iterable = iterable.mp_prefetch(
            grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2)
        )
    return iter(iterable)


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


def facts(folder: Path, split: str) -> Sequence[dict[str, Any]]:
    """All fields of a quality set's records, its frames included, read one after the other."""
    return open_records(folder, "quality", split)
