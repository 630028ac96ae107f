"""Live video (growing files, pipes, network streams), read window by window."""

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

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream

from dagr_jax.runtime.errors import DagrError, failed
from dagr_jax.video.clip import Clip, ClipAssembler, ClipPlan, Piece
from dagr_jax.video.inputs import InputSpec
from dagr_jax.video.reading import Reading
from dagr_jax.video.stream import Limits, VideoError, video_stream
from dagr_jax.video.windows import LiveFrames

# Network protocols only: a playlist from the network must not read files of this machine.
_PROTOCOLS = "http,https,tcp,tls,crypto,data,hls,rtp,rtsp,rtsps,rtmp,rtmps,rtmpt,srt,udp,httpproxy"
_URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
# With these errors, another attempt does not help.
_FOR_GOOD = (av.error.ProtocolNotFoundError, av.error.ArgumentError)
_LONGEST_PAUSE = 30.0  # seconds between two attempts to connect
_POLL = 0.05  # seconds between two checks of whether a file has grown


@dataclasses.dataclass(frozen=True)
class Window:
    """A part of a live video.

    Attributes:
        number: Number of the window, from 0. Dropped windows are counted too.
        connection: Number of the connection, from 1.
        start: Start of the window, in seconds after the first frame of the connection.
        end: End of the window, in seconds after the first frame of the connection.
        arrived: Time at which the last frame of the window was decoded, in seconds since the epoch.
        frames: Number of frames of the window.
        damaged: Number of packets that could not be decoded, plus packets and frames that are
            marked as corrupt.
        dropped: Number of windows that were dropped until now.
        pictures: Frames that the model sees: pieces of streams, then the clip; without a clip if
            no frame could be decoded.
        notes: What is unusual in the connection and how it is treated; "" if nothing is.
        problem: Why the frames cannot be used; "" if they can.
    """

    number: int
    connection: int
    start: float
    end: float
    arrived: float
    frames: int
    damaged: int
    dropped: int
    pictures: tuple[Piece | Clip, ...]
    problem: str = ""
    notes: str = ""


class _LeftError(Exception):
    """The consumer has stopped taking windows."""


@dataclasses.dataclass(frozen=True)
class Again:
    """A connection was lost or could not be made. Another attempt follows.

    Attributes:
        reason: Reason, as reported by FFmpeg.
        pause: Seconds until the next attempt.
    """

    reason: str
    pause: float


def is_url(source: str) -> bool:
    """Returns whether a source is opened with FFmpeg's network protocols."""
    return bool(_URL.match(source)) and not os.path.exists(source)


