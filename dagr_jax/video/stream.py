"""Opening of a video file, and the output of its decoder."""

import contextlib
import dataclasses
import os
from collections.abc import Iterator

import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from dagr_jax.runtime.errors import DagrError
from dagr_jax.video.clock import LEAP, Clock

Size = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class RawVideo(os.PathLike):
    """A file of raw frames without a header, such as .yuv. It can be used like a video file.

    Attributes:
        path: The file.
        width: Width of the frames in pixels.
        height: Height of the frames in pixels.
        pix_fmt: FFmpeg's name of the pixel format.
        fps: Frames per second.
    """

    path: str
    width: int
    height: int
    pix_fmt: str = "yuv420p"
    fps: int = 30

    def __fspath__(self) -> str:
        return self.path

    def options(self) -> dict[str, str]:
        """Returns the options of FFmpeg's rawvideo demuxer."""
        return {
            "video_size": f"{self.width}x{self.height}",
            "pixel_format": self.pix_fmt,
            "framerate": str(self.fps),
        }


# FFmpeg renders text files as pictures of a terminal. A score of these would be meaningless.
_TEXT_CODECS = {"ansi", "bintext", "xbin", "idf"}


# Share of damaged packets and pictures above which a file is not scored: its pictures then show
# the decoder's guesses. Encrypted files, for example, decode without an error at every other frame.
DAMAGE = 0.2


class VideoError(DagrError):
    """A file cannot be used as a video."""


def check_damage(path: str | os.PathLike[str], damaged: int, pictures: int) -> None:
    """Raises VideoError if more than `DAMAGE` of the pictures are damaged."""
    if damaged > DAMAGE * max(pictures, 1):
        raise VideoError(
            path,
            f"{min(damaged / max(pictures, 1), 1):.0%} of its pictures are damaged",
            "copy or download it again, or decrypt it",
        )


@dataclasses.dataclass(frozen=True)
class Limits:
    """Limits on videos. A header of a few bytes could otherwise cost gigabytes of memory or hours.

    Attributes:
        pixels: Maximum number of pixels per frame.
        seconds: Maximum duration of a video in seconds.
    """

    pixels: int = 8192 * 8192
    seconds: float = 4 * 3600.0

    def check_pixels(self, path: str | os.PathLike, width: int, height: int) -> None:
        """Raises VideoError if a frame has more than `pixels` pixels."""
        if width * height > self.pixels:
            raise VideoError(
                path,
                f"frames of {width} x {height} are more than {self.pixels} pixels",
                "score a smaller version of it, or raise the limit (--max-pixels)",
            )

    def check_seconds(self, path: str | os.PathLike, seconds: float) -> None:
        """Raises VideoError if a video is longer than `self.seconds`."""
        if seconds > self.seconds:
            raise VideoError(
                path,
                f"it is longer than {self.seconds:g} s",
                "cut it, or raise the limit (--max-seconds)",
            )


class Length:
    """Adds up the length of a video while it is read, and stops where it is above a limit.

    A pause counts as `clock.LEAP` at most. Headers are not believed: a subtitle may be hours after
    the last picture, and one time may be wrong.

    Args:
        path: The file, for messages.
        limits: Limits on the video; None: no limits.
        tick: Unit of the times in seconds.
        nominal: Frame rate, for frames without times; 0: unknown.
    """

    def __init__(
        self, path: str | os.PathLike[str], limits: Limits | None, tick: float, nominal: float
    ):
        self._path, self._limits, self._tick = path, limits, tick
        self._each = 1 / nominal if nominal else 0.0
        self._last: int | None = None
        self._seconds = 0.0

    def add(self, time: int | None) -> None:
        """Adds a packet or frame with its time.

        Raises:
            VideoError: The video is longer than the limit.
        """
        if self._limits is None:
            return
        step = self._each
        if time is not None:
            step = 0.0 if self._last is None else (time - self._last) * self._tick
            self._last = time
        self._seconds += min(max(step, 0.0), LEAP)
        self._limits.check_seconds(self._path, self._seconds)


@dataclasses.dataclass(frozen=True)
class Packet:
    """A packet that was sent to the decoder.

    Attributes:
        size: Size in bytes.
        damaged: Whether the packet is corrupt or could not be read or decoded.
        key: Whether decoding can start with it.
        shown: Whether its picture is to be shown.
    """

    size: int
    damaged: bool
    key: bool = False
    shown: bool = False


