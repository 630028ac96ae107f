"""Decoding of chosen frames of a video file to RGB, with PyAV.

Memory use is bounded by the chosen frames. All functions of this module follow these rules:

* The index of a frame is its rank in the output order of the decoder, which reorders B-frames. The
  times of a file are evidence for when a frame is shown, not for its order (`clock`).
* Metadata of the container is never trusted. If packets and frames correspond one to one (`index`),
  the packets are counted, and only the data that the chosen frames need is decoded: from the key
  frame before each chosen frame, without frames to which no other frame refers. Otherwise, or if
  the decoded frames differ from what the packets announce, the whole file is decoded and its frames
  are counted: edit lists hide frames, and of a truncated file only the decodable part counts.
* Pictures are rotated by quarter turns and mirrored according to the display matrix of the first
  frame (`display`). The pixel aspect ratio is not applied (the release resizes every aspect ratio
  to one fixed size). Interlaced frames keep both fields in one picture. An alpha channel is
  dropped. A colour matrix that FFmpeg's converter lacks is ignored, and said in `VideoInfo.notes`.
* A file of which more than `stream.DAMAGE` of the pictures are damaged is refused.
* Samples of more than 8 bits are reduced to 8 bits. HDR (PQ, HLG) is not tone-mapped: its code
  values are converted to RGB with the matrix of the file and treated as SDR, which looks flat.
  `VideoInfo.hdr` reports HDR.
* A file is decoded by one thread. With several threads, FFmpeg loses frames at a damaged packet,
  and its error concealment differs from run to run. To decode many files, use parallel processes.
"""

import os
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from dagr_jax.video.index import Packets, read_packets
from dagr_jax.video.inputs import Resize, Stream
from dagr_jax.video.reading import PacketMismatch, Reading, VideoInfo, by_packets, in_full
from dagr_jax.video.resize import resize_bilinear
from dagr_jax.video.sampling import sample_indices
from dagr_jax.video.stream import Size, VideoError

__all__ = ["VideoError", "VideoInfo", "decode_frames", "iter_frames", "probe", "read_clip"]

Choice = Sequence[int] | np.ndarray | Callable[[int], Sequence[int] | np.ndarray]


def probe(path: str | os.PathLike) -> VideoInfo:
    """Decodes the whole file, without keeping pictures, and returns its properties.

    Args:
        path: Video file.

    Raises:
        VideoError: The file is missing, empty or not a video, or no frame can be decoded.
    """
    return _read(path, frozenset()).info()


def decode_frames(
    path: str | os.PathLike, choose: Choice, size: Size | None = None, *, antialias: bool = False
) -> np.ndarray:
    """Decodes chosen frames to RGB.

    Args:
        path: Video file.
        choose: Frame indices by presentation time (in any order, repeats allowed), or a function:
            number of frames → such indices.
        size: (height, width) of the result in pixels, bilinear; None: the size of the file.
        antialias: Whether to resize with antialiasing (see `resize_bilinear`).

    Returns:
        (n, height, width, 3) uint8 RGB, in the order of the indices.

    Raises:
        VideoError: The file is missing, empty or not a video, no frame can be decoded, an index is
            out of range, or frames have different sizes and `size` is None.
    """
    return _decode(path, choose, Resize(size, antialias=antialias))[0]


def read_clip(
    path: str | os.PathLike,
    n: int,
    rule: str = "linspace",
    size: Size | None = None,
    *,
    antialias: bool = False,
) -> tuple[np.ndarray, VideoInfo]:
    """Decodes n frames that a sampling rule selects, and returns the properties of the file.

    Args:
        path: Video file.
        n: Number of frames.
        rule: Sampling rule (see `sample_indices`).
        size: (height, width) of the result in pixels, bilinear; None: the size of the file.
        antialias: Whether to resize with antialiasing (see `resize_bilinear`).

    Returns:
        (n, height, width, 3) uint8 RGB frames; and the properties of the file.

    Raises:
        VideoError: The file is missing, empty or not a video, no frame can be decoded, or frames
            have different sizes and `size` is None.
        DagrError: The rule is unknown, or n is below 1.
    """
    resize = Resize(size, antialias=antialias)
    return _decode(path, lambda length: sample_indices(length, n, rule), resize)


def read_stream(path: str | os.PathLike, stream: Stream) -> tuple[np.ndarray, VideoInfo]:
    """The resized frames that a stream takes of a whole file, before they are cropped.

    Returns:
        Frames (n, height, width, 3) uint8 RGB, and the VideoInfo.

    Raises:
        VideoError: As `decode_frames`.
    """
    return _decode(path, stream.indices, stream.resize)


