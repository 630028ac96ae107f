"""Videos that have no end yet: files that grow, pipes, network streams, taken window by window."""

import contextlib
import dataclasses
import os
import re
import stat
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from dagr_jax.video.clip import Clip, ClipAssembler, ClipPlan, Piece
from dagr_jax.video.inputs import InputSpec
from dagr_jax.video.stream import Limits, VideoError, video_stream

# Of the network alone: a playlist from there must not read files of this machine.
_PROTOCOLS = "http,https,tcp,tls,crypto,data,hls,rtp,rtsp,rtsps,rtmp,rtmps,rtmpt,srt,udp,httpproxy"
_URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
# Another attempt does not help with these.
_FOR_GOOD = (av.error.ProtocolNotFoundError, av.error.ArgumentError)
_LONGEST_PAUSE = 30.0  # seconds, between two attempts to connect
_POLL = 0.05  # seconds, between two looks at a file that may have grown


@dataclasses.dataclass(frozen=True)
class Window:
    """A part of a live video.

    Attributes:
        number: Counts the windows that were read, those that were dropped among them, from 0.
        connection: Counts the connections, from 1.
        start, end: Seconds from the first frame of the connection.
        arrived: When its last frame had been decoded, seconds since the epoch.
        damaged: Packets that did not decode, packets and frames marked as corrupt.
        dropped: Windows that were dropped until now.
        pictures: What the model sees: pieces of streams, and the clip last.
    """

    number: int
    connection: int
    start: float
    end: float
    arrived: float
    damaged: int
    dropped: int
    pictures: tuple[Piece | Clip, ...]


class _LeftError(Exception):
    """Nobody takes windows any more."""


@dataclasses.dataclass(frozen=True)
class Again:
    """A connection was lost, or not made.

    Attributes:
        reason: Why, as FFmpeg says it.
        pause: Seconds until the next attempt.
    """

    reason: str
    pause: float


def is_url(source: str) -> bool:
    """Whether a source is opened by FFmpeg's network protocols."""
    return bool(_URL.match(source)) and not os.path.exists(source)


class Feed:
    """Reads a live video in a thread, so that it is taken as it comes.

    Where windows come faster than they are taken, the oldest that waits is dropped: memory and lag
    are bounded.

    Args:
        source: A file, which may grow; a named pipe; "-" for stdin; or a URL that FFmpeg opens.
        spec: What the model sees of each window.
        seconds: Of a window.
        waiting: Windows that may wait.
        every: Drop none; the source waits instead.
        patience: Seconds without data: a file is at its end, a URL is connected to anew. Pipes may
            take their time.
        retries: Attempts to connect in a row, after which a URL is given up.
        limits: Of pixels; frames beyond are damaged.

    Attributes:
        rest: Seconds at the end that were less than a window, which are known then.
    """

    def __init__(
        self,
        source: str,
        spec: InputSpec,
        seconds: float,
        *,
        waiting: int = 2,
        every: bool = False,
        patience: float = 10.0,
        retries: int = 10,
        limits: Limits | None = None,
    ):
        self.source = source
        self._spec, self._seconds, self._patience = spec, seconds, patience
        self._most, self._every, self._retries, self._limits = waiting, every, retries, limits
        self._changed = threading.Condition()
        self._waiting: deque[Window | Again] = deque()
        self._ended = False
        self._error: Exception | None = None
        self._left = False
        self._count = self._dropped = 0
        self._beginning = 0  # of the connection, as a number that stands for its first window
        self.rest = 0.0

    def __iter__(self) -> Iterator[Window | Again]:
        """Windows as they come; ends with the video.

        Raises:
            VideoError: The source cannot be read (any more).
        """
        threading.Thread(target=self._run, name="feed", daemon=True).start()
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._waiting or self._ended)
                    if not self._waiting:
                        break
                    item = self._waiting.popleft()
                    self._changed.notify_all()
                    if isinstance(item, Window):
                        item = dataclasses.replace(item, dropped=self._dropped)
                yield item
        finally:  # who leaves early ends the thread with it, at its next window
            with self._changed:
                self._left = True
                self._changed.notify_all()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            self._connect()
        except _LeftError:
            pass
        except Exception as error:  # whatever it is, who iterates hears of it
            self._error = error
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _connect(self) -> None:
        """Reads to the end of the source, over as many connections as that takes."""
        failed, connection = 0, 0
        while True:
            connection += 1
            before, beginning = self._count, self._beginning
            try:
                with _opened(self.source, self._patience, self._limits) as (container, stream):
                    self._read(container, stream, connection)
                return
            except av.FFmpegError as error:
                reason = error.strerror or str(error)
                # A server that sends the same from its beginning each time gets nowhere.
                further = self._count > before and self._beginning != beginning
                failed = 1 if further else failed + 1
                problem = f"FFmpeg cannot read it ({reason})"
                if isinstance(error, _FOR_GOOD) and not self._count:
                    remedy = "give a URL that FFmpeg opens, as http, rtsp, rtmp or srt"
                    raise VideoError(self.source, problem, remedy) from error
                if not is_url(self.source):
                    remedy = "give a video that can be read without its end, as MPEG-TS"
                    raise VideoError(self.source, problem, remedy) from error
                if failed > self._retries:
                    remedy = "check the address, or allow more attempts (--retries)"
                    raise VideoError(self.source, problem, remedy) from error
            pause = min(2.0 ** (failed - 1), _LONGEST_PAUSE)
            self._put(Again(reason, pause))
            time.sleep(pause)

    def _read(self, container: InputContainer, stream: VideoStream, connection: int) -> None:
        """Cuts a connection's frames into windows of one length."""
        fps = float(stream.average_rate or stream.guessed_rate or 25)
        length = max(round(self._seconds * fps), 1)
        plan = ClipPlan(((0, length),), fps)
        frames = _Frames(container, stream, fps)
        while True:
            begin, damaged = frames.seconds, frames.damaged
            found = list(ClipAssembler(plan, self._spec).clips(frames.take(length)))
            if frames.ended:  # before all were there of which some are looked at
                self.rest = frames.seconds - begin
                return
            if begin == 0:
                self._beginning = hash(_bytes_of(found))
            self._put(
                Window(
                    number=self._count,
                    connection=connection,
                    start=begin,
                    end=frames.seconds,
                    arrived=time.time(),
                    damaged=frames.damaged - damaged,
                    dropped=0,
                    pictures=tuple(found),
                )
            )
            self._count += 1

    def _put(self, item: Window | Again) -> None:
        with self._changed:
            if self._every:
                self._changed.wait_for(lambda: len(self._waiting) < self._most or self._left)
            if self._left:
                raise _LeftError
            self._waiting.append(item)
            windows = [one for one in self._waiting if isinstance(one, Window)]
            if len(windows) > self._most:
                self._waiting.remove(windows[0])
                self._dropped += 1
            self._changed.notify_all()


