"""Videos → shards → ArrayRecord files, packed by TFDS builders (without TensorFlow).

Decoding is the slow part. It runs in parallel and writes one shard per video, atomically. A TFDS
build is one process and starts over when it is killed, so it only packs the shards.
"""

import concurrent.futures
import contextlib
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
from dagr_jax.video.decode import read_stream
from dagr_jax.video.inputs import Stream
from dagr_jax.video.resize import resize_bilinear

Shards = Mapping[str, Sequence[Path]]

# Name of the only TFDS split of a record set. Training and test parts are defined elsewhere.
WHOLE = "whole"

# TFDS holds the uncompressed examples of one file in memory while it writes the file: 128 videos of
# 2 MB each.
_VIDEOS_PER_FILE = 128


def quality_record(path: os.PathLike[str], clip: Clip, stream: Stream) -> dict[str, Any]:
    """Decodes a video into what `Quality` and `Frames` hold of it.

    Returns:
        A dict with `frames` (T, H, W, 3) uint8, the label, and the file metadata that the trivial
        baselines use.

    Raises:
        VideoError: The video cannot be decoded.
    """
    frames, info = read_stream(path, stream)
    return {
        "video": clip.video,
        "content": clip.content,
        "mos": np.float32(clip.mos),
        "relative": np.bool_(clip.relative),
        "frames": frames,
        "bit_rate": np.float32(info.bit_rate),
        "height": np.int32(info.height),
        "width": np.int32(info.width),
        "fps": np.float32(info.fps),
        "length": np.int32(info.num_frames),
    }


