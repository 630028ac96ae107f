"""Video files to RGB frames with PyAV: chosen frames only, memory bounded by what was chosen.

Rules, the same for every function here:

* A frame's index is its rank by presentation time among the frames that the decoder gives out;
  where a time is missing, the order in which the decoder gives them out (it reorders B-frames).
* What the container promises is never trusted. Where its packets tell frames apart (`index`), they
  are counted, and of the file is decoded what the chosen frames need: from the key frame before
  each, without frames that no other refers to. Where they do not, or what comes out is not what
  they said, all is decoded and counted: edit lists hide frames, and of a cut file only the part
  that decodes counts.
* Pictures are turned and mirrored as the display matrix says, in quarter turns. Pixel aspect
  ratio is not applied (the release resizes to one fixed size whatever the aspect). Interlaced
  frames are taken as they are stored, both fields in one picture. An alpha channel is dropped.
* More than 8 bits a sample are reduced to 8. HDR (PQ, HLG) is not tone-mapped: its code values are
  turned to RGB by the file's own matrix and taken as if they were SDR, which looks flat;
  `VideoInfo.hdr` says so.
* One thread decodes a file: with several, FFmpeg loses frames at a damaged packet and conceals the
  rest differently from run to run. Whoever has many files decodes them in parallel processes.
"""

import os
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from av.video.frame import VideoFrame

from dagr_jax.video.index import Packets, read_packets
from dagr_jax.video.reading import PacketMismatch, Reading, VideoInfo, by_packets, in_full
from dagr_jax.video.sampling import sample_indices
from dagr_jax.video.stream import Size, VideoError, decoded, open_stream, picture

__all__ = ["VideoError", "VideoInfo", "decode_frames", "iter_frames", "probe", "read_clip"]

Choice = Sequence[int] | np.ndarray | Callable[[int], Sequence[int] | np.ndarray]

_ITER_CHUNK = 16  # frames held at once where a file must be read again to sort its frames


def probe(path: str | os.PathLike) -> VideoInfo:
    """Decodes the whole file, keeping no pictures, and says what it is.

    Raises:
        VideoError: the file is missing, empty, no video, or nothing in it decodes.
    """
    return _read(path, frozenset(), None).info()


def decode_frames(
    path: str | os.PathLike, choose: Choice, size: Size | None = None, *, antialias: bool = False
) -> np.ndarray:
    """Chosen frames as RGB.

    Args:
        path: video file.
        choose: indices in presentation order (any order, repeats allowed), or a function from the
            number of frames to such indices.
        size: (height, width) to resize to, bilinear; None keeps the file's own.
        antialias: resize with antialiasing (see `resize_bilinear`).

    Returns:
        (n, height, width, 3) uint8 RGB, in the order of the indices.

    Raises:
        VideoError: as `probe`, an index beyond the file's frames, or frames of several sizes with
            size None.
    """
    return _decode(path, choose, size, antialias)[0]


def read_clip(
    path: str | os.PathLike,
    n: int,
    rule: str = "linspace",
    size: Size | None = None,
    *,
    antialias: bool = False,
) -> tuple[np.ndarray, VideoInfo]:
    """n frames by a sampling rule (`sample_indices`), and what the file is.

    Returns:
        frames (n, height, width, 3) uint8 RGB, and the VideoInfo.

    Raises:
        VideoError: as `decode_frames`.
        DagrError: unknown rule, or n below 1.
    """
    return _decode(path, lambda length: sample_indices(length, n, rule), size, antialias)


def iter_frames(
    path: str | os.PathLike, size: Size | None = None, *, antialias: bool = False
) -> Iterator[np.ndarray]:
    """Every frame in presentation order, one at a time: `timed_frames` without the times.

    Yields:
        (height, width, 3) uint8 RGB.

    Raises:
        VideoError: as `decode_frames`, at the first step.
    """
    for _, frame in timed_frames(path, size, antialias=antialias):
        yield frame


