"""Videos → shards → ArrayRecord files, packed by TFDS builders (no TensorFlow).

Decoding is the slow part and runs in parallel, one shard a video, each written whole or not at
all. A TFDS build is one process that starts over when killed, so it only packs the shards.
"""

import concurrent.futures
import contextlib
import dataclasses
import functools
import io
import multiprocessing
import multiprocessing.connection
import os
import shutil
import signal
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from dagr_jax.data.records import Clip
from dagr_jax.runtime.atomic import atomic_file
from dagr_jax.runtime.errors import DagrError, environment
from dagr_jax.video.decode import read_clip
from dagr_jax.video.resize import resize_bilinear
from dagr_jax.video.sampling import sample_indices

Shards = Mapping[str, Sequence[Path]]

# TFDS's name of the only split of a record set: which record trains or tests is said elsewhere.
WHOLE = "whole"

# TFDS holds one file's examples, uncompressed, while it writes them: 128 videos of 2 MB each.
_VIDEOS_PER_FILE = 128


@dataclasses.dataclass(frozen=True)
class Sampling:
    """Which frames of a video are used, and at which size.

    Attributes:
        num_frames: Frames a video.
        rule: "linspace" or "segments" (`video.sampling`).
        size: (height, width) they are resized to, bilinear without antialiasing.
    """

    num_frames: int
    rule: str
    size: tuple[int, int]

    def indices(self, length: int) -> np.ndarray:
        """Ranks, in presentation order, of the frames chosen from a video of `length` frames."""
        return sample_indices(length, self.num_frames, self.rule)


def quality_record(path: os.PathLike[str], clip: Clip, sampling: Sampling) -> dict[str, Any]:
    """Decodes a video into what `Quality` and `Frames` hold of it.

    Returns:
        A dict with `frames` (T, H, W, 3) uint8, the label and the facts of the file that the
        trivial predictors use.
    """
    frames, info = read_clip(path, sampling.num_frames, sampling.rule, sampling.size)
    return {
        "video": clip.video,
        "content": clip.content,
        "mos": np.float32(clip.mos),
        "frames": frames,
        "bit_rate": np.float32(info.bit_rate),
        "height": np.int32(info.height),
        "width": np.int32(info.width),
        "fps": np.float32(info.fps),
        "length": np.int32(info.num_frames),
    }