class _Frames:
    """The frames of a connection, in the order in which they are shown.

    Attributes:
        seconds: Until when the frames that were taken are shown, from the first one on.
        damaged: Packets that did not decode and frames marked as corrupt.
        ended: Whether there were fewer frames than were to be taken.
    """

    def __init__(self, container: InputContainer, stream: VideoStream, fps: float):
        self.seconds, self.damaged, self.ended = 0.0, 0, False
        self._duration = 1 / fps
        self._tick = float(stream.time_base or 0)
        self._first: int | None = None
        self._all = self._decoded(container, stream)

    def take(self, count: int) -> Iterator[tuple[int, VideoFrame]]:
        """The next frames, numbered from 0."""
        number = -1
        for number, frame in enumerate(islice(self._all, count)):
            if frame.pts is None:
                self.seconds += self._duration
            else:
                self._first = frame.pts if self._first is None else self._first
                self.seconds = (frame.pts - self._first) * self._tick + self._duration
            self.damaged += frame.is_corrupt
            yield number, frame
        self.ended = number + 1 < count

    def _decoded(self, container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
        for packet in container.demux(stream):
            if packet.size:  # an empty one would flush the decoder
                self.damaged += packet.is_corrupt
                try:
                    yield from stream.codec_context.decode(packet)
                except av.FFmpegError:
                    self.damaged += 1
        yield from stream.codec_context.decode(None)


def _bytes_of(pictures: Iterable[Piece | Clip]) -> bytes:
    """The pixels of a window."""
    arrays: list[np.ndarray] = []
    for one in pictures:
        arrays += [one.frames] if isinstance(one, Piece) else one.inputs.values()
    return b"".join(array.tobytes() for array in arrays)


@contextlib.contextmanager
def _opened(
    source: str, patience: float, limits: Limits | None
) -> Iterator[tuple[InputContainer, VideoStream]]:
    """The container of a source, and its video stream.

    Raises:
        VideoError: It is no video, or may not be read.
        av.FFmpegError: FFmpeg cannot open it.
    """
    with contextlib.ExitStack() as stack:
        container: InputContainer
        if is_url(source):
            options = {"protocol_whitelist": _PROTOCOLS}
            if source.lower().startswith("rtsp"):
                options["rtsp_transport"] = "tcp"  # over UDP, packets are lost on a busy machine
            container = av.open(
                source,
                timeout=(patience, patience),
                options=options,
                metadata_errors="replace",
            )
        else:
            coming = stack.enter_context(contextlib.closing(_Coming(source, patience)))
            options = {"protocol_whitelist": "none"}  # for what a playlist names
            container = av.open(coming, "r", options=options, metadata_errors="replace")
        stack.enter_context(container)
        yield container, video_stream(container, source, limits)


class _Coming:
    """The bytes of a file or a pipe, as they come."""

    def __init__(self, source: str, patience: float):
        self.name, self._patience = source, patience
        if source == "-":
            self._file = os.dup(sys.stdin.fileno())
        else:
            try:
                self._file = os.open(source, os.O_RDONLY)
            except OSError as error:
                raise VideoError(source, f"{error.strerror}", "check the path") from error
        mode = os.fstat(self._file).st_mode
        if stat.S_ISDIR(mode):
            self.close()
            raise VideoError(source, "it is a folder", "give a video")
        self._grows = stat.S_ISREG(mode)

    def read(self, size: int) -> bytes:
        """What is there, as soon as there is something; b"" at the end."""
        until = time.monotonic() + self._patience
        while True:
            data = os.read(self._file, size)
            if data or not self._grows or time.monotonic() > until:
                return data
            time.sleep(_POLL)

    def close(self) -> None:
        os.close(self._file)
