"""Clocks of files: the times of packets and frames, checked, corrected, or not used.

The order of frames is the output order of the decoder. Times are only evidence for when a frame is
shown. They are treated in two steps:

* `Clock` corrects the times of packets before they are decoded. In a format whose clock may start
  again (MPEG-TS, MPEG-PS), a jump backwards, or a jump forwards of more than `LEAP`, is taken out,
  as FFmpeg's own program does.
* `Timeline` checks the times of the frames. If they go back or are missing, all of them are
  ignored, and the frame rate is used instead.
"""

import dataclasses
import math
from collections.abc import Sequence

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.video.stream import VideoStream

# Forward and backward jumps that are taken out, in seconds: FFmpeg's -dts_delta_threshold, and the
# tolerance in its test of times that go back.
LEAP, _BACK = 10.0, 0.1
# Encoders of sound begin early, by one or two of their blocks of 1,024 samples. In seconds.
_EARLY = 0.1
# Frame rates that are not believed. Containers with a clock of milliseconds announce 1,000 frames
# per second if they do not know the rate.
HIGHEST_RATE = 480.0

_TS_DISCONT = 0x0200  # AVFMT_TS_DISCONT


def declared_rate(stream: VideoStream) -> float:
    """Returns the frame rate that a container declares; 0 if it is missing or not believable."""
    rate = float(stream.average_rate or stream.guessed_rate or 0)
    return rate if rate < HIGHEST_RATE else 0.0


def playing_begins(container: InputContainer, stream: VideoStream) -> float:
    """Returns when a file begins to play: with its first sound or picture.

    Args:
        container: The opened file.
        stream: Its video stream.

    Returns:
        Seconds on the clock of the file; NaN if the stream has no clock.
    """
    starts = [
        float(one.start_time * one.time_base)
        for one in (stream, *container.streams.audio)
        if one.start_time is not None and one.time_base
    ]
    return min(starts) if stream.start_time is not None and starts else math.nan


def note_of(jumps: int) -> str:
    """Returns what a user should know about a clock with some jumps; "" if there are none."""
    return f"its clock jumps ({jumps} x): the jumps were taken out" if jumps else ""


class Clock:
    """Takes the jumps out of the times of a stream's packets.

    Args:
        container: The opened file.
        stream: The stream whose packets are given to `correct`.

    Attributes:
        may_jump: Whether jumps are taken out; by default, where the format has no clock for the
            whole file.
        jumps: Number of jumps that were taken out.
    """

    def __init__(self, container: InputContainer, stream: VideoStream | AudioStream):
        # Other formats store times for the whole file: a jump in them is meant.
        self.may_jump = bool(container.format.flags & _TS_DISCONT)
        self._tick = float(stream.time_base or 0)
        rate = declared_rate(stream) if isinstance(stream, VideoStream) else 0.0
        self._usual = round(1 / rate / self._tick) if rate and self._tick else 0
        self._next: int | None = None  # expected decoding time of the next packet
        self._shift = 0
        self.jumps = 0

    def correct(self, packet: av.Packet) -> None:
        """Changes the times of the next packet, so that its clock goes on."""
        if not self.may_jump:
            return
        if packet.dts is not None:
            if self._next is not None:
                jump = (packet.dts + self._shift - self._next) * self._tick
                if jump > LEAP or jump < -_BACK:
                    self._shift = self._next - packet.dts
                    self.jumps += 1
            self._next = packet.dts + self._shift + (packet.duration or self._usual)
        if self._shift:
            for name in ("pts", "dts"):
                if (time := getattr(packet, name)) is not None:
                    setattr(packet, name, time + self._shift)