def timed_frames(
    path: str | os.PathLike, size: Size | None = None, *, antialias: bool = False
) -> Iterator[tuple[float, np.ndarray]]:
    """Every frame in presentation order and when it is shown, one at a time.

    The file is decoded once more beforehand, for the order; a file whose times contradict the
    decoder's order is read again for every 16 frames, slowly, so that memory stays bounded.

    Yields:
        Seconds by the file's own clock, as its sound has them, or from the frame's number where
        the file has no times; and (height, width, 3) uint8 RGB.

    Raises:
        VideoError: as `decode_frames`, at the first step.
    """
    run = _read(path, frozenset(), None)
    order, times = run.order(), run.seconds()
    if np.array_equal(order, np.arange(len(order))):
        with open_stream(path) as (container, stream):
            shown = (item for item in decoded(container, stream) if isinstance(item, VideoFrame))
            for time, frame in zip(times, shown, strict=False):
                yield time, picture(frame, size, antialias)
        return
    for start in range(0, len(order), _ITER_CHUNK):
        chunk = order[start : start + _ITER_CHUNK]
        pictures = _read(path, frozenset(chunk.tolist()), size, antialias).pictures
        for time, position in zip(times[start:], chunk.tolist(), strict=False):
            yield time, pictures[position]


def _decode(
    path: str | os.PathLike, choose: Choice, size: Size | None, antialias: bool
) -> tuple[np.ndarray, VideoInfo]:
    """Frames and info; the work of `decode_frames` and `read_clip`."""
    packets = read_packets(path)
    if packets.tell:
        ranks = _ranks(choose, packets.count)
        _refuse_outside(path, ranks, packets.count)
        run = _read_chosen(path, packets, frozenset(ranks.tolist()), size, antialias)
        if run is not None:
            return _stack(path, [run.pictures[rank] for rank in ranks.tolist()], run, size)
    # Ranks are certain only after the last frame. So guess from the packets, keep what the guess
    # asks for, and read again in the rare case that it was wrong.
    wanted = frozenset(_ranks(choose, packets.count).tolist())
    run = _read(path, wanted, size, antialias)
    ranks = _ranks(choose, len(run.times))
    _refuse_outside(path, ranks, len(run.times))
    positions = run.order()[ranks].tolist()
    if not run.pictures.keys() >= set(positions):
        run = _read(path, frozenset(positions), size, antialias)
    return _stack(path, [run.pictures[position] for position in positions], run, size)


def _refuse_outside(path: str | os.PathLike, ranks: np.ndarray, count: int) -> None:
    if ranks.size and (ranks.min() < 0 or ranks.max() >= count):
        asked = ranks.min() if ranks.min() < 0 else ranks.max()
        raise VideoError(
            path,
            f"frame {asked} was asked for and it has {count}",
            f"choose indices from 0 to {count - 1}",
        )


def _stack(
    path: str | os.PathLike, pictures: Sequence[np.ndarray], run: Reading, size: Size | None
) -> tuple[np.ndarray, VideoInfo]:
    shapes = {chosen.shape for chosen in pictures}
    if len(shapes) > 1:
        raise VideoError(path, f"its frames have {len(shapes)} sizes", "give a size to resize to")
    height, width = size or (run.height, run.width)
    stacked = np.stack(pictures) if pictures else np.zeros((0, height, width, 3), np.uint8)
    return stacked, run.info()


def _ranks(choose: Choice, length: int) -> np.ndarray:
    """Chosen indices for a video of ``length`` frames, (n,) int64."""
    chosen = choose(max(length, 1)) if callable(choose) else choose
    return np.asarray(chosen, dtype=np.int64).reshape(-1)


def _read(
    path: str | os.PathLike,
    keep: frozenset[int],
    size: Size | None,
    antialias: bool = False,
) -> Reading:
    """Decodes the whole file and keeps the pictures at the decoder positions ``keep``."""
    reading = Reading(path)
    for position, frame in enumerate(in_full(reading)):
        if position in keep:
            reading.pictures[position] = picture(frame, size, antialias)
    return reading


def _read_chosen(
    path: str | os.PathLike,
    packets: Packets,
    ranks: frozenset[int],
    size: Size | None,
    antialias: bool,
) -> Reading | None:
    """Decodes only what the frames of these ranks need; pictures by rank.

    Returns:
        None where anything is not as the packets said, or is damaged: then all must be decoded.
    """
    reading = Reading(path)
    try:
        for rank, frame in by_packets(reading, packets, ranks):
            reading.pictures[rank] = picture(frame, size, antialias)
    except PacketMismatch:
        return None
    return reading
