"""Windows of a live video: its frames cut by time, as far as its packets tell the time."""

import math
from collections import deque
from collections.abc import Iterator

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from dagr_jax.video.clock import HIGHEST_RATE, note_of, usual_rate
from dagr_jax.video.reading import Reading
from dagr_jax.video.stream import packets_of

_REORDERED = 32  # frames; H.264 and HEVC reorder at most 16


class LiveFrames:
    """The frames of one connection, window by window, in the decoder's output order.

    How many frames a window has must be known before its first frame is decoded, because the model
    chooses among them. So the packets of a window are read first: those whose frames are shown in
    it are counted. Without times, a window has as many frames as its length at the frame rate of
    the stream. Memory holds the packets of one window.

    Args:
        container: Open container.
        stream: Video stream of the container.
        window: Length of a window in seconds.
        reading: Reading of the connection, whose properties are filled in.

    Attributes:
        damaged: Of the window that was taken last, the number of packets and frames that could not
            be decoded or are marked as corrupt.
        interval: Usual time from one frame to the next, in seconds.
        rest: Seconds after the last complete window. Known after the end.
    """

    def __init__(
        self, container: InputContainer, stream: VideoStream, window: float, reading: Reading
    ):
        self.damaged, self.rest = 0, 0.0
        self._number = 0  # of the current window
        self._window, self._reading, self._stream = window, reading, stream
        clock = reading.note_stream(container, stream)
        clock.may_jump = True  # an encoder that starts again, in any format
        self._clock = clock
        self._packets = packets_of(container, stream, clock)
        self._tick = reading.time_base
        self.interval = 1 / (reading.nominal_fps or 25.0)
        # Bounds the memory where the times of packets stand still.
        self._most = max(int(HIGHEST_RATE * window), 1)
        self._ended = False
        self._queue: deque[tuple[av.Packet, float]] = deque()  # read, not decoded; and their times
        self._ahead: list[float] = []  # times of the frames that were read and not taken
        self._first: int | None = None  # time of the first frame, on the clock of the stream
        self._come = -math.inf  # frames before this time have been read
        self._fed = -math.inf  # and frames before this time have been given to the decoder
        self._damage: list[float] = []  # times of damaged packets and frames
        self._orderly = True  # whether the times of the frames never go back
        self._latest: float = -math.inf
        self._frames = self._decoded()
        self._next: VideoFrame | None = None
        self._last: VideoFrame | None = None

    @property
    def notes(self) -> list[str]:
        """What is unusual in the connection so far, and how it is treated."""
        return [*self._reading.notes, *filter(None, [note_of(self._clock.jumps)])]

    @property
    def begin(self) -> float:
        """Start of the current window, in seconds after the first frame."""
        return self._number * self._window

    @property
    def end(self) -> float:
        """End of the current window, in seconds after the first frame."""
        return (self._number + 1) * self._window

    @property
    def _border(self) -> float:
        """A frame belongs to the window if it is shown before this time."""
        return self.end - self.interval / 2

    def count(self) -> int:
        """Reads the packets of the current window; returns its number of frames, 0 at the end.

        Raises:
            av.FFmpegError: The source cannot be read on.
        """
        while True:
            while not self._ended and self._come < self.end and len(self._ahead) < self._most:
                if (item := self._read()) is not None:
                    self._queue.append(item)
            if rate := usual_rate(np.diff(sorted(self._ahead))):
                self.interval = 1 / rate
            end_of_last = max(self._ahead, default=-math.inf) + self.interval
            if self._ended and end_of_last < self._border:
                self.rest = max(end_of_last - self.begin, 0.0)
                return 0
            if number := sum(time < self._border for time in self._ahead):
                return number
            # Nothing new is shown in this window: go to that of the next frame.
            later = min(self._ahead, default=self.end) + self.interval / 2
            self._number = max(self._number + 1, int(later // self._window))

    def take(self, count: int) -> Iterator[tuple[int, VideoFrame]]:
        """Yields (number from 0, frame) of the frames of the current window, and ends the window.

        Where the decoder gives fewer frames than the packets announced, the last picture stays, as
        on a screen.
        """
        border, repeated = self._border, 0
        for number in range(count):
            if self._next is None:
                self._next = self._decode(border)
            if self._next is not None and self._belongs(self._next, border):
                self._last, self._next = self._next, None
            else:
                repeated += 1
            if self._last is not None:
                yield number, self._last
        # Where it gives more, the rest is left out.
        while self._orderly and self._next is not None and self._belongs(self._next, border):
            self._next = self._decode(border)
        self._ahead = [time for time in self._ahead if time >= border]
        # A packet that does not decode is the cause of a picture that is repeated: it counts once.
        self.damaged = max(sum(time < border for time in self._damage), repeated)
        self._damage = [time for time in self._damage if time >= border]
        self._number += 1

    def _decode(self, border: float) -> VideoFrame | None:
        """Returns the next frame; None if none comes, though all of the window has been decoded."""
        for frame in self._frames:
            # Decoders reorder frames, but no further than this.
            if frame is not None or self._fed > border + _REORDERED * self.interval:
                return frame
        return None

    def _belongs(self, frame: VideoFrame, border: float) -> bool:
        """Whether a frame is shown before a time; always if the frames have no usable times."""
        if not self._orderly or frame.pts is None or self._first is None:
            return True
        return (frame.pts - self._first) * self._tick < border

    def _read(self) -> tuple[av.Packet, float] | None:
        """Reads a packet; returns it with the time of its frame, None at the end."""
        packet = next(self._packets, None)
        if packet is None:
            self._ended = True
            return None
        shown = max(self._ahead, default=self.begin - self.interval) + self.interval
        if packet.pts is not None and self._tick:
            self._first = packet.pts if self._first is None else self._first
            shown = (packet.pts - self._first) * self._tick
        if packet.is_corrupt:
            self._damage.append(shown)
        if not (packet.is_discard or self._is_hidden(packet)):
            self._ahead.append(shown)
        decoded = shown
        if packet.dts is not None and self._first is not None:
            # What is decoded later is shown later.
            decoded = (packet.dts - self._first) * self._tick
        self._come = max(self._come, decoded)
        return packet, shown

    def _is_hidden(self, packet: av.Packet) -> bool:
        """Whether a VP8 packet holds a picture that is not shown (RFC 6386, section 9.1)."""
        return self._reading.codec == "vp8" and not memoryview(packet)[0] & 0x10

    def _decoded(self) -> Iterator[VideoFrame | None]:
        """Decodes the packets that were read, then those that come.

        Yields:
            The frames of each packet, then None.
        """
        while True:
            item = self._queue.popleft() if self._queue else self._read()
            packet, shown = item or (None, self._fed)
            try:
                frames = self._stream.codec_context.decode(packet)
            except av.FFmpegError:
                self._damage.append(shown)
                frames = []
            self._fed = max(self._fed, shown)
            for frame in frames:
                self._reading.note_frame(frame)
                self._orderly &= frame.pts is not None and frame.pts >= self._latest
                self._latest = self._latest if frame.pts is None else frame.pts
                if frame.is_corrupt:
                    if frame.pts is not None and self._first is not None:
                        shown = (frame.pts - self._first) * self._tick
                    self._damage.append(shown)
                yield frame
            if packet is None:
                return
            yield None
