"""Videos and contact sheets that show where the model looks and what it thinks of what it sees."""

import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import matplotlib
import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.video.stream import VideoStream
from PIL import Image, ImageDraw, ImageFont

from dagr_jax.score import Result, Scorer
from dagr_jax.score.scorer import TimedMap
from dagr_jax.video.encode import ENCODERS

# Sound that an .mp4 takes and players play as it is; other sound is encoded anew, as AAC.
_KEPT_SOUND = {"aac", "mp3", "ac3", "eac3", "opus", "flac", "alac"}
_CLOCK = Fraction(1, 90_000)
_SHEET_WIDTH, _GAP = 320, 8


def heat(frame: np.ndarray, saliency: np.ndarray, strength: float = 0.6) -> np.ndarray:
    """A frame with its saliency as colours over it, stronger where more is looked at.

    Args:
        frame: (height, width, 3) uint8 RGB.
        saliency: (h, w) in [0, 1].
        strength: Of the colours where saliency is 1.

    Returns:
        (height, width, 3) uint8 RGB.
    """
    height, width = frame.shape[:2]
    small = Image.fromarray(np.asarray(saliency, np.float32))
    full = np.asarray(small.resize((width, height), Image.Resampling.BILINEAR)).clip(0, 1)
    colours = matplotlib.colormaps["inferno"](full, bytes=True)[..., :3]
    share = (strength * full)[..., None]
    return np.rint(frame * (1 - share) + colours * share).astype(np.uint8)


def write_overlay(scorer: Scorer, result: Result, folder: Path, name: str) -> tuple[Path, Path]:
    """Writes the video with heat map and running score, and a contact sheet of it.

    The video is H.264 of the same size and times, with the sound of the file. The score shown is
    that of the segment, or of the whole video where there are none.

    Args:
        scorer: What scored.
        result: Its result for a file.
        folder: Where to, made if need be.
        name: Of the new files, without suffix.

    Returns:
        The .mp4 and the .png.

    Raises:
        ValueError: The checkpoint has no saliency network, or the file is gone.
        OSError: The folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    film, sheet = folder / f"{name}.mp4", folder / f"{name}.png"
    for target in (film, sheet):
        if target.exists() and target.samefile(result.file):
            raise ValueError(f"{target}: is the video itself; give another folder")
    partial = folder / f".{name}.partial.mp4"
    try:
        with av.open(str(partial), "w", options={"movflags": "faststart"}) as output:
            tiles = _write_film(output, scorer.maps_over_time(result.file), result)
        os.replace(partial, film)
        _write_sheet(sheet, tiles, result)
    finally:
        partial.unlink(missing_ok=True)
    return film, sheet


def _write_film(
    output: OutputContainer, shown: Iterator[TimedMap], result: Result
) -> list[tuple[float, np.ndarray, np.ndarray]]:
    """Encodes all frames and the sound; returns (seconds, frame, with heat) of some, small."""
    encoder, settings = ENCODERS["h264"]
    with av.open(f"file:{result.file}", options={"protocol_whitelist": "file"}) as source:
        rate = Fraction(result.fps or 25.0).limit_denominator(1001)
        stream = output.add_stream(encoder, rate=rate, options={**settings, "crf": "18"})
        assert isinstance(stream, VideoStream)
        stream.width, stream.height = result.width, result.height
        even = result.width % 2 == result.height % 2 == 0
        stream.pix_fmt = "yuv420p" if even else "yuv444p"  # which alone has odd sizes
        stream.codec_context.time_base = _CLOCK
        sound = _Sound(source, output)
        wanted = set(np.linspace(0, result.total_frames - 1, 8).astype(int).tolist())
        tiles, last = [], -1
        for number, (seconds, frame, saliency) in enumerate(shown):
            hot = heat(frame, saliency)
            if number in wanted:
                tiles.append((seconds, _small(frame), _small(hot)))
            last = max(last + 1, round(seconds / _CLOCK))
            picture = av.VideoFrame.from_ndarray(_labelled(hot, _score_at(result, seconds)))
            picture.pts, picture.time_base = last, _CLOCK
            sound.until(seconds)
            output.mux(stream.encode(picture))
        output.mux(stream.encode(None))
        sound.until(float("inf"))
    return tiles


class _Sound:
    """The first sound track of a file on its way to another, as it is or as AAC."""

    def __init__(self, source: InputContainer, output: OutputContainer):
        self._output = output
        self._packets: Iterator[av.Packet] = iter(())
        self._next: av.Packet | None = None
        track = next(iter(source.streams.audio), None)
        if track is None or track.codec_context is None:
            return
        if track.codec_context.codec.canonical_name in _KEPT_SOUND:
            copy = output.add_stream_from_template(track)
            self._packets = _copied(source, track, copy)
        else:
            encoder = output.add_stream("aac", rate=track.codec_context.sample_rate)
            assert isinstance(encoder, AudioStream)
            self._packets = _encoded(source, track, encoder)
        self._advance()

    def until(self, seconds: float) -> None:
        """Hands over what is heard up to then."""
        while (packet := self._next) is not None:
            begins = packet.dts if packet.dts is not None else packet.pts
            if begins is not None and float(begins * packet.time_base) > seconds:
                return
            self._output.mux(packet)
            self._advance()

    def _advance(self) -> None:
        try:
            self._next = next(self._packets, None)
        except av.FFmpegError:  # damaged sound ends where it is damaged
            self._next = None


def _copied(source: InputContainer, track: AudioStream, copy: AudioStream) -> Iterator[av.Packet]:
    for packet in source.demux(track):
        if packet.size and packet.dts is not None:
            packet.stream = copy
            yield packet


def _encoded(
    source: InputContainer, track: AudioStream, encoder: AudioStream
) -> Iterator[av.Packet]:
    for frame in source.decode(track):
        yield from encoder.encode(frame)
    yield from encoder.encode(None)


def _score_at(result: Result, seconds: float) -> float:
    """The score of the segment at a time; of the video where it has no segments."""
    for segment in result.segments:
        if seconds < segment.end:
            return segment.score
    return result.segments[-1].score if result.segments else result.score


def _labelled(frame: np.ndarray, score: float) -> np.ndarray:
    """A frame with a score in its corner, readable over anything."""
    height, width = frame.shape[:2]
    image = Image.fromarray(frame)
    font = ImageFont.load_default(max(10.0, min(height, width) / 12))
    draw = ImageDraw.Draw(image, "RGBA")
    text, pad = f"{score:.1f}", max(2, height // 80)
    left, top, right, bottom = draw.textbbox((2 * pad, 2 * pad), text, font=font)
    draw.rectangle((left - pad, top - pad, right + pad, bottom + pad), fill=(0, 0, 0, 160))
    draw.text((2 * pad, 2 * pad), text, font=font, fill=(255, 255, 255, 255))
    return np.asarray(image)


def _small(frame: np.ndarray) -> np.ndarray:
    """A frame of the width of a contact sheet's tile, reduced with all its pixels."""
    height, width = frame.shape[:2]
    size = _SHEET_WIDTH, max(1, round(height * _SHEET_WIDTH / width))
    return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.LANCZOS))


