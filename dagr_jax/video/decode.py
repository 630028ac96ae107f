"""Video files to RGB frames with PyAV: chosen frames only, memory bounded by what was chosen.

Rules, the same for every function here:

* A frame's index is its rank by presentation time among the frames that the decoder gives out;
  where a time is missing, the order in which the decoder gives them out (it reorders B-frames).
* The number of frames is counted by decoding. What the container promises is never trusted: edit
  lists hide frames, and of a cut file only the part that decodes counts.
* Pictures are turned and mirrored as the display matrix says, in quarter turns. Pixel aspect
  ratio is not applied (the release resizes to one fixed size whatever the aspect), and neither is
  HDR tone mapping; more than 8 bits a sample are reduced to 8.
* One thread decodes a file: with several, FFmpeg loses frames at a damaged packet and conceals the
  rest differently from run to run. Whoever has many files decodes them in parallel processes.
"""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence

import av
import numpy as np
from av.container import InputContainer
from av.sidedata.sidedata import SideData
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange
from av.video.stream import VideoStream

from dagr_jax.video.resize import resize_bilinear
from dagr_jax.video.sampling import sample_indices

Size = tuple[int, int]
Choice = Sequence[int] | np.ndarray | Callable[[int], Sequence[int] | np.ndarray]

# FFmpeg draws text files as pictures of a terminal; a score of those would mean nothing.
_TEXT_CODECS = {"ansi", "bintext", "xbin", "idf"}
_ITER_CHUNK = 16  # frames held at once where a file must be read again to sort its frames


class VideoError(ValueError):
    """A file that cannot be used as a video; one line: ``<file>: <what is wrong>; <mend>``."""

    def __init__(self, path: str | os.PathLike, problem: str, mend: str):
        super().__init__(f"{os.fspath(path)}: {problem}; {mend}")
        self.problem = problem


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
        damaged: packets that could not be read or decoded plus frames marked as corrupt.
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
        with _open(path) as (container, stream):
            for item in _decoded(container, stream):
                if isinstance(item, VideoFrame):
                    yield _picture(item, size, antialias)
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
    # Ranks are certain only after the last frame. So guess from the packets, which are cheap to
    # count, keep what the guess asks for, and read again in the rare case that it was wrong.
    wanted = frozenset(_ranks(choose, _count_packets(path)).tolist())
    run = _read(path, wanted, size, antialias)
    ranks = _ranks(choose, len(run.times))
    if ranks.size and (ranks.min() < 0 or ranks.max() >= len(run.times)):
        asked = ranks.min() if ranks.min() < 0 else ranks.max()
        raise VideoError(
            path,
            f"frame {asked} was asked for and it has {len(run.times)}",
            f"choose indices from 0 to {len(run.times) - 1}",
        )
    positions = run.order()[ranks].tolist()
    if not run.pictures.keys() >= set(positions):
        run = _read(path, frozenset(positions), size, antialias)
    pictures = [run.pictures[position] for position in positions]
    shapes = {picture.shape for picture in pictures}
    if len(shapes) > 1:
        raise VideoError(path, f"its frames have {len(shapes)} sizes", "give a size to resize to")
    height, width = size or (run.height, run.width)
    return np.stack(pictures) if pictures else np.zeros((0, height, width, 3), np.uint8), run.info()


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
    height: int = 0
    width: int = 0
    rotation: int = 0
    nominal_fps: float = 0.0
    time_base: float = 0.0
    packet_bytes: int = 0
    damaged: int = 0

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
    with _open(path) as (container, stream):
        rate = stream.average_rate or stream.guessed_rate
        run.nominal_fps = float(rate) if rate else 0.0
        run.codec = stream.codec_context.codec.canonical_name
        run.time_base = float(stream.time_base) if stream.time_base else 0.0
        for item in _decoded(container, stream):
            if isinstance(item, _Packet):
                run.packet_bytes += item.size
                run.damaged += item.refused
                continue
            if not run.times:
                swap, flip_x, flip_y = _orientation(item)
                run.height, run.width = item.height, item.width
                if swap:
                    run.height, run.width = item.width, item.height
                run.rotation = _clockwise(swap, flip_x, flip_y)
                run.pix_fmt = item.format.name
                run.bit_depth = max(component.bits for component in item.format.components)
            if len(run.times) in keep:
                run.pictures[len(run.times)] = _picture(item, size, antialias)
            run.damaged += item.is_corrupt
            run.times.append(item.pts)
    if not run.times:
        raise VideoError(path, "no frame of it decodes", "give a video file that plays")
    return run