def iter_frames(
    path: str | os.PathLike, size: Size | None = None, *, antialias: bool = False
) -> Iterator[np.ndarray]:
    """Yields every frame in presentation order, one at a time: `timed_frames` without the times.

    Args:
        path: Video file.
        size: (height, width) of the result in pixels, bilinear; None: the size of the file.
        antialias: Whether to resize with antialiasing (see `resize_bilinear`).

    Yields:
        (height, width, 3) uint8 RGB.

    Raises:
        VideoError: The file is missing, empty or not a video, or no frame can be decoded; raised
            at the first iteration.
    """
    for _, frame in timed_frames(path, size, antialias=antialias):
        yield frame


def timed_frames(
    path: str | os.PathLike, size: Size | None = None, *, antialias: bool = False
) -> Iterator[tuple[float, np.ndarray]]:
    """Yields every frame in presentation order with its time, one at a time.

    The file is decoded twice, because whether its times can be used is known only at its end.

    Args:
        path: Video file.
        size: (height, width) of the result in pixels, bilinear; None: the size of the file.
        antialias: Whether to resize with antialiasing (see `resize_bilinear`).

    Yields:
        Time in seconds after the file begins to play, as in a player (computed from the frame
        number if the file has no usable times); and the frame, (height, width, 3) uint8 RGB.

    Raises:
        VideoError: The file is missing, empty or not a video, or no frame can be decoded; raised
            at the first iteration.
    """
    timeline = _read(path, frozenset()).timeline
    times = (timeline.begin + timeline.seconds).tolist()
    reading = Reading(path)
    for time, frame in zip(times, in_full(reading), strict=False):
        shown = reading.rgb(frame)
        yield time, shown if size is None else resize_bilinear(shown, size, antialias=antialias)


def _decode(
    path: str | os.PathLike, choose: Choice, resize: Resize
) -> tuple[np.ndarray, VideoInfo]:
    """Frames and info; the work of `decode_frames`, `read_clip` and `read_stream`."""
    packets = read_packets(path)
    if packets.tell:
        ranks = _ranks(choose, packets.count)
        _refuse_outside(path, ranks, packets.count)
        run = _read_chosen(path, packets, frozenset(ranks.tolist()), resize)
        if run is not None:
            return _stack(path, [run.pictures[rank] for rank in ranks.tolist()], run, resize)
    # Ranks are certain only after the last frame. So guess from the packets, keep what the guess
    # asks for, and read again in the rare case that it was wrong.
    wanted = frozenset(_ranks(choose, packets.count).tolist())
    run = _read(path, wanted, resize)
    ranks = _ranks(choose, len(run.times))
    _refuse_outside(path, ranks, len(run.times))
    chosen = ranks.tolist()
    if not run.pictures.keys() >= set(chosen):
        run = _read(path, frozenset(chosen), resize)
    return _stack(path, [run.pictures[rank] for rank in chosen], run, resize)


def _refuse_outside(path: str | os.PathLike, ranks: np.ndarray, count: int) -> None:
    if ranks.size and (ranks.min() < 0 or ranks.max() >= count):
        asked = ranks.min() if ranks.min() < 0 else ranks.max()
        raise VideoError(
            path,
            f"frame {asked} was asked for and it has {count}",
            f"choose indices from 0 to {count - 1}",
        )


def _stack(
    path: str | os.PathLike, pictures: Sequence[np.ndarray], run: Reading, resize: Resize
) -> tuple[np.ndarray, VideoInfo]:
    shapes = {chosen.shape for chosen in pictures}
    if len(shapes) > 1:
        raise VideoError(path, f"its frames have {len(shapes)} sizes", "give a size to resize to")
    height, width = resize.target(run.height, run.width)
    stacked = np.stack(pictures) if pictures else np.zeros((0, height, width, 3), np.uint8)
    return stacked, run.info()


def _ranks(choose: Choice, length: int) -> np.ndarray:
    """Returns the chosen indices for a video of `length` frames, (n,) int64."""
    chosen = choose(max(length, 1)) if callable(choose) else choose
    return np.asarray(chosen, dtype=np.int64).reshape(-1)


def _read(
    path: str | os.PathLike,
    keep: frozenset[int],
    resize: Resize | None = None,
) -> Reading:
    """Decodes the whole file and keeps the pictures of the ranks `keep`."""
    reading = Reading(path)
    for rank, frame in enumerate(in_full(reading)):
        if rank in keep:
            shown = reading.rgb(frame)
            reading.pictures[rank] = resize.apply(shown) if resize else shown
    return reading


def _read_chosen(
    path: str | os.PathLike,
    packets: Packets,
    ranks: frozenset[int],
    resize: Resize,
) -> Reading | None:
    """Decodes only the data that the frames of these ranks need.

    Returns:
        The reading with pictures by rank. None if the file is damaged or a frame differs from what
        the packets announce; then the whole file must be decoded.
    """
    reading = Reading(path)
    try:
        for rank, frame in by_packets(reading, packets, ranks):
            reading.pictures[rank] = resize.apply(reading.rgb(frame))
    except PacketMismatch:
        return None
    return reading