def _write_sheet(
    path: Path, tiles: list[tuple[float, np.ndarray, np.ndarray]], result: Result
) -> None:
    """Frames over the same frames with heat, with their times and scores, as one PNG."""
    height = max(tile.shape[0] for _, tile, _ in tiles)
    title, caption = 34, 24
    columns = min(4, len(tiles))
    lines = -(-len(tiles) // columns)
    line = 2 * height + _GAP + caption + _GAP
    sheet = Image.new(
        "RGB",
        (columns * (_SHEET_WIDTH + _GAP) + _GAP, title + _GAP + lines * line),
        (24, 24, 27),
    )
    draw = ImageDraw.Draw(sheet)
    low, high = result.mos_range
    name = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in result.file)
    heading = f"{os.path.basename(name)[:60]}    score {result.score:.1f} of 100    "
    heading += f"MOS {result.mos:.2f} on {low:g}-{high:g}"
    draw.text((_GAP, _GAP), heading, font=ImageFont.load_default(20), fill=(244, 244, 245))
    for number, (seconds, frame, hot) in enumerate(tiles):
        left = _GAP + number % columns * (_SHEET_WIDTH + _GAP)
        top = title + _GAP + number // columns * line
        sheet.paste(Image.fromarray(frame), (left, top))
        sheet.paste(Image.fromarray(hot), (left, top + height + _GAP))
        told = f"{seconds:.2f} s"
        if result.segments:
            told += f"    score {_score_at(result, seconds):.1f}"
        draw.text(
            (left, top + 2 * height + _GAP + 2),
            told,
            font=ImageFont.load_default(15),
            fill=(200, 200, 205),
        )
    partial = path.with_name(f".{path.name}.partial")
    try:
        sheet.save(partial, format="PNG", optimize=True)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