class Feed:
    """Reads a live video in a thread, as fast as it arrives.

    If windows arrive faster than they are consumed, the oldest waiting window is dropped. Memory
    use and delay are therefore bounded.

    Args:
        source: A file, which may grow; a named pipe; "-" for stdin; or a URL that FFmpeg can open.
        spec: Frames that the model sees of each window, and their sizes.
        seconds: Duration of a window in seconds.
        waiting: Maximum number of waiting windows.
        every: Whether to keep every window. If True, no window is dropped, and reading pauses
            instead.
        patience: Seconds without data after which a file has ended, or a URL is connected again.
            Pipes have no such limit.
        retries: Number of failed attempts to connect in a row before a URL is given up.
        limits: Limits on the video; None: no limits. If frames exceed the limit on pixels later in
            the stream, they count as damaged.

    Attributes:
        source: The source.
        rest: Seconds at the end of the video that did not fill a window. Known after the end.
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
        self._beginning = 0  # hash of the first window of the connection
        self.rest = 0.0

    def __iter__(self) -> Iterator[Window | Again]:
        """Yields windows as they arrive, and `Again` for each lost connection, until the end.

        Raises:
            VideoError: The source cannot be read, or can no longer be read.
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
        finally:  # If the consumer stops early, the thread ends at its next window.
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
        except DagrError as error:  # raised again in the consumer
            self._error = error
        except Exception as error:
            self._error = failed(self.source, VideoError, "reading it", error)
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _connect(self) -> None:
        """Reads to the end of the source, and connects again when a connection is lost.

        Raises:
            VideoError: The source cannot be read, or can no longer be read.
        """
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
                # A server that sends the same beginning on each connection makes no progress.
                further = self._count > before and self._beginning != beginning
                failed = 1 if further else failed + 1
                problem = f"FFmpeg cannot read it ({reason})"
                if isinstance(error, _FOR_GOOD) and not self._count:
                    remedy = "give a URL that FFmpeg can open, such as http, rtsp, rtmp or srt"
                    raise VideoError(self.source, problem, remedy) from error
                if not is_url(self.source):
                    remedy = "use a format that is readable without its end, such as MPEG-TS"
                    raise VideoError(self.source, problem, remedy) from error
                if failed > self._retries:
                    remedy = "check the address, or allow more attempts (--retries)"
                    raise VideoError(self.source, problem, remedy) from error
            pause = min(2.0 ** (failed - 1), _LONGEST_PAUSE)
            self._put(Again(reason, pause))
            time.sleep(pause)

    def _read(self, container: InputContainer, stream: VideoStream, connection: int) -> None:
        """Cuts the frames of a connection into windows.

        Args:
            container: Open container.
            stream: Video stream of the container.
            connection: Number of the connection, from 1.
        """
        reading = Reading(self.source)
        frames = LiveFrames(container, stream, self._seconds, reading)
        first = True
        while count := frames.count():
            begin, end = frames.begin, frames.end
            plan = ClipPlan(((0, count),), 1 / frames.interval, path=self.source)
            taken, found, problem = frames.take(count), [], ""
            try:
                found = list(ClipAssembler(plan, self._spec).clips(taken, reading))
            except VideoError as error:  # such as frames of two sizes: costs this window
                problem = error.problem
                for _ in taken:
                    pass
            if first:
                self._beginning, first = hash(_bytes_of(found)), False
            self._put(
                Window(
                    number=self._count,
                    connection=connection,
                    start=begin,
                    end=end,
                    arrived=time.time(),
                    frames=count,
                    damaged=frames.damaged,
                    dropped=0,
                    pictures=tuple(found),
                    problem=problem,
                    notes="; ".join(frames.notes),
                )
            )
            self._count += 1
        self.rest = frames.rest

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


def _bytes_of(pictures: Iterable[Piece | Clip]) -> bytes:
    """Returns the pixels of a window as bytes."""
    arrays: list[np.ndarray] = []
    for one in pictures:
        arrays += [one.frames] if isinstance(one, Piece) else one.inputs.values()
    return b"".join(array.tobytes() for array in arrays)


@contextlib.contextmanager
def _opened(
    source: str, patience: float, limits: Limits | None
) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Opens a source and selects its video stream.

    Args:
        source: A file, a named pipe, "-" for stdin, or a URL.
        patience: Seconds without data after which a file has ended, or a URL fails.
        limits: Limits on the video; None: no limits.

    Yields:
        The container and its video stream.

    Raises:
        VideoError: The source is not a video, or it cannot be read.
        av.FFmpegError: FFmpeg cannot open the source.
    """
    with contextlib.ExitStack() as stack:
        container: InputContainer
        if is_url(source):
            options = {"protocol_whitelist": _PROTOCOLS}
            if source.lower().startswith("rtsp"):
                options["rtsp_transport"] = "tcp"  # With UDP, a busy machine loses packets.
            container = av.open(
                source,
                timeout=(patience, patience),
                options=options,
                metadata_errors="replace",
            )
        else:
            coming = stack.enter_context(contextlib.closing(_Coming(source, patience)))
            options = {"protocol_whitelist": "none"}  # A playlist must not open other files.
            container = av.open(coming, "r", options=options, metadata_errors="replace")
        stack.enter_context(container)
        yield container, video_stream(container, source, limits)


class _Coming:
    """File object for the bytes of a file or pipe, as they arrive.

    Args:
        source: A file, a named pipe, or "-" for stdin.
        patience: Seconds without data after which a file has ended.

    Raises:
        VideoError: The source cannot be opened, or it is a folder.
    """

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
        """Waits for data and returns up to `size` bytes; b"" at the end."""
        until = time.monotonic() + self._patience
        while True:
            data = os.read(self._file, size)
            if data or not self._grows:
                return data
            if time.monotonic() > until:
                self._grows = False  # FFmpeg asks several times, and each would wait again
            time.sleep(_POLL)

    def close(self) -> None:
        os.close(self._file)