@dataclasses.dataclass(frozen=True)
class Timeline:
    """When the frames of a video are shown.

    Attributes:
        seconds: (n,) float64 time of each frame in s, after the first one; never decreasing.
        begin: When the first frame is shown, in s after the file begins to play. At most `_EARLY`
            counts as nothing.
        fps: Usual number of frames per second, from the intervals near the median; 0: unknown.
        pause: Longest time from one frame to the next in s, if it is more than `LEAP`; else 0.
        ignored: Whether the times of the file were not used, because they go back.
    """

    seconds: np.ndarray
    fps: float
    begin: float = 0.0
    ignored: bool = False
    pause: float = 0.0

    @classmethod
    def of(
        cls,
        times: Sequence[int | None],
        tick: float,
        nominal: float,
        begins: float = math.nan,
        decoded: Sequence[int | None] = (),
    ) -> "Timeline":
        """Makes the timeline of frames in the order in which they are shown.

        Args:
            times: Presentation time of each frame, in units of `tick`; None: unknown. If at least
                half of them are known, the others are interpolated.
            tick: Unit of the times in seconds; 0: unknown.
            nominal: Frame rate that the file declares, for frames without times; 0: none.
            begins: When the file begins to play (`playing_begins`).
            decoded: Decoding times, in units of `tick`. They tell the frame rate where the
                presentation times go back, unless they go back as well.
        """
        count = len(times)
        known = np.array([i for i, time in enumerate(times) if time is not None], np.int64)
        if not tick or 2 * len(known) < max(count, 2):
            return cls(_even(count, nominal), nominal)
        given = np.array([times[i] for i in known.tolist()], np.float64)
        steps = np.diff(given) / np.diff(known)
        rate = _believed(usual_rate(steps) / tick, given, tick, nominal)
        if (steps < 0).any():
            there = np.diff(np.array([time for time in decoded if time is not None], np.float64))
            if not len(there) or (there < 0).any():
                there = np.diff(np.sort(given))
            rate = _believed(usual_rate(there) / tick, given, tick, nominal)
            return cls(_even(count, rate), rate, ignored=True)
        if not rate or not given[-1] > given[0]:  # all frames have the same time
            return cls(_even(count, nominal), nominal)
        seconds = (np.interp(np.arange(count), known, given) - given[0]) * tick
        ends = np.arange(count) - known[-1]  # frames after the last known time
        late = given[0] * tick - begins
        begin = float(late) if late > max(_EARLY, 1.5 / rate) else 0.0
        longest = float(steps.max()) * tick
        return cls(
            seconds + np.where(ends > 0, ends / rate, 0.0),
            rate,
            begin,
            pause=longest if longest > LEAP else 0.0,
        )

    @property
    def duration(self) -> float:
        """Seconds from the first frame to the end of the last one; 0: unknown."""
        return float(self.seconds[-1]) + 1 / self.fps if self.fps and len(self.seconds) else 0.0

    @property
    def note(self) -> str:
        """What a user should know about the times; "" if nothing."""
        if self.pause:
            return f"a picture stays for {self.pause:.0f} s"
        return f"its times go back: shown at {self.fps:.6g} frames/s" if self.ignored else ""


def _believed(rate: float, given: np.ndarray, tick: float, nominal: float) -> float:
    """Returns a rate, or a better one if no camera has it: the declared one, or the mean."""
    if rate < HIGHEST_RATE:
        return rate
    span = float(np.ptp(given)) * tick
    mean = (len(given) - 1) / span if span else 0.0
    return nominal or (mean if mean < HIGHEST_RATE else 0.0)


def _even(count: int, rate: float) -> np.ndarray:
    return np.arange(count) / rate if rate else np.zeros(count)


def usual_rate(steps: np.ndarray) -> float:
    """Returns 1 / the mean of the intervals near the median; 0 if no frame is after another."""
    steps = steps[steps > 0]
    if not len(steps):
        return 0.0
    middle = np.sort(steps)[len(steps) // 2]  # one of them, so that at least one is near
    # The mean of many intervals is exact where a clock of milliseconds rounds each of them.
    near = steps[(steps > middle / 2) & (steps < 1.5 * middle)]
    if 3 * len(near) < 2 * len(steps):  # no steady clock: the mean, without pauses
        near = steps[steps < 5 * middle]
    return len(near) / float(near.sum())