@contextlib.contextmanager
def open_stream(
    path: str | os.PathLike, limits: Limits | None = None
) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Opens a file and selects the video stream that a player would show.

    Args:
        path: Video file.
        limits: Limits on the video; None: no limits.

    Yields:
        The container and the stream.

    Raises:
        VideoError: The file is missing, unreadable or not a video, or exceeds the limits.
    """
    name = os.fspath(path)
    if not os.path.exists(name):
        raise VideoError(path, "there is no such file", "check the path")
    if os.path.isdir(name):
        raise VideoError(path, "it is a folder without videos", "give one that holds some, as .mp4")
    if not os.path.isfile(name):
        raise VideoError(path, "it is not a file", "give the path of a video file")
    if os.path.getsize(name) == 0:
        raise VideoError(path, "the file is empty", "copy or download it again")
    try:
        # 'file:' prevents FFmpeg from reading a colon in the name as a protocol. The whitelist
        # prevents playlists from accessing the network.
        raw = path.options() if isinstance(path, RawVideo) else {}
        container = av.open(
            f"file:{name}",
            format="rawvideo" if raw else None,
            options={"protocol_whitelist": "file", **raw},
            metadata_errors="replace",  # titles may be in other encodings than UTF-8
        )
    except PermissionError as error:
        raise VideoError(path, "it may not be read", "change its permissions") from error
    except av.FFmpegError as error:
        raise VideoError(
            path, f"FFmpeg cannot read it ({error.strerror})", "give a video file that plays"
        ) from error
    with container:
        yield container, video_stream(container, path, limits)


def video_stream(
    container: InputContainer, path: str | os.PathLike[str], limits: Limits | None
) -> VideoStream:
    """Selects the video stream that a player would show, and prepares it for decoding.

    Args:
        container: The opened file.
        path: Path of the file, for messages.
        limits: Limits on the video; None: no limits.

    Raises:
        VideoError: There is no usable video stream, or it exceeds the limits.
    """
    streams = [
        stream
        for stream in container.streams.video
        if not stream.disposition & Disposition.attached_pic  # cover picture of a sound file
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
    if limits is not None:
        limits.check_pixels(path, stream.codec_context.width, stream.codec_context.height)
        # Later headers in the stream may declare other sizes.
        stream.codec_context.options = {"max_pixels": str(limits.pixels)}
    return stream


def packets_of(
    container: InputContainer, stream: VideoStream | AudioStream, clock: Clock
) -> Iterator[av.Packet]:
    """Reads the packets of a stream, with the jumps of its clock taken out.

    Args:
        container: The opened file.
        stream: The stream.
        clock: Clock of the stream.

    Yields:
        Each packet that holds data.

    Raises:
        av.FFmpegError: The file cannot be read on.
    """
    for packet in container.demux(stream):
        if packet.size:  # an empty one would flush the decoder; some containers have them
            clock.correct(packet)
            yield packet


def decoded(
    container: InputContainer, stream: VideoStream, clock: Clock
) -> Iterator[VideoFrame | Packet]:
    """Decodes the stream.

    Args:
        container: The opened file.
        stream: The video stream.
        clock: Clock of the stream.

    Yields:
        For each packet a `Packet`, followed by the frames that the decoder outputs for it.

    Raises:
        VideoError: There is not enough memory, whether or not the file is the cause. This is not
            treated as damage, because the decoded frames would then depend on the machine.
    """
    packets = packets_of(container, stream, clock)
    reading = True
    while reading:
        packet, damaged = None, False
        frames: list[VideoFrame] = []
        try:
            packet = next(packets, None)  # None at the end, and after a read error
            reading = packet is not None
            damaged = packet is not None and packet.is_corrupt
            frames = stream.codec_context.decode(packet)  # None flushes
        except av.FFmpegError as error:
            if isinstance(error, MemoryError):
                raise VideoError(
                    container.name.removeprefix("file:"),
                    "decoding it asks for more memory than there is",
                    "re-encode it, or score a smaller version",
                ) from error
            damaged = True
        if packet is None:
            yield Packet(0, damaged)
        else:
            yield Packet(packet.size, damaged, packet.is_keyframe, not packet.is_discard)
        yield from frames
