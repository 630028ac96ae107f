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

import dataclasses
import os
from collections.abc import Callable, Collection, Iterator, Sequence

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import ColorTrc
from av.video.stream import VideoStream

from dagr_jax.video.index import Packets, read_packets
from dagr_jax.video.sampling import sample_indices
from dagr_jax.video.stream import (
    Packet,
    Size,
    VideoError,
    clockwise,
    decoded,
    open_stream,
    orientation,
    picture,
)

Choice = Sequence[int] | np.ndarray | Callable[[int], Sequence[int] | np.ndarray]

_HDR = {ColorTrc.SMPTE2084: "pq", ColorTrc.ARIB_STD_B67: "hlg"}
_ITER_CHUNK = 16  # frames held at once where a file must be read again to sort its frames


@dataclasses.dataclass(frozen=True)
class VideoInfo:
    """What was found in a file.

    Attributes:
        path: the file, as given.
        width, height: pixels as displayed, after rotation.
        rotation: clockwise degrees by which stored pictures are turned: 0, 90, 180 or 270.
        num_frames: frames that decode.
        fps: mean frames per second over the presentation times (0 if nothing tells).
        duration: seconds, num_frames / fps (0 if fps is unknown).
        codec: FFmpeg's name of the codec, as 'h264'.
        pix_fmt: FFmpeg's name of the stored pixel format, as 'yuv420p'.
        bit_rate: bits per second of the video stream alone, its packets summed (0 without fps).
        bit_depth: bits per stored sample.
        hdr: 'pq' or 'hlg' where the file's transfer function is one of these, else ''.
        damaged: packets that could not be read or decoded plus frames marked as corrupt, of what
            was decoded.
    """

    path: str
    width: int
    height: int
    rotation: int
    num_frames: int
    fps: float
    duration: float
    codec: str
    pix_fmt: str
    bit_rate: float
    bit_depth: int
    hdr: str
    damaged: int


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
        ValueError: unknown rule, or n below 1.
    """
    return _decode(path, lambda length: sample_indices(length, n, rule), size, antialias)


def iter_frames(
    path: str | os.PathLike, size: Size | None = None, *, antialias: bool = False
) -> Iterator[np.ndarray]:
    """Every frame in presentation order, one at a time.

    The file is decoded once more beforehand, for the order; a file whose times contradict the
    decoder's order is read again for every 16 frames, slowly, so that memory stays bounded.

    Yields:
        (height, width, 3) uint8 RGB.

    Raises:
        VideoError: as `decode_frames`, at the first step.
    """
    order = _read(path, frozenset(), None).order()
    if np.array_equal(order, np.arange(len(order))):
        with open_stream(path) as (container, stream):
            for item in decoded(container, stream):
                if isinstance(item, VideoFrame):
                    yield picture(item, size, antialias)
        return
    for start in range(0, len(order), _ITER_CHUNK):
        chunk = order[start : start + _ITER_CHUNK]
        pictures = _read(path, frozenset(chunk.tolist()), size, antialias).pictures
        for position in chunk.tolist():
            yield pictures[position]


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
    path: str | os.PathLike, pictures: Sequence[np.ndarray], run: "_Run", size: Size | None
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


@dataclasses.dataclass
class _Run:
    """One decoding of a whole file: pictures by decoder position, and the facts of the stream."""

    path: str
    pictures: dict[int, np.ndarray] = dataclasses.field(default_factory=dict)
    times: list[int | None] = dataclasses.field(default_factory=list)
    codec: str = ""
    pix_fmt: str = ""
    bit_depth: int = 8
    hdr: str = ""
    height: int = 0
    width: int = 0
    rotation: int = 0
    nominal_fps: float = 0.0
    time_base: float = 0.0
    packet_bytes: int = 0
    damaged: int = 0

    def note_stream(self, stream: VideoStream) -> None:
        rate = stream.average_rate or stream.guessed_rate
        self.nominal_fps = float(rate) if rate else 0.0
        self.codec = stream.codec_context.codec.canonical_name
        self.time_base = float(stream.time_base) if stream.time_base else 0.0

    def note_frame(self, frame: VideoFrame) -> None:
        """How the file is displayed, of its first frame."""
        swap, flip_x, flip_y = orientation(frame)
        self.height, self.width = frame.height, frame.width
        if swap:
            self.height, self.width = frame.width, frame.height
        self.rotation = clockwise(swap, flip_x, flip_y)
        self.pix_fmt = frame.format.name
        self.bit_depth = max(component.bits for component in frame.format.components)
        self.hdr = _HDR.get(ColorTrc(frame.color_trc), "")

    def order(self) -> np.ndarray:
        """Decoder position of every presentation rank, (num_frames,)."""
        times = [time for time in self.times if time is not None]
        if len(times) < len(self.times):
            return np.arange(len(self.times))
        return np.argsort(np.asarray(times, np.int64), kind="stable")

    def info(self) -> VideoInfo:
        count = len(self.times)
        times = [time for time in self.times if time is not None]
        span = (max(times) - min(times)) * self.time_base if len(times) == count else 0.0
        fps = (count - 1) / span if span > 0 else self.nominal_fps
        duration = count / fps if fps > 0 else 0.0
        return VideoInfo(
            path=self.path,
            width=self.width,
            height=self.height,
            rotation=self.rotation,
            num_frames=count,
            fps=fps,
            duration=duration,
            codec=self.codec,
            pix_fmt=self.pix_fmt,
            bit_rate=8 * self.packet_bytes / duration if duration > 0 else 0.0,
            bit_depth=self.bit_depth,
            hdr=self.hdr,
            damaged=self.damaged,
        )


def _read(
    path: str | os.PathLike,
    keep: frozenset[int],
    size: Size | None,
    antialias: bool = False,
) -> _Run:
    """Decodes the whole file and keeps the pictures at the decoder positions ``keep``."""
    run = _Run(os.fspath(path))
    with open_stream(path) as (container, stream):
        run.note_stream(stream)
        for item in decoded(container, stream):
            if isinstance(item, Packet):
                run.packet_bytes += item.size
                run.damaged += item.refused
                continue
            if not run.times:
                run.note_frame(item)
            if len(run.times) in keep:
                run.pictures[len(run.times)] = picture(item, size, antialias)
            run.damaged += item.is_corrupt
            run.times.append(item.pts)
    if not run.times:
        raise VideoError(path, "no frame of it decodes", "give a video file that plays")
    return run


def _read_chosen(
    path: str | os.PathLike,
    packets: Packets,
    ranks: frozenset[int],
    size: Size | None,
    antialias: bool,
) -> _Run | None:
    """Decodes only what the frames of these ranks need; pictures by rank.

    Returns:
        None where anything is not as the packets said, or is damaged: then all must be decoded.
    """
    run = _Run(os.fspath(path), packet_bytes=packets.bytes)
    run.times = [packets.times[i] for i in packets.shown.tolist()]
    rank_of = {run.times[rank]: rank for rank in ranks}
    # The first frame too: it says how the file is displayed.
    chosen = {int(packets.shown[rank]) for rank in (*ranks, 0)}
    spans = packets.spans(chosen)
    with open_stream(path) as (container, stream):
        run.note_stream(stream)
        numbered = enumerate(packet for packet in container.demux(stream) if packet.size)
        try:
            for first, last in spans:
                seen = set()
                for frame in _decoded_span(numbered, stream, first, last, chosen):
                    if frame.is_corrupt:
                        return None
                    if not run.height:
                        run.note_frame(frame)
                    seen.add(frame.pts)
                    if frame.pts in rank_of:
                        rank = rank_of[frame.pts]
                        run.pictures[rank] = picture(frame, size, antialias)
                if not seen <= {packets.times[i] for i in range(first, last + 1)}:
                    return None
        except av.FFmpegError:
            return None
    return run if run.height and run.pictures.keys() == ranks else None


def _decoded_span(
    numbered: Iterator[tuple[int, av.Packet]],
    stream: VideoStream,
    first: int,
    last: int,
    chosen: Collection[int],
) -> Iterator[VideoFrame]:
    """The frames of some packets, the chosen ones among them; those before are not decoded."""
    for number, packet in numbered:
        if number >= first:
            # What no other frame refers to and nobody wants to see need not be decoded.
            stream.codec_context.skip_frame = "DEFAULT" if number in chosen else "NONREF"
            yield from stream.codec_context.decode(packet)
        if number == last:
            break
    yield from stream.codec_context.decode(None)
    stream.codec_context.flush_buffers()
