"""Index of a file's packets, without decoding: which packets a chosen frame needs."""

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import av
import numpy as np

from dagr_jax.video.clock import Clock, Timeline, declared_rate, playing_begins
from dagr_jax.video.stream import Length, Limits, open_stream, packets_of

# Codecs with exactly one shown frame per packet. (VP8, for example, has packets of hidden frames.)
ONE_FRAME_A_PACKET = {"h264", "hevc", "vp9", "av1", "mjpeg", "prores", "rawvideo"}


@dataclass(frozen=True)
class Packets:
    """The packets of a video stream, in decoding order.

    Attributes:
        times: Presentation time of each packet, in units of `time_base`; None if it has none.
        keys: For each packet, whether decoding can start there (key frame).
        hidden: For each packet, whether an edit list hides its frame.
        bytes: Total size of the packets in bytes.
        whole: Whether the file could be read to its end and no packet is corrupt.
        codec: FFmpeg's name of the codec.
        time_base: Unit of the times in seconds.
        nominal_fps: Frame rate declared by the container; 0: none.
        begins: When the file begins to play, in s on its clock; NaN: unknown.
        jumps: Number of jumps that were taken out of the clock.
    """

    times: tuple[int | None, ...]
    keys: tuple[bool, ...]
    hidden: tuple[bool, ...]
    bytes: int
    whole: bool
    codec: str
    time_base: float = 0.0
    nominal_fps: float = 0.0
    begins: float = math.nan
    jumps: int = 0

    @property
    def count(self) -> int:
        """Number of shown frames, if every packet has one frame."""
        return len(self.hidden) - sum(self.hidden)

    @cached_property
    def shown(self) -> np.ndarray:
        """(count,) indices of the packets with shown frames, sorted by presentation time."""
        numbers = np.flatnonzero(~np.array(self.hidden, bool))
        times = np.array([self.times[i] for i in numbers.tolist()], np.int64)
        return numbers[np.argsort(times, kind="stable")]

    @cached_property
    def timeline(self) -> Timeline:
        """When the shown frames are shown, as far as the packets tell."""
        times = [t for t, hidden in zip(self.times, self.hidden, strict=True) if not hidden]
        if None not in times:
            times.sort()  # packets are in decoding order
        return Timeline.of(times, self.time_base, self.nominal_fps, self.begins)

    @cached_property
    def tell(self) -> bool:
        """Whether frames can be chosen from the packets, without decoding the whole file."""
        if not self.whole or self.codec not in ONE_FRAME_A_PACKET or not self.count:
            return False
        if None in self.times or not self.keys[0] or self.hidden[0]:
            return False
        times = np.array(self.times, np.int64)
        shown = times[~np.array(self.hidden, bool)]
        if len(np.unique(shown)) < len(shown):
            return False
        # Every frame that is decoded before a key frame must be shown before it. Otherwise the
        # clock goes back. No frame may be shown before the first key frame: decoders drop these.
        latest = np.maximum.accumulate(times)[:-1]
        keys = np.flatnonzero(self.keys)[1:]
        return bool(shown.min() == times[0] and (latest[keys - 1] < times[keys]).all())

    def spans(self, chosen: Iterable[int]) -> list[tuple[int, int]]:
        """Returns the packets to decode for the frames of chosen packets.

        Each span starts at the last key frame that comes before the chosen frame both in decoding
        order and in presentation order. A frame that is decoded after a key frame but shown before
        it also needs the previous key frame.

        Args:
            chosen: Indices of the chosen packets.

        Returns:
            (first, last) packets of each span, in order.
        """
        times = np.array(self.times, np.int64)
        keys = np.flatnonzero(self.keys)
        spans: list[tuple[int, int]] = []
        for number in sorted(chosen):
            before = keys[keys <= number]
            first = int(before[times[before] <= times[number]][-1])
            # Merge the span with earlier spans that it touches or overlaps.
            while spans and first <= spans[-1][1] + 1:
                first = min(first, spans.pop()[0])
            spans.append((first, number))
        return spans


def read_packets(path: str | os.PathLike[str], limits: Limits | None = None) -> Packets:
    """Reads the packets of a file without decoding them.

    Args:
        path: Video file.
        limits: Limits on the video; None: no limits.

    Raises:
        VideoError: The file is missing, unreadable or not a video, or exceeds the limits.
    """
    times, keys, hidden, total = [], [], [], 0
    with open_stream(path, limits) as (container, stream):
        whole, base = True, float(stream.time_base or 0)
        length = Length(path, limits, base, 0.0)
        clock = Clock(container, stream)
        try:
            for packet in packets_of(container, stream, clock):
                times.append(packet.pts)
                keys.append(packet.is_keyframe)
                hidden.append(packet.is_discard)
                total += packet.size
                whole &= not packet.is_corrupt
                length.add(packet.dts)
        except av.FFmpegError:
            whole = False
        codec = stream.codec_context.codec.canonical_name
        rate, begins = declared_rate(stream), playing_begins(container, stream)
    return Packets(
        times=tuple(times),
        keys=tuple(keys),
        hidden=tuple(hidden),
        bytes=total,
        whole=whole,
        codec=codec,
        time_base=base,
        nominal_fps=rate,
        begins=begins,
        jumps=clock.jumps,
    )