@contextlib.contextmanager
def worker_pool(workers: int) -> Iterator[concurrent.futures.Executor]:
    """Processes that end with their parent, however it ends.

    An error or Ctrl-C inside the context drops the jobs that have not begun.
    """
    # Spawned, not forked: the parent may hold JAX's threads.
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(
        workers, mp_context=context, initializer=begin_worker
    ) as pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def begin_worker(*_: int) -> None:
    """First act of a worker process, of a pool or of Grain: it ends when its parent does.

    Without this a worker outlives a parent that was killed, and may write into the folder that the
    next run has begun to fill. Ctrl-C reaches all processes of a terminal; here it is left to the
    parent.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None  # a worker has one
    sentinel = parent.sentinel

    def watch() -> None:
        multiprocessing.connection.wait([sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def write_shard(path: Path, record: Mapping[str, Any]) -> None:
    """Writes a record as an uncompressed .npz, whole or not at all."""
    with atomic_file(path) as partial:
        np.savez(partial, **record)


def read_shard(path: Path) -> dict[str, Any]:
    """Reads what `write_shard` wrote; scalars come back as 0-d arrays."""
    with np.load(path, allow_pickle=False) as shard:
        return dict(shard)


class _Packed(tfds.core.ShardBasedBuilder):
    """A builder whose examples come from shards on disk, in the given order.

    Not shuffled on disk: the loader shuffles, and records keep the order of the labels. That, and
    memory, is why it is shard-based: TFDS's other builder holds a split in memory to sort it, and
    wants TensorFlow as soon as a split exceeds 1 GB.
    """

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, *, shards: Shards, folder: Path):
        self._shards = shards
        first = read_shard(next(path for paths in shards.values() for path in paths))
        self._features = self._describe({key: value.shape for key, value in first.items()})
        super().__init__(data_dir=str(folder), file_format="array_record")

    def _describe(self, shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
        """The features of a record whose shard holds arrays of these shapes."""
        raise NotImplementedError

    def _records(self, shard: dict[str, Any]) -> Iterable[dict[str, Any]]:
        """What becomes of a shard: one record, its fields by their names."""
        yield {key: shard[key] for key in self._features}

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features.FeaturesDict(self._features)
        return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

    def _shard_iterators_per_split(self, dl_manager: Any) -> dict[str, list[Any]]:
        return {
            split: [
                functools.partial(self._examples, paths[start : start + _VIDEOS_PER_FILE])
                for start in range(0, len(paths), _VIDEOS_PER_FILE)
            ]
            for split, paths in self._shards.items()
        }

    def _examples(self, paths: Sequence[Path]) -> Iterator[tuple[str, dict[str, Any]]]:
        for path in paths:
            for number, record in enumerate(self._records(read_shard(path))):
                text: dict[str, Any] = {
                    key: str(record[key]) for key in ("video", "content") if key in record
                }
                yield f"{path.stem}/{number}", {**record, **text}


def _pixels(shape: tuple[int, ...]) -> tfds.features.Tensor:
    # Raw bytes, which ArrayRecord itself compresses with zstd: as small as TFDS's zlib encoding on
    # top of it, and four times as fast to write and to read.
    return tfds.features.Tensor(shape=shape, dtype=np.uint8, encoding="bytes")


class Quality(_Packed):
    """Label and file facts of each video."""

    def _describe(self, shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
        return {
            "video": tfds.features.Text(),
            "content": tfds.features.Text(),
            "mos": tfds.features.Scalar(np.float32),
            "bit_rate": tfds.features.Scalar(np.float32),
            "height": tfds.features.Scalar(np.int32),
            "width": tfds.features.Scalar(np.int32),
            "fps": tfds.features.Scalar(np.float32),
            "length": tfds.features.Scalar(np.int32),
        }


class Frames(_Packed):
    """The frames of a quality set: one record each, T in a row for each video.

    Apart from the label, so that one frame of a video is read without the others: what training
    on a random subset of the frames reads would otherwise cost more than the step.
    """

    def _describe(self, shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
        return {"frame": _pixels(shapes["frames"][1:])}

    def _records(self, shard: dict[str, Any]) -> Iterable[dict[str, Any]]:
        for frame in shard["frames"]:
            yield {"frame": frame}


class Saliency(_Packed):
    """Small frames with gaze maps and fixations; the maps' size is the frames' size."""

    def _describe(self, shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
        maps = shapes["maps"]
        return {
            "video": tfds.features.Text(),
            "content": tfds.features.Text(),
            "frames": _pixels((*maps, 3)),
            "maps": _pixels(maps),
            "fixations": _pixels(maps),
        }

    def _records(self, shard: dict[str, Any]) -> Iterable[dict[str, Any]]:
        # Antialiased, as the model itself reduces frames for its saliency net.
        frames = resize_bilinear(shard["frames"], shard["maps"].shape[1:], antialias=True)
        return super()._records({**shard, "frames": frames})


class Maps(_Packed):
    """Predicted saliency maps of a quality set, in the order of its records."""

    def _describe(self, shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
        return {"video": tfds.features.Text(), "maps": _pixels(shapes["maps"])}


def pack(builder: type[_Packed], folder: Path, shards: Shards) -> None:
    """Packs shards into `folder/<builder's name>/1.0.0`.

    Args:
        builder: `Quality`, `Frames`, `Saliency` or `Maps`.
        folder: Folder of the prepared set.
        shards: Split → shards, in the order that the records shall have.
    """
    tfds.disable_progress_bar()
    # TFDS announces itself on stdout, where only results belong.
    with environment(folder), contextlib.redirect_stdout(io.StringIO()):
        builder(shards=shards, folder=folder).download_and_prepare()
    shutil.rmtree(folder / "downloads", ignore_errors=True)


def has_records(folder: Path, kind: str) -> bool:
    """Whether a prepared set holds records of a kind, see `open_records`."""
    return (folder / kind / "1.0.0" / "dataset_info.json").is_file()


def open_records(folder: Path, kind: str, split: str = WHOLE) -> Sequence[dict[str, Any]]:
    """Random access to the records of a prepared set.

    Args:
        folder: Folder of the prepared set.
        kind: "quality", "frames", "saliency" or "maps".
        split: Of the set `maps` the part, "train", "val" or "test".

    Raises:
        DagrError: There is no such set in the folder.
    """
    home = folder / kind / "1.0.0"
    if not has_records(folder, kind):
        stage = "maps" if kind == "maps" else "prepare"
        raise DagrError(home, "no prepared set is here", f"run the {stage} stage first")
    return tfds.builder_from_directory(str(home)).as_data_source(split=split)
