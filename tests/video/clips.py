"""Small real video files for the tests, written with PyAV."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from dagr_jax.video.clip import Clip, ClipPlan, Piece
from dagr_jax.video.encode import open_encoder

# name: (encoder, suffix, options); h264 and hevc with B-frames. x264's macroblock tree is off: it
# reads uninitialised memory, so that the same frames give a different file in a few % of the runs.
ENCODERS = {
    "h264": (
        "libx264",
        ".mp4",
        {"bf": "3", "b-adapt": "0", "crf": "18", "threads": "1", "x264-params": "mbtree=0"},
    ),
    "hevc": ("libx265", ".mp4", {"x265-params": "bframes=3:b-adapt=0:log-level=none:pools=none"}),
    "vp9": ("libvpx-vp9", ".webm", {"deadline": "realtime", "cpu-used": "8", "crf": "20"}),
    "av1": ("libsvtav1", ".mkv", {"preset": "12", "crf": "20", "svtav1-params": "lp=1"}),
}


def moving_bar(n, height=48, width=64):
    """Makes distinguishable frames: a bright bar with its left edge at 2 * i, over a ramp.

    Returns:
        (n, height, width, 3) uint8.
    """
    frames = np.zeros((n, height, width, 3), np.uint8)
    frames[..., 1] = np.linspace(20, 120, height, dtype=np.uint8)[:, None]
    for i in range(n):
        left = 2 * i % (width - 8)
        frames[i, :, left : left + 8] = 235
    return frames


def write(path, frames, codec="h264", *, rate=25, pix_fmt="yuv420p", times=None, **options):
    """Encodes RGB frames; `times` are presentation times in units of 1/rate.

    `rotation`, `hflip`, `vflip` set the display matrix (rotation counter-clockwise, then mirrored).
    """
    turn = {key: options.pop(key) for key in ("rotation", "hflip", "vflip") if key in options}
    encoder, _, settings = ENCODERS[codec]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(encoder, rate=rate, options={**settings, **options})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pix_fmt
        if turn:
            stream.set_display_rotation(turn.pop("rotation", 0), **turn)
        open_encoder(stream)
        for i, rgb in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(rgb, "rgb24")
            frame.time_base = Fraction(1, rate)
            frame.pts = i if times is None else times[i]
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def remux(source, target, *, edit=None, **options):
    """Copies the packets to another container.

    `edit(i, packet)` may change packet i, or return False to drop it.
    """
    with av.open(str(source)) as inside, av.open(str(target), "w", options=options) as outside:
        stream = inside.streams.video[0]
        copy = outside.add_stream_from_template(stream)
        for i, packet in enumerate(p for p in inside.demux(stream) if p.size):
            packet.stream = copy
            if edit is None or edit(i, packet) is not False:
                outside.mux(packet)
    return target


def flat_colour(path, yuv, *, pix_fmt="yuv420p", colorspace=1, color_range=1):
    """Writes one lossless 64x48 frame of one (y, u, v), with colour tags (FFmpeg's numbers)."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"qp": "0"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, pix_fmt
        stream.codec_context.colorspace = colorspace
        stream.codec_context.color_range = color_range
        frame = av.VideoFrame(64, 48, pix_fmt)
        for plane, value in zip(frame.planes, yuv, strict=True):
            plane.update(np.full((plane.height, plane.line_size), value, np.uint8).tobytes())
        frame.pts, frame.time_base = 0, Fraction(1, 25)
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def tone(path, cover=None):
    """Writes a sound file, optionally with a cover picture."""
    with av.open(str(path), "w") as container:
        sound = container.add_stream("aac", rate=44100, layout="stereo")
        if cover is not None:
            picture = container.add_stream("mjpeg", rate=25)
            picture.height, picture.width = cover.shape[:2]
            picture.pix_fmt = "yuvj420p"
            picture.disposition = av.stream.Disposition.attached_pic
        for _ in range(5):
            frame = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), "fltp", "stereo")
            frame.sample_rate = 44100
            container.mux(sound.encode(frame))
        container.mux(sound.encode(None))
        if cover is not None:
            container.mux(picture.encode(av.VideoFrame.from_ndarray(cover, "rgb24")))
            container.mux(picture.encode(None))
    return path


def decode_all(path):
    """Decodes every frame with PyAV only: (pts, rgb24) in the decoder's output order."""
    with av.open(str(path)) as container:
        return [(f.pts, f.to_ndarray(format="rgb24")) for f in container.decode(video=0)]


def gathered(messages):
    """What `read_clips` yields, with the pieces of each clip put together.

    Returns:
        (ClipPlan, {(start, length): {stream: frames}}, VideoInfo, number of plans).
    """
    plan, info, plans = None, None, 0
    for message in messages:
        if isinstance(message, ClipPlan):
            plan, clips, pieces, plans = message, {}, {}, plans + 1
        elif isinstance(message, Piece):
            own = pieces.setdefault((message.start, message.length), {})
            own.setdefault(message.stream, []).append(message)
        elif isinstance(message, Clip):
            bound = message.start, message.length
            assert bound not in clips  # each once, its pieces before it
            clips[bound] = {**message.inputs, **joined(pieces.pop(bound, {}))}
        else:
            info = message
    assert not pieces
    return plan, clips, info, plans


def joined(pieces):
    """{stream: pieces, in any order} → {stream: all of its frames}."""
    found = {}
    for name, own in pieces.items():
        places = np.concatenate([piece.places for piece in own])
        order = np.argsort(places)
        np.testing.assert_array_equal(places[order], np.arange(len(places)))
        found[name] = np.concatenate([piece.frames for piece in own], axis=-4)[..., order, :, :, :]
    return found


def write_rated(folder: Path) -> None:
    """Writes 24 clips of 24 contents with a label list, for the data set `folder`."""
    folder.mkdir()
    rows = ["file,mos,content"]
    for i in range(24):
        frames = moving_bar(6, height=32, width=48) // (1 + i % 4)
        frames[..., 0] = i  # no two files are the same
        write(folder / f"{i}.mp4", frames)
        rows.append(f"{i}.mp4,{1 + i % 4},scene{i}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
