"""Transcoding of a video: new pictures at the same times, with the original sound."""

import itertools
import math
import os
from collections.abc import Iterable, Iterator
from fractions import Fraction

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.video.stream import VideoStream

from dagr_jax.runtime.atomic import atomic_file
from dagr_jax.video.clock import Clock, playing_begins
from dagr_jax.video.encode import ENCODERS
from dagr_jax.video.stream import VideoError, packets_of, video_stream

# Sound codecs that .mp4 supports and players can play; other sound is re-encoded as AAC.
_KEPT_SOUND = {"aac", "mp3", "ac3", "eac3", "opus", "flac", "alac"}
_LOWEST_MP3 = 16_000  # lowest sampling rate of MP3 in .mp4, in Hz
_AAC_RATES = {96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000}
_CLOCK = Fraction(1, 90_000)
_CRF = "18"  # nearly indistinguishable from the source


def transcode(
    path: str | os.PathLike[str],
    source: str | os.PathLike[str],
    shown: Iterable[tuple[float, np.ndarray]],
    fps: float,
) -> None:
    """Writes an H.264 .mp4 file with the sound of another file, atomically.

    Times count from where the source begins to play, so that pictures and sound stay together.

    Args:
        path: File to write.
        source: File with the sound. The sound is copied if .mp4 supports its codec, else it is
            re-encoded as AAC.
        shown: (seconds, picture) in temporal order, as `decode.timed_frames` gives them. Pictures
            are (H, W, 3) uint8 RGB, all of the same shape.
        fps: Frame rate to declare in the file, in frames per second; 0: unknown.

    Raises:
        ValueError: There are no pictures.
        VideoError: FFmpeg cannot encode the pictures or the sound.
        DagrError: The file cannot be written.
    """
    try:
        _transcode(path, source, shown, fps)
    except av.FFmpegError as error:
        problem = f"a copy of it cannot be encoded ({error.strerror})"
        raise VideoError(source, problem, "re-encode it, as H.264 with AAC sound") from error


def _transcode(
    path: str | os.PathLike[str],
    source: str | os.PathLike[str],
    shown: Iterable[tuple[float, np.ndarray]],
    fps: float,
) -> None:
    with (
        atomic_file(path) as partial,
        av.open(
            f"file:{os.fspath(source)}",
            options={"protocol_whitelist": "file"},
            metadata_errors="replace",
        ) as spoken,
        av.open(str(partial), "w", options={"movflags": "faststart"}) as output,
    ):
        stream: VideoStream | None = None
        last = -1
        for seconds, picture in shown:
            if stream is None:
                seen = video_stream(spoken, source, None)
                stream = _stream(output, picture, fps, _pixel_shape(seen, picture))
                sound = _Sound(spoken, output, _zero(spoken, seen, seconds))
            last = max(last + 1, round(seconds / _CLOCK))
            frame = av.VideoFrame.from_ndarray(picture)
            frame.pts, frame.time_base = last, _CLOCK
            sound.until(seconds)
            output.mux(stream.encode(frame))
        if stream is None:
            raise ValueError(f"{path}: there are no frames to write")
        output.mux(stream.encode(None))
        sound.until(float("inf"))


def _zero(source: InputContainer, stream: VideoStream, first: float) -> float:
    """Returns what is second 0 of the new file, in seconds on the clock of the source.

    Args:
        source: The source.
        stream: Its video stream.
        first: When the first picture is shown in the new file, in seconds.
    """
    if first:  # the sound begins before the pictures
        return playing_begins(source, stream)
    return float((stream.start_time or 0) * (stream.time_base or 0))


def _pixel_shape(stream: VideoStream, picture: np.ndarray) -> Fraction:
    """Returns the pixel aspect ratio (width / height) of a stream, for display orientation."""
    if not stream.sample_aspect_ratio:
        return Fraction(1)
    # Unless both are square, or cropped to the other shape.
    turned = (stream.height > stream.width) != (picture.shape[0] > picture.shape[1])
    return 1 / stream.sample_aspect_ratio if turned else stream.sample_aspect_ratio