@contextlib.contextmanager
def worker_pool(workers: int) -> Iterator[concurrent.futures.Executor]:
    """Opens a pool of processes that end when their parent ends, even if it is killed.

    An error or Ctrl-C inside the context cancels the jobs that have not started.

    Args:
        workers: Number of processes.
    """
    # Spawned, not forked, because the parent may have JAX threads.
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
    """Sets up a worker process, of a pool or of Grain, so that it ends when its parent ends.

    Otherwise a worker would outlive a killed parent, and might write into the folder that the next
    run fills. Ctrl-C reaches all processes of a terminal; workers ignore it, and the parent handles
    it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None  # a worker always has a parent
    sentinel = parent.sentinel

    def watch() -> None:
        multiprocessing.connection.wait([sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def write_shard(path: Path, record: Mapping[str, Any]) -> None:
    """Writes a record as an uncompressed .npz, atomically."""
    with atomic_file(path) as partial:
        np.savez(partial, **record)


def read_shard(path: Path) -> dict[str, Any]:
    """Reads a record that `write_shard` wrote. Scalars are returned as 0-d arrays."""
    with np.load(path, allow_pickle=False) as shard:
        return dict(shard)


class _Packed(tfds.core.ShardBasedBuilder):
    """A TFDS builder of examples from shards on disk, in the given order.

    Records are not shuffled on disk: the loader shuffles, and records keep the order of the labels.
    Order and memory are the reasons for a `ShardBasedBuilder`. TFDS's other builder holds a split
    in memory to sort it, and needs TensorFlow if a split exceeds 1 GB.

    Args:
        shards: {split: shards}, in the order of the records.
        folder: Folder of the prepared set.
    """

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, *, shards: Shards, folder: Path):
        self._shards = shards
        self._first = read_shard(next(path for paths in shards.values() for path in paths))
        self._features = self._describe({k: value.shape for k, value in self._first.items()})
        super().__init__(data_dir=str(folder), file_format="array_record")

    def _describe(self, shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
        """Returns the features of a record, given the shapes of the arrays in its shard."""
        raise NotImplementedError

    def _records(self, shard: dict[str, Any]) -> Iterable[dict[str, Any]]:
        """Yields the records of a shard: by default one, with the fields of the same names."""
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
    # ArrayRecord compresses the raw bytes with zstd. With TFDS's zlib encoding on top the files
    # would not be smaller, and writing and reading would take four times as long.
    return tfds.features.Tensor(shape=shape, dtype=np.uint8, encoding="bytes")


class Quality(_Packed):
    """Label and file metadata of each video of a quality set."""

    def _describe(self, shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
        return {
            "video": tfds.features.Text(),
            "content": tfds.features.Text(),
            "mos": tfds.features.Scalar(np.float32),
            "relative": tfds.features.Scalar(np.bool_),
            "bit_rate": tfds.features.Scalar(np.float32),
            "height": tfds.features.Scalar(np.int32),
            "width": tfds.features.Scalar(np.int32),
            "fps": tfds.features.Scalar(np.float32),
            "length": tfds.features.Scalar(np.int32),
        }


class Frames(_Packed):
    """Frames of a quality set: one record per frame, T successive records per video.

    Frames have their own records so that one frame can be read without the others. Otherwise,
    reading a random subset of the frames would take longer than the training step.
    """

    def _describe(self, shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
        return {"frame": _pixels(shapes["frames"][1:])}

    def _records(self, shard: dict[str, Any]) -> Iterable[dict[str, Any]]:
        for frame in shard["frames"]:
            yield {"frame": frame}


class Saliency(_Packed):
    """Name, content and (height, width) in pixels of each video of a gaze set."""

    def _describe(self, shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
        return {
            "video": tfds.features.Text(),
            "content": tfds.features.Text(),
            "shape": tfds.features.Tensor(shape=(2,), dtype=np.int32),
        }


class Gaze(_Packed):
    """Frames of a gaze set: one record per frame, T successive records per video.

    A record holds the frame at the size of its gaze map, the map, and the (y, x) pixels of the
    fixations in the video's own size.
    """

    def _describe(self, shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
        size = shapes["maps"][1:]
        return {
            "frame": _pixels((*size, 3)),
            "map": _pixels(size),
            "points": tfds.features.Tensor(shape=(None, 2), dtype=np.int32, encoding="bytes"),
        }

    def _records(self, shard: dict[str, Any]) -> Iterable[dict[str, Any]]:
        maps, points = shard["maps"], shard["points"]
        frames = shard["gaze_frames"] if "gaze_frames" in shard else shard["frames"]
        # Antialiased, as in the model when it resizes frames for its saliency network.
        frames = resize_bilinear(frames, maps.shape[1:], antialias=True)
        for t, (frame, own) in enumerate(zip(frames, maps, strict=True)):
            yield {"frame": frame, "map": own, "points": points[points[:, 0] == t, 1:]}


class CachedRecords(_Packed):
    """The entries of a cached stream of a quality set, in the order of its records."""

    def _describe(self, shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
        entries = self._first["entries"]
        if entries.dtype == np.uint8:
            return {"video": tfds.features.Text(), "entries": _pixels(entries.shape)}
        tensor = tfds.features.Tensor(shape=entries.shape, dtype=entries.dtype, encoding="bytes")
        return {"video": tfds.features.Text(), "entries": tensor}


def pack_stream(folder: Path, name: str, shards: Shards) -> None:
    """Packs the shards of a cached stream into `folder/<name>/1.0.0`, see `pack`."""
    with tfds.core.registered.skip_registration():
        builder = type("CachedRecords", (CachedRecords,), {"name": name})
    pack(builder, folder, shards)


def pack(builder: type[_Packed], folder: Path, shards: Shards) -> None:
    """Packs shards into `folder/<name of the builder>/1.0.0`.

    Args:
        builder: `Quality`, `Frames`, `Saliency`, `Gaze` or a class of `CachedRecords`.
        folder: Folder of the prepared set.
        shards: {split: shards}, in the order of the records.
    """
    tfds.disable_progress_bar()
    # TFDS prints messages on stdout, which is reserved for results.
    with environment(folder), contextlib.redirect_stdout(io.StringIO()):
        builder(shards=shards, folder=folder).download_and_prepare()
    shutil.rmtree(folder / "downloads", ignore_errors=True)


def has_records(folder: Path, kind: str) -> bool:
    """Returns whether a prepared set has records of a kind ("quality", "gaze", …)."""
    return (folder / kind / "1.0.0" / "dataset_info.json").is_file()


def open_records(folder: Path, kind: str, split: str = WHOLE) -> Sequence[dict[str, Any]]:
    """Opens the records of a prepared set for random access.

    Args:
        folder: Folder of the prepared set.
        kind: "quality", "frames", "saliency", "gaze", or the name of a cached stream.
        split: Of a cached stream the part, "train", "val" or "test".

    Raises:
        DagrError: The folder has no records of this kind.
    """
    home = folder / kind / "1.0.0"
    if not has_records(folder, kind):
        stage = "maps" if kind == "maps" else "prepare"
        raise DagrError(home, "no prepared set is here", f"run the {stage} stage first")
    return tfds.builder_from_directory(str(home)).as_data_source(split=split)
