"""Writing videos with PyAV: whole file or no file."""

import contextlib
import os
from collections.abc import Iterable
from fractions import Fraction

import av
import numpy as np
from av.video.stream import VideoStream

from dagr_jax.runtime.atomic import atomic_file

# SVT-AV1 prints its settings on stderr, a page for each file, unless told to print errors only.
os.environ.setdefault("SVT_LOG", "1")

# Speed first: these settings are for corpora, overlays and tests, where a few per cent of
# bitrate do not matter. `threads=1` so that the same frames give the same file on any machine;
# x264's macroblock tree is off because with it some sizes gave other bytes from run to run.
ENCODERS: dict[str, tuple[str, dict[str, str]]] = {
    "h264": ("libx264", {"preset": "veryfast", "threads": "1", "x264-params": "mbtree=0"}),
    "hevc": (
        "libx265",
        {"preset": "ultrafast", "x265-params": "log-level=none:pools=none:frame-threads=1"},
    ),
    "vp9": (
        "libvpx-vp9",
        {"deadline": "realtime", "cpu-used": "8", "b": "0", "threads": "1", "row-mt": "0"},
    ),
    "av1": ("libsvtav1", {"preset": "10", "svtav1-params": "lp=1"}),
}


def write_video(
    path: str | os.PathLike[str],
    frames: Iterable[np.ndarray],
    *,
    fps: Fraction | int,
    codec: str = "h264",
    crf: int = 20,
    options: dict[str, str] | None = None,
) -> None:
    """Encodes RGB frames to a file, which is there whole or not at all.

    Args:
        path: File to write; its suffix chooses the container (`.mp4`, `.mkv`, `.webm`).
        frames: uint8 arrays (H, W, 3), RGB, all of one even-sized shape.
        fps: Frames per second.
        codec: A key of `ENCODERS`.
        crf: Constant rate factor on the codec's own scale (h264 and hevc 0–51, vp9 and av1 0–63).
        options: More encoder options, over those of `ENCODERS`.

    Raises:
        ValueError: An unknown codec, or no frames.
    """
    if codec not in ENCODERS:
        raise ValueError(f"codec {codec!r} is unknown; one of {', '.join(ENCODERS)}")
    encoder, settings = ENCODERS[codec]
    with atomic_file(path) as partial, av.open(str(partial), "w") as container:
        stream: VideoStream | None = None
        for frame in frames:
            if stream is None:
                added = container.add_stream(
                    encoder, rate=fps, options={**settings, "crf": str(crf), **(options or {})}
                )
                assert isinstance(added, VideoStream)
                stream = added
                stream.height, stream.width = frame.shape[:2]
                stream.pix_fmt = "yuv420p"
                open_encoder(stream)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        if stream is None:
            raise ValueError(f"{path}: there are no frames to write")
        container.mux(stream.encode(None))


def open_encoder(stream: VideoStream) -> None:
    """Opens a stream's encoder, whose threads get no more of the machine than the caller's.

    Where it may, as root in a container, SVT-AV1 gives its threads and the one that opens it the
    highest real-time priority: all else on the machine waits, and the priority passes to every
    process that is started from there.

    Args:
        stream: With its size and format set, before its first frame.
    """
    policy, priority = os.sched_getscheduler(0), os.sched_getparam(0)
    stream.codec_context.open()
    for thread in os.listdir("/proc/self/task"):
        with contextlib.suppress(ProcessLookupError):  # ended meanwhile
            if os.sched_getscheduler(int(thread)) == os.SCHED_FIFO:
                os.sched_setscheduler(int(thread), policy, priority)