def _stream(
    output: OutputContainer, picture: np.ndarray, fps: float, shape: Fraction
) -> VideoStream:
    encoder, settings = ENCODERS["h264"]
    rate = Fraction(fps or 25.0).limit_denominator(1001)
    stream = output.add_stream(encoder, rate=rate, options={**settings, "crf": _CRF})
    assert isinstance(stream, VideoStream)
    stream.height, stream.width = picture.shape[:2]
    even = stream.width % 2 == stream.height % 2 == 0
    stream.pix_fmt = "yuv420p" if even else "yuv444p"  # only 4:4:4 supports odd sizes
    stream.codec_context.time_base = _CLOCK
    stream.codec_context.sample_aspect_ratio = shape
    return stream


class _Sound:
    """Copies the first sound track of a file to another file, unchanged or as AAC.

    Args:
        source: File with the sound.
        output: File to write to.
        begin: Time in the source, in seconds, at which the new file starts.
    """

    def __init__(self, source: InputContainer, output: OutputContainer, begin: float):
        self._output, self._begin = output, begin
        self._packets: Iterator[av.Packet] = iter(())
        self._next: av.Packet | None = None
        track = next(iter(source.streams.audio), None)
        if track is None or track.codec_context is None:
            return
        name, rate = track.codec_context.codec.canonical_name, track.codec_context.sample_rate
        if name in _KEPT_SOUND and not (name == "mp3" and rate < _LOWEST_MP3):
            copy = output.add_stream_from_template(track)
            self._packets = _copied(source, track, copy)
        else:
            encoder = output.add_stream("aac", rate=rate if rate in _AAC_RATES else 48_000)
            assert isinstance(encoder, AudioStream)
            self._packets = _encoded(source, track, encoder)
        self._advance()

    def until(self, seconds: float) -> None:
        """Writes the sound up to a time of the new file, in seconds."""
        while (packet := self._next) is not None:
            begins = packet.dts if packet.dts is not None else packet.pts
            if begins is not None and float(begins * packet.time_base) > seconds:
                return
            if begins is None or begins >= 0:  # drop sound before the first picture
                self._output.mux(packet)
            self._advance()

    def _advance(self) -> None:
        try:
            self._next = next(self._packets, None)
        except av.FFmpegError:  # stop the sound at the first damaged place
            self._next = None
        if self._next is not None and self._next.time_base and self._begin:
            shift = round(self._begin / self._next.time_base)
            for name in ("pts", "dts"):
                if (time := getattr(self._next, name)) is not None:
                    setattr(self._next, name, time - shift)


def _copied(source: InputContainer, track: AudioStream, copy: AudioStream) -> Iterator[av.Packet]:
    last = -math.inf
    for packet in packets_of(source, track, Clock(source, track)):
        if packet.dts is not None and packet.dts > last:  # joined recordings may overlap
            last = packet.dts
            packet.stream = copy
            yield packet


def _encoded(
    source: InputContainer, track: AudioStream, encoder: AudioStream
) -> Iterator[av.Packet]:
    for frame in _heard(source, track, encoder):
        yield from encoder.encode(frame)
    yield from encoder.encode(None)


def _heard(
    source: InputContainer, track: AudioStream, encoder: AudioStream
) -> Iterator[av.AudioFrame]:
    """Yields the sound of a track in the one form that an encoder takes.

    The number of channels and the sampling rate may change within a track.
    """
    form, converter = None, None
    end = -math.inf  # of the sound so far, in seconds
    packets = packets_of(source, track, Clock(source, track))
    for packet in itertools.chain(packets, [None]):
        try:
            frames = track.codec_context.decode(packet)
        except av.FFmpegError:  # damaged: silence
            continue
        for frame in frames:
            if frame.pts is not None and frame.time_base:
                if float((frame.pts + 1) * frame.time_base) < end:
                    continue  # overlaps what was heard before, where two recordings were joined
                begin = float(frame.pts * frame.time_base)
                end = begin + frame.samples / frame.sample_rate
            if form != (form := (frame.format.name, frame.layout.name, frame.sample_rate)):
                if converter is not None:
                    yield from converter.resample(None)
                wanted = encoder.codec_context
                converter = av.AudioResampler(wanted.format, wanted.layout, wanted.sample_rate)
            assert converter is not None
            yield from converter.resample(frame)
