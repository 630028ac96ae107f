"""Small files of the kinds that the world makes and that go wrong, written here with PyAV.

Every frame carries its number in its pixels: eight squares along the top, black or white, bit 0 at
the left. So it can be checked which frames a reader gives, whatever the clock of the file says.
"""

import io
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from av.bitstream import BitStreamFilterContext
from PIL import Image

from tests.video.clips import remux

HEIGHT, WIDTH, RATE = 96, 160, 25
_H264 = {
    "crf": "18",
    "bf": "2",
    "b-adapt": "0",
    "g": "25",
    "threads": "1",
    "x264-params": "mbtree=0",
}


class Odd(NamedTuple):
    """An odd file and what is right for it.

    Attributes:
        path: The file.
        numbers: Numbers of its frames, in order.
        seconds: Its duration.
        begin: When its first frame is shown, in seconds after the file begins to play.
        notes: What the row must say; "" if nothing.
        turned: Whether the frames are shown turned by a quarter.
    """

    path: Path
    numbers: list[int]
    seconds: float
    begin: float = 0.0
    notes: str = ""
    turned: bool = False


def numbered(count: int, first: int = 0) -> np.ndarray:
    """Returns (count, HEIGHT, WIDTH, 3) frames with the numbers first, first + 1, …"""
    rng = np.random.default_rng(0)
    ground = rng.integers(60, 160, (HEIGHT // 8, WIDTH // 8, 3), np.uint8)
    frames = np.repeat([ground.repeat(8, 0).repeat(8, 1)], count, 0)
    side = WIDTH // 8
    for i, frame in enumerate(frames):
        for bit in range(8):
            frame[:side, bit * side : (bit + 1) * side] = 235 * (first + i >> bit & 1)
    return frames


def number_of(frame: np.ndarray) -> int:
    """Reads the number of a frame, also of one that is shown at another size."""
    height, width = frame.shape[:2]
    y = height * (WIDTH // 16) // HEIGHT
    bits = [frame[y, (2 * bit + 1) * width // 16].mean() > 118 for bit in range(8)]
    return sum(bit << i for i, bit in enumerate(bits))


def encode(
    path: Path,
    frames: np.ndarray,
    codec: str = "libx264",
    *,
    times: list[float] | None = None,
    sound: float = 0.0,
    channels: str = "mono",
    sound_codec: str = "aac",
    **fields: int,
) -> Path:
    """Writes frames at RATE, or at the given seconds, and `sound` seconds of a tone."""
    options = _H264 if codec == "libx264" else {}
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=RATE, options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        tick = Fraction(1, RATE) if times is None else Fraction(1, 1000)
        stream.codec_context.time_base = tick
        for name, value in fields.items():
            setattr(stream.codec_context, name, value)
        track = None
        if sound:
            track = container.add_stream(sound_codec, rate=48_000, layout=channels)
        packets = []
        for i, rgb in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(rgb, "rgb24")
            frame.time_base = tick
            frame.pts = round((i / RATE if times is None else times[i]) / tick)
            packets += stream.encode(frame)
        packets += stream.encode(None)
        if track is not None:
            count = 1 if channels == "mono" else 2
            for start in range(0, round(48_000 * sound), 1024):
                wave = np.sin(np.arange(start, start + 1024) / 20) * 8000
                planes = np.repeat(wave[None], count, 0).astype(np.int16)
                tone = av.AudioFrame.from_ndarray(planes, "s16p", channels)
                tone.sample_rate, tone.pts, tone.time_base = 48_000, start, Fraction(1, 48_000)
                packets += track.encode(tone)
            packets += track.encode(None)
        for packet in sorted(packets, key=lambda one: one.dts * one.time_base):
            container.mux(packet)
    return path


def _end_to_end(path: Path, *parts: Path) -> Path:
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path


def joined(home: Path, suffix: str) -> Odd:
    """Two recordings end to end, as `cat a b > c` makes them: the clock starts again."""
    codec = "libx264" if suffix == ".ts" else "mpeg2video"
    parts = [
        encode(
            home / f"part{k}{suffix}", numbered(40, 100 * k), codec, sound=1.6, sound_codec="mp2"
        )
        for k in range(2)
    ]
    path = _end_to_end(home / f"joined{suffix}", *parts)
    return Odd(path, [*range(40), *range(100, 140)], 3.2, notes="its clock jumps (1 x)")


def decoding_times(home: Path) -> Odd:
    """B-frames whose presentation times are their decoding times, as in old AVI files."""
    plain = encode(home / "plain.mkv", numbered(40))
    clock = iter(range(0, 10_000, 40))

    def lie(_, packet):
        packet.pts = packet.dts = next(clock)

    path = remux(plain, home / "decoding_times.mkv", edit=lie)
    return Odd(path, list(range(40)), 1.6, notes="its times go back: shown at 25 frames/s")


def gap(home: Path, leap: int = 60) -> Odd:
    """A clock that leaps in the middle of a recording, and nothing is missing."""
    plain = encode(home / "plain.ts", numbered(40))

    def leaping(number, packet):
        if number >= 20:
            packet.pts += leap * 90_000
            packet.dts += leap * 90_000

    path = remux(plain, home / "gap.ts", edit=leaping)
    return Odd(path, list(range(40)), 1.6, notes="its clock jumps (1 x)")


def late_sound(home: Path) -> Odd:
    """A track that goes on for hours after the last picture."""
    path = home / "late.mkv"
    plain = encode(home / "plain.mp4", numbered(30), sound=1.2)
    with av.open(str(plain)) as source, av.open(str(path), "w") as target:
        copies = {s: target.add_stream_from_template(s) for s in source.streams}
        for packet in source.demux():
            if packet.size:
                late = packet.stream.type == "audio" and packet.pts > 48_000
                packet.stream = copies[packet.stream]
                if late:
                    packet.pts += 5 * 3600 * 48_000
                    packet.dts = packet.pts
                target.mux(packet)
    return Odd(path, list(range(30)), 1.2)


def browser(home: Path) -> Odd:
    """A recording of a browser: VP8 with a clock of milliseconds, and no steady rate."""
    rng = np.random.default_rng(1)
    times = np.cumsum(rng.uniform(0.02, 0.06, 50)).round(3)
    times -= times[0]
    path = encode(home / "browser.webm", numbered(50), "libvpx", times=times.tolist())
    return Odd(path, list(range(50)), float(times[-1]) + 0.04)


def exif(home: Path) -> Odd:
    """MJPEG of a camera whose pictures have an Exif block, which PyAV does not name."""
    path = home / "exif.avi"
    tags = Image.Exif()
    tags[0x010F] = "a camera"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=RATE)
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuvj420p"
        for i, frame in enumerate(numbered(10)):
            data = io.BytesIO()
            Image.fromarray(frame).save(data, "JPEG", quality=90, subsampling="4:2:0", exif=tags)
            packet = av.Packet(data.getvalue())
            packet.stream, packet.pts, packet.dts = stream, i, i
            packet.time_base, packet.is_keyframe = Fraction(1, RATE), True
            container.mux(packet)
    return Odd(path, list(range(10)), 0.4)


def unknown_matrix(home: Path) -> Odd:
    """A matrix tag that FFmpeg's converter refuses."""
    path = encode(home / "ycgco.mp4", numbered(20), colorspace=8)
    note = "its colour matrix (ycgco) is not supported: read as untagged"
    return Odd(path, list(range(20)), 0.8, notes=note)


def sound_changes(home: Path) -> Odd:
    """Mono and stereo in one track."""
    parts = [
        encode(
            home / f"{kind}.ts",
            numbered(25, 25 * k),
            "mpeg2video",
            sound=1.0,
            channels=kind,
            sound_codec="mp2",
        )
        for k, kind in enumerate(("mono", "stereo"))
    ]
    path = _end_to_end(home / "sound_changes.ts", *parts)
    return Odd(path, list(range(50)), 2.0, notes="its clock jumps (1 x)")


def late_picture(home: Path) -> Odd:
    """Two seconds of sound before the first picture."""
    times = [2 + i / RATE for i in range(25)]
    path = encode(home / "late_picture.mp4", numbered(25), times=times, sound=3.0)
    return Odd(path, list(range(25)), 1.0, begin=2.0)


def turned_by_sei(home: Path) -> Odd:
    """Only the key frames say that the pictures are turned."""
    plain = encode(home / "upright.ts", numbered(40))
    path = home / "turned.ts"
    with av.open(str(plain)) as source, av.open(str(path), "w") as target:
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        turn = BitStreamFilterContext("h264_metadata=rotate=90:display_orientation=insert", stream)
        for packet in [*source.demux(stream)]:
            for one in turn.filter(packet if packet.size else None):
                one.stream = copy
                target.mux(one)
    return Odd(path, list(range(40)), 1.6, turned=True)


KINDS = {
    "joined_ts": lambda home: joined(home, ".ts"),
    "joined_mpg": lambda home: joined(home, ".mpg"),
    "decoding_times": decoding_times,
    "gap": gap,
    "late_sound": late_sound,
    "browser": browser,
    "exif": exif,
    "unknown_matrix": unknown_matrix,
    "sound_changes": sound_changes,
    "late_picture": late_picture,
    "turned_by_sei": turned_by_sei,
}


def encrypted(home: Path) -> Path:
    """Pictures that decode to noise: all but the first bytes of each packet are random."""
    rng = np.random.default_rng(2)
    plain = encode(home / "open.mp4", numbered(40))

    def scramble(_, packet):
        data = np.frombuffer(bytes(packet), np.uint8).copy()
        data[12:] = rng.integers(0, 256, max(len(data) - 12, 0), np.uint8)
        packet.update(data.tobytes())

    return remux(plain, home / "encrypted.mp4", edit=scramble)
