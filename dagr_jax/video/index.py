"""What a file's packets tell without decoding: which must be decoded to see a chosen frame."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import av
import numpy as np

from dagr_jax.video.stream import Limits, open_stream

# Codecs whose packets hold one shown frame each; VP8's hidden frames, for one, are packets too.
_ONE_FRAME_A_PACKET = {"h264", "hevc", "vp9", "av1", "mjpeg", "prores", "rawvideo"}


def mean_fps(times: Sequence[int | None], time_base: float, nominal: float) -> float:
    """Frames per second of frames shown at these times; the nominal rate where they do not tell."""
    known = [time for time in times if time is not None]
    span = (max(known) - min(known)) * time_base if known and len(known) == len(times) else 0.0
    return (len(times) - 1) / span if span > 0 else nominal


@dataclass(frozen=True)
class Packets:
    """The packets of a video stream, in the order of decoding.

    Attributes:
        times: Presentation time of each, in units of the stream; None where it has none.
        keys: Whether decoding can begin there.
        hidden: Whether an edit list hides its frame.
        bytes: Their sizes, summed.
        whole: Whether the file could be read to its end, and no packet is cut.
        codec: FFmpeg's name of it.
        time_base: Seconds of a unit of time.
        nominal_fps: What the container says, 0 if nothing.
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
        """Frames that are shown, if every packet holds one."""
        return len(self.hidden) - sum(self.hidden)

    @cached_property
    def shown(self) -> np.ndarray:
        """Numbers of the packets whose frames are shown, by presentation time, (count,)."""
        numbers = np.flatnonzero(~np.array(self.hidden, bool))
        times = np.array([self.times[i] for i in numbers.tolist()], np.int64)
        return numbers[np.argsort(times, kind="stable")]

    @property
    def seconds(self) -> list[float]:
        """When each frame is shown, in that order; none where a packet has no time."""
        times = [t for t, hidden in zip(self.times, self.hidden, strict=True) if not hidden]
        known = [time * self.time_base for time in times if time is not None]
        return sorted(known) if len(known) == len(times) else []

    @property
    def fps(self) -> float:
        """Mean frames per second over the presentation times; 0 if nothing tells."""
        times = [t for t, hidden in zip(self.times, self.hidden, strict=True) if not hidden]
        return mean_fps(times, self.time_base, self.nominal_fps)

    @cached_property
    def tell(self) -> bool:
        """Whether frames can be chosen by the packets alone, without decoding all of them."""
        if not self.whole or self.codec not in _ONE_FRAME_A_PACKET or not self.count:
            return False
        times = [
            t
            for t, hidden in zip(self.times, self.hidden, strict=True)
            if t is not None and not hidden
        ]
        if None in self.times or not self.keys[0] or self.hidden[0]:
            return False
        # Before the first key frame nothing can be shown: a decoder drops what was cut off there.
        return len(set(times)) == len(times) and min(times) == self.times[0]

    def spans(self, chosen: Iterable[int]) -> list[tuple[int, int]]:
        """What to decode for the frames of some packets: (first, last) packets, in order.

        Each span begins at the last key frame that is neither decoded nor shown after the chosen
        one: frames that are shown before the key frame they follow need the one before it too.
        """
        times = np.array(self.times, np.int64)
        keys = np.flatnonzero(self.keys)
        spans: list[tuple[int, int]] = []
        for number in sorted(chosen):
            before = keys[keys <= number]
            first = int(before[times[before] <= times[number]][-1])
            # What touches or reaches back into earlier spans is one with them.
            while spans and first <= spans[-1][1] + 1:
                first = min(first, spans.pop()[0])
            spans.append((first, number))
        return spans


def read_packets(path: str | os.PathLike[str], limits: Limits | None = None) -> Packets:
    """Reads a file without decoding it.

    Raises:
        VideoError: As `stream.open_stream`.
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
