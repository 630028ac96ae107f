"""One decoding pass over a file: its frames and the properties of the file."""

import dataclasses
import math
import os
from collections.abc import Collection, Iterator

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import ColorTrc
from av.video.stream import VideoStream

from dagr_jax.video.clock import Clock, Timeline, declared_rate, note_of, playing_begins
from dagr_jax.video.display import COLOR_SPACES, Display, unconverted
from dagr_jax.video.index import ONE_FRAME_A_PACKET, Packets
from dagr_jax.video.matroska import Crop, crop_of
from dagr_jax.video.stream import (
    Length,
    Limits,
    Packet,
    VideoError,
    check_damage,
    decoded,
    open_stream,
    packets_of,
)

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
        fps: Usual number of frames per second (`Timeline.fps`); 0: unknown.
        duration: Seconds from the first frame to the end of the last one; 0: unknown.
        codec: FFmpeg's name of the codec, such as 'h264'.
        pix_fmt: FFmpeg's name of the stored pixel format, such as 'yuv420p'.
        color_space: FFmpeg's name of the colour matrix, such as 'bt709'; '' if the file has none.
        bit_rate: Bits per second of the video stream, from the sizes of its packets; 0 if the
            duration is unknown.
        bit_depth: Bits per stored sample.
        hdr: 'pq' or 'hlg' if the file has one of these transfer functions, else ''.
        damaged: Number of packets that could not be read or decoded, plus packets and frames that
            are marked as corrupt, among the decoded ones.
        notes: What was unusual in the file and how it was treated, separated by "; "; "" if
            nothing was.
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
    notes: str = ""

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
        decoded: Decoding time of each decoded frame.
        pictures: Pictures that the caller keeps, by rank.
        display: How the frames are shown; None before the first frame.
        codec: FFmpeg's name of the codec.
        pix_fmt: FFmpeg's name of the stored pixel format.
        color_space: FFmpeg's name of the colour matrix; '' if the file has none.
        bit_depth: Bits per stored sample.
        hdr: 'pq', 'hlg' or ''.
        height: Display height in pixels.
        width: Display width in pixels.
        nominal_fps: Frame rate declared by the container; 0: none.
        time_base: Unit of the times in seconds.
        begins: When the file begins to play, in s on its clock; NaN: unknown.
        crop: Crop in the header of the file.
        packet_bytes: Total size of the packets in bytes.
        damaged: Number of damaged packets and frames.
        jumps: Number of jumps that were taken out of the clock of the stream.
        notes: What was unusual in the frames.
    """

    path: str | os.PathLike[str]
    times: list[int | None] = dataclasses.field(default_factory=list)
    decoded: list[int | None] = dataclasses.field(default_factory=list)
    pictures: dict[int, np.ndarray] = dataclasses.field(default_factory=dict)
    display: Display | None = None
    codec: str = ""
    pix_fmt: str = ""
    color_space: str = ""
    bit_depth: int = 8
    hdr: str = ""
    height: int = 0
    width: int = 0
    nominal_fps: float = 0.0
    time_base: float = 0.0
    begins: float = math.nan
    crop: Crop = Crop()
    packet_bytes: int = 0
    damaged: int = 0
    jumps: int = 0
    notes: list[str] = dataclasses.field(default_factory=list)

    def note_stream(self, container: InputContainer, stream: VideoStream) -> Clock:
        """Records the properties of the stream, and returns its clock."""
        self.nominal_fps = declared_rate(stream)
        self.codec = stream.codec_context.codec.canonical_name
        self.time_base = float(stream.time_base) if stream.time_base else 0.0
        self.begins = playing_begins(container, stream)
        if "matroska" in container.format.name and os.path.isfile(self.path):
            self.crop = crop_of(self.path)
        return Clock(container, stream)

    def note_frame(self, frame: VideoFrame) -> None:
        """Records the display properties of the file, from its first frame."""
        if self.display is not None:
            return
        self.display = Display.of(frame, self.crop)
        self.height, self.width = self.display.size(frame)
        self.pix_fmt = frame.format.name
        self.color_space = COLOR_SPACES.get(int(frame.colorspace), "")
        self.bit_depth = max(component.bits for component in frame.format.components)
        self.hdr = _HDR.get(ColorTrc(frame.color_trc), "")
        if unconverted(frame):
            told = self.color_space or str(int(frame.colorspace))
            self.notes.append(f"its colour matrix ({told}) is not supported: read as untagged")

    def rgb(self, frame: VideoFrame) -> np.ndarray:
        """Converts a frame, (height, width, 3) uint8 RGB as the file is shown."""
        assert self.display is not None  # the first frame has been noted
        return self.display.rgb(frame)

    @property
    def timeline(self) -> Timeline:
        """When the decoded frames are shown."""
        return Timeline.of(self.times, self.time_base, self.nominal_fps, self.begins, self.decoded)

    def info(self) -> VideoInfo:
        timeline = self.timeline
        notes = [*self.notes, *filter(None, [note_of(self.jumps), timeline.note])]
        return VideoInfo(
            path=os.fspath(self.path),
            width=self.width,
            height=self.height,
            rotation=self.display.rotation if self.display else 0,
            num_frames=len(self.times),
            fps=timeline.fps,
            duration=timeline.duration,
            codec=self.codec,
            pix_fmt=self.pix_fmt,
            color_space=self.color_space,
            bit_rate=8 * self.packet_bytes / timeline.duration if timeline.duration else 0.0,
            bit_depth=self.bit_depth,
            hdr=self.hdr,
            damaged=self.damaged,
            notes="; ".join(notes),
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
            be decoded, or more than `stream.DAMAGE` of the pictures are damaged.
    """
    with open_stream(reading.path, limits) as (container, stream):
        clock = reading.note_stream(container, stream)
        length = Length(reading.path, limits, reading.time_base, reading.nominal_fps)
        sent = 0
        for item in decoded(container, stream, clock):
            if isinstance(item, Packet):
                reading.packet_bytes += item.size
                reading.damaged += item.damaged
                # Before the first key frame there is nothing to decode with.
                sent += item.shown and (item.key or sent > 0)
                continue
            reading.note_frame(item)
            reading.damaged += item.is_corrupt
            reading.times.append(item.pts)
            reading.decoded.append(item.dts)
            length.add(item.pts)
            yield item
        reading.jumps = clock.jumps
    if not reading.times:
        raise VideoError(reading.path, "no frame of it decodes", "give a video file that plays")
    if reading.codec in ONE_FRAME_A_PACKET:
        # Some decoders give nothing, not an error. (An interlaced frame may be two packets.)
        reading.damaged = max(reading.damaged, sent - 2 * len(reading.times))
    check_damage(reading.path, reading.damaged, len(reading.times))


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
    reading.packet_bytes, reading.jumps = packets.bytes, packets.jumps
    missing = {reading.times[rank]: rank for rank in ranks}
    # Decode the first frame too: the display properties come from it.
    chosen = {int(packets.shown[rank]) for rank in (*ranks, 0)}
    with open_stream(reading.path, limits) as (container, stream):
        clock = reading.note_stream(container, stream)
        numbered = enumerate(packets_of(container, stream, clock))
        try:
            for first, last in packets.spans(chosen):
                promised = {packets.times[i] for i in range(first, last + 1)}
                latest = -math.inf
                for frame in _span(numbered, stream, first, last, chosen):
                    # The decoder's output order is the truth: times that go back are wrong.
                    if frame.is_corrupt or frame.pts is None or frame.pts not in promised:
                        raise PacketMismatch
                    if frame.pts <= latest:
                        raise PacketMismatch
                    latest = float(frame.pts)
                    reading.note_frame(frame)
                    if frame.pts in missing:
                        yield missing.pop(frame.pts), frame
        except av.FFmpegError as error:
            raise PacketMismatch from error
    if missing or reading.display is None:
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