@dataclasses.dataclass(frozen=True)
class _Packet:
    """A packet on its way through the decoder."""

    size: int
    refused: bool


@contextlib.contextmanager
def _open(path: str | os.PathLike) -> Iterator[tuple[InputContainer, VideoStream]]:
    """The container and the video stream that a player would show."""
    name = os.fspath(path)
    if not os.path.exists(name):
        raise VideoError(path, "there is no such file", "check the path")
    if not os.path.isfile(name):
        raise VideoError(path, "it is not a file", "give the path of a video file")
    if os.path.getsize(name) == 0:
        raise VideoError(path, "the file is empty", "copy or download it again")
    try:
        # 'file:' keeps a colon in the name from being read as a protocol; the whitelist keeps a
        # playlist from reaching for the network.
        container = av.open(f"file:{name}", options={"protocol_whitelist": "file"})
    except PermissionError as error:
        raise VideoError(path, "it may not be read", "change its permissions") from error
    except av.FFmpegError as error:
        raise VideoError(
            path, f"FFmpeg cannot read it ({error.strerror})", "give a video file that plays"
        ) from error
    with container:
        streams = [
            stream
            for stream in container.streams.video
            if not stream.disposition & Disposition.attached_pic  # the cover of a sound file
        ]
        best = container.streams.best("video")
        stream = best if best in streams else next(iter(streams), None)
        if stream is None:
            raise VideoError(path, "it holds no video stream", "give a file with pictures")
        if stream.codec_context is None:
            raise VideoError(path, "its video codec is unknown", "re-encode it, as H.264")
        if stream.codec_context.name in _TEXT_CODECS:
            raise VideoError(path, "it is text, not video", "give a video file")
        stream.codec_context.thread_count = 1
        yield container, stream


def _count_packets(path: str | os.PathLike) -> int:
    """Packets that an edit list does not hide: a cheap guess of the number of frames."""
    count = 0
    with _open(path) as (container, stream), contextlib.suppress(av.FFmpegError):
        for packet in container.demux(stream):
            count += packet.size > 0 and not packet.is_discard
    return count


def _decoded(container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame | _Packet]:
    """Everything that decodes, in the decoder's order, with a note of each packet."""
    # An empty packet would flush the decoder; some containers hold them between full ones.
    packets = (packet for packet in container.demux(stream) if packet.size)
    reading = True
    while reading:
        packet, refused = None, False
        frames: list[VideoFrame] = []
        try:
            packet = next(packets, None)  # after a read error: None, the end of what is readable
            reading = packet is not None
            frames = stream.codec_context.decode(packet)  # None flushes
        except av.FFmpegError as error:
            if isinstance(error, MemoryError):
                raise
            refused = True
        yield _Packet(packet.size if packet else 0, refused)
        yield from frames


def _orientation(frame: VideoFrame) -> tuple[bool, bool, bool]:
    """How a stored picture is turned for display: swap the axes, then mirror x, then mirror y."""
    data = frame.side_data.get("DISPLAYMATRIX")
    if not isinstance(data, SideData):
        return False, False, False
    # FFmpeg's matrix (libavutil/display.h) sends a stored (x, y) to (a x + c y, b x + d y). Odd
    # angles, which no camera writes, go to the nearest quarter turn.
    a, b, _, c, d = (int(value) for value in np.frombuffer(bytes(data), "=i4")[:5])
    if abs(b) + abs(c) > abs(a) + abs(d):
        return True, c < 0, b < 0
    return False, a < 0, d < 0


def _clockwise(swap: bool, flip_x: bool, flip_y: bool) -> int:
    """Clockwise degrees of an orientation, a mirror image counting as its unmirrored turn."""
    if swap:
        return 270 if flip_y else 90
    return 180 if flip_y else 0


def _picture(frame: VideoFrame, size: Size | None, antialias: bool) -> np.ndarray:
    """A frame as it is displayed, RGB uint8 (height, width, 3)."""
    # swscale's default path, without ACCURATE_RND: what OpenCV and decord give, and so the release.
    rgb = frame.reformat(format="rgb24", dst_color_range=ColorRange.JPEG, threads=1).to_ndarray()
    swap, flip_x, flip_y = _orientation(frame)
    if swap:
        rgb = rgb.transpose(1, 0, 2)
    rgb = rgb[:: -1 if flip_y else 1, :: -1 if flip_x else 1]
    if size is None:
        return np.ascontiguousarray(rgb)
    return resize_bilinear(rgb, size, antialias=antialias)
