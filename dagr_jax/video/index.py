"""Index of a file's packets, without decoding: which packets a chosen frame needs."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import av
import numpy as np

from dagr_jax.video.stream import Limits, open_stream

# Codecs with exactly one shown frame per packet. (VP8, for example, has packets of hidden frames.)
_ONE_FRAME_A_PACKET = {"h264", "hevc", "vp9", "av1", "mjpeg", "prores", "rawvideo"}


def mean_fps(times: Sequence[int | None], time_base: float, nominal: float) -> float:
    """Computes the mean frame rate from presentation times.

    Args:
        times: Presentation time of each frame, in units of `time_base`; None: unknown.
        time_base: Unit of the times in seconds.
        nominal: Frame rate to return if a time is missing or all times are equal.

    Returns:
        Frames per second.
    """
    known = [time for time in times if time is not None]
    span = (max(known) - min(known)) * time_base if known and len(known) == len(times) else 0.0
    return (len(times) - 1) / span if span > 0 else nominal


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
    """

    times: tuple[int | None, ...]
    keys: tuple[bool, ...]
    hidden: tuple[bool, ...]
    bytes: int
    whole: bool
    codec: str
    time_base: float = 0.0
    nominal_fps: float = 0.0

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

    @property
    def seconds(self) -> list[float]:
        """Sorted presentation times of the shown frames in s; empty if a packet has no time."""
        times = [t for t, hidden in zip(self.times, self.hidden, strict=True) if not hidden]
        known = [time * self.time_base for time in times if time is not None]
        return sorted(known) if len(known) == len(times) else []

    @property
    def fps(self) -> float:
        """Mean frame rate over the presentation times, in frames per second; 0 if unknown."""
        times = [t for t, hidden in zip(self.times, self.hidden, strict=True) if not hidden]
        return mean_fps(times, self.time_base, self.nominal_fps)

    @cached_property
    def tell(self) -> bool:
        """Whether frames can be chosen from the packets, without decoding the whole file."""
        if not self.whole or self.codec not in _ONE_FRAME_A_PACKET or not self.count:
            return False
        times = [
            t
            for t, hidden in zip(self.times, self.hidden, strict=True)
            if t is not None and not hidden
        ]
        if None in self.times or not self.keys[0] or self.hidden[0]:
            return False
        # No frame may be shown before the first key frame: decoders drop such frames.
        return len(set(times)) == len(times) and min(times) == self.times[0]

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
        whole = True
        try:
            for packet in container.demux(stream):
                if packet.size:
                    times.append(packet.pts)
                    keys.append(packet.is_keyframe)
                    hidden.append(packet.is_discard)
                    total += packet.size
                    whole &= not packet.is_corrupt
        except av.FFmpegError:
            whole = False
        codec = stream.codec_context.codec.canonical_name
        base, rate = float(stream.time_base or 0), stream.average_rate or stream.guessed_rate
    return Packets(
        tuple(times), tuple(keys), tuple(hidden), total, whole, codec, base, float(rate or 0)
    )
