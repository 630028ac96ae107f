"""One decoding pass over a file: its frames and the properties of the file."""

import dataclasses
import os
from collections.abc import Collection, Iterator

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import ColorTrc
from av.video.stream import VideoStream

from dagr_jax.video.index import Packets, mean_fps
from dagr_jax.video.stream import (
    Limits,
    Packet,
    VideoError,
    clockwise,
    decoded,
    open_stream,
    orientation,
)

# FFmpeg's names of the matrices from YUV to RGB (AVColorSpace).
_COLOR_SPACES = {
    0: "gbr",
    1: "bt709",
    4: "fcc",
    5: "bt470bg",
    6: "smpte170m",
    7: "smpte240m",
    9: "bt2020nc",
    10: "bt2020c",
    14: "ictcp",
}
_HDR = {ColorTrc.SMPTE2084: "pq", ColorTrc.ARIB_STD_B67: "hlg"}


@dataclasses.dataclass(frozen=True)
class VideoInfo:
    """Properties of a video file.

    Attributes:
        path: Path of the file, as given by the caller.
        width: Display width in pixels, after rotation.
        height: Display height in pixels, after rotation.
        rotation: Clockwise rotation of stored pictures for display: 0, 90, 180 or 270 degrees.
        num_frames: Number of frames that can be decoded.
        fps: Mean frames per second over the presentation times; 0: unknown.
        duration: Duration in seconds, num_frames / fps; 0 if fps is unknown.
        codec: FFmpeg's name of the codec, such as 'h264'.
        pix_fmt: FFmpeg's name of the stored pixel format, such as 'yuv420p'.
        color_space: FFmpeg's name of the colour matrix, such as 'bt709'; '' if the file has none.
        bit_rate: Bits per second of the video stream, from the sizes of its packets; 0 if fps is
            unknown.
        bit_depth: Bits per stored sample.
        hdr: 'pq' or 'hlg' if the file has one of these transfer functions, else ''.
        damaged: Number of packets that could not be read or decoded, plus packets and frames that
            are marked as corrupt, among the decoded ones.
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
    color_space: str
    bit_rate: float
    bit_depth: int
    hdr: str
    damaged: int

    @classmethod
    def of_frames(cls, count: int, height: int, width: int) -> "VideoInfo":
        """Makes the properties of frames that do not come from a file."""
        return cls("", width, height, 0, count, 0.0, 0.0, "", "rgb24", "gbr", 0.0, 8, "", 0)


@dataclasses.dataclass
class Reading:
    """Results of one decoding pass over a file.

    Attributes:
        path: Path of the file.
        times: Presentation time of each decoded frame, in the decoder's output order.
        pictures: Pictures that the caller keeps, by decoder position or by rank.
        codec: FFmpeg's name of the codec.
        pix_fmt: FFmpeg's name of the stored pixel format.
        color_space: FFmpeg's name of the colour matrix; '' if the file has none.
        bit_depth: Bits per stored sample.
        hdr: 'pq', 'hlg' or ''.
        height: Display height in pixels.
        width: Display width in pixels.
        rotation: Clockwise rotation for display in degrees.
        nominal_fps: Frame rate declared by the container; 0: none.
        time_base: Unit of the times in seconds.
        packet_bytes: Total size of the packets in bytes.
        damaged: Number of damaged packets and frames.
    """

    path: str | os.PathLike[str]
    times: list[int | None] = dataclasses.field(default_factory=list)
    pictures: dict[int, np.ndarray] = dataclasses.field(default_factory=dict)
    codec: str = ""
    pix_fmt: str = ""
    color_space: str = ""
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
        """Records the display properties of the file, from its first frame."""
        swap, flip_x, flip_y = orientation(frame)
        self.height, self.width = frame.height, frame.width
        if swap:
            self.height, self.width = frame.width, frame.height
        self.rotation = clockwise(swap, flip_x, flip_y)
        self.pix_fmt = frame.format.name
        self.color_space = _COLOR_SPACES.get(int(frame.colorspace), "")
        self.bit_depth = max(component.bits for component in frame.format.components)
        self.hdr = _HDR.get(ColorTrc(frame.color_trc), "")

    def order(self) -> np.ndarray:
        """Returns the decoder position of each presentation rank, (num_frames,)."""
        times = [time for time in self.times if time is not None]
        if len(times) < len(self.times):
            return np.arange(len(self.times))
        return np.argsort(np.asarray(times, np.int64), kind="stable")

    def seconds(self) -> list[float]:
        """Returns presentation times in s, sorted; from the frame rate if times are missing."""
        times = [time for time in self.times if time is not None]
        if len(times) < len(self.times) or not self.time_base:
            return [number / (self.nominal_fps or 25.0) for number in range(len(self.times))]
        return [time * self.time_base for time in sorted(times)]

    def info(self) -> VideoInfo:
        count = len(self.times)
        fps = mean_fps(self.times, self.time_base, self.nominal_fps)
        duration = count / fps if fps > 0 else 0.0
        return VideoInfo(
            path=os.fspath(self.path),
            width=self.width,
            height=self.height,
            rotation=self.rotation,
            num_frames=count,
            fps=fps,
            duration=duration,
            codec=self.codec,
            pix_fmt=self.pix_fmt,
            color_space=self.color_space,
            bit_rate=8 * self.packet_bytes / duration if duration > 0 else 0.0,
            bit_depth=self.bit_depth,
            hdr=self.hdr,
            damaged=self.damaged,
        )


class PacketMismatch(Exception):
    """The decoded frames differ from what the packets announce. The whole file must be decoded."""


def in_full(reading: Reading, limits: Limits | None = None) -> Iterator[VideoFrame]:
    """Decodes the whole file and records its properties in the reading.

    Args:
        reading: Reading to fill.
        limits: Limits on the video; None: no limits.

    Yields:
        Every frame, in the decoder's output order.

    Raises:
        VideoError: The file cannot be opened, it exceeds the limits, or (at the end) no frame could
            be decoded.
    """
    with open_stream(reading.path, limits) as (container, stream):
        reading.note_stream(stream)
        for item in decoded(container, stream):
            if isinstance(item, Packet):
                reading.packet_bytes += item.size
                reading.damaged += item.damaged
                continue
            if not reading.times:
                reading.note_frame(item)
            reading.damaged += item.is_corrupt
            reading.times.append(item.pts)
            if limits is not None and reading.nominal_fps:
                limits.check_seconds(reading.path, len(reading.times) / reading.nominal_fps)
            yield item
    if not reading.times:
        raise VideoError(reading.path, "no frame of it decodes", "give a video file that plays")


def by_packets(
    reading: Reading, packets: Packets, ranks: Collection[int], limits: Limits | None = None
) -> Iterator[tuple[int, VideoFrame]]:
    """Decodes the frames of given ranks, and only the data that they need.

    Args:
        reading: Reading to fill; its times are those of the packets.
        packets: Packets of the file, with `packets.tell` True.
        ranks: Ranks of the frames in presentation order.
        limits: Limits on the video; None: no limits.

    Yields:
        (rank, frame).

    Raises:
        PacketMismatch: The file is damaged, or a frame differs from what the packets announce.
    """
    reading.times = [packets.times[i] for i in packets.shown.tolist()]
    reading.packet_bytes = packets.bytes
    missing = {reading.times[rank]: rank for rank in ranks}
    # Decode the first frame too: the display properties come from it.
    chosen = {int(packets.shown[rank]) for rank in (*ranks, 0)}
    with open_stream(reading.path, limits) as (container, stream):
        reading.note_stream(stream)
        numbered = enumerate(packet for packet in container.demux(stream) if packet.size)
        try:
            for first, last in packets.spans(chosen):
                promised = {packets.times[i] for i in range(first, last + 1)}
                for frame in _span(numbered, stream, first, last, chosen):
                    if frame.is_corrupt or frame.pts not in promised:
                        raise PacketMismatch
                    if not reading.height:
                        reading.note_frame(frame)
                    if frame.pts in missing:
                        yield missing.pop(frame.pts), frame
        except av.FFmpegError as error:
            raise PacketMismatch from error
    if missing or not reading.height:
        raise PacketMismatch


def _span(
    numbered: Iterator[tuple[int, av.Packet]],
    stream: VideoStream,
    first: int,
    last: int,
    chosen: Collection[int],
) -> Iterator[VideoFrame]:
    """Decodes packets first … last and yields their frames; skips the packets before `first`."""
    for number, packet in numbered:
        if number >= first:
            # Skip frames that are not chosen and to which no other frame refers.
            stream.codec_context.skip_frame = "DEFAULT" if number in chosen else "NONREF"
            yield from stream.codec_context.decode(packet)
        if number == last:
            break
    yield from stream.codec_context.decode(None)
    stream.codec_context.flush_buffers()
