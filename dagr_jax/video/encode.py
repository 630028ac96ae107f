"""Atomic writing of video files with PyAV."""

import contextlib
import os
from collections.abc import Iterable
from fractions import Fraction

import av
import numpy as np
from av.video.stream import VideoStream

from dagr_jax.runtime.atomic import atomic_file

# Print only errors. By default, SVT-AV1 prints a page of settings on stderr for each file.
os.environ.setdefault("SVT_LOG", "1")

# Fast settings: they are for corpora, overlays and tests, where a few per cent of bitrate do not
# matter. `threads=1` gives the same file for the same frames on any machine. x264's macroblock tree
# is off, because with it the bytes differed from run to run at some frame sizes.
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
    "mpeg2": ("mpeg2video", {"threads": "1", "bf": "2", "g": "15"}),
    "mpeg4": ("mpeg4", {"threads": "1", "bf": "1"}),
}
# These encoders have no constant rate factor. A constant quantiser from 1 to 31 takes its place.
_QUANTISED = ("mpeg2", "mpeg4")


def write_video(
    path: str | os.PathLike[str],
    frames: Iterable[np.ndarray],
    *,
    fps: Fraction | int,
    codec: str = "h264",
    crf: int = 20,
    options: dict[str, str] | None = None,
) -> None:
    """Encodes RGB frames to a file, atomically.

    Args:
        path: File to write; its suffix selects the container (`.mp4`, `.mkv`, `.webm`).
        frames: (H, W, 3) uint8 RGB frames, all of the same shape, with even H and W.
        fps: Frames per second.
        codec: Key of `ENCODERS`.
        crf: Constant rate factor on the scale of the codec (h264 and hevc 0–51, vp9 and av1 0–63);
            with mpeg2 and mpeg4 the quantiser, 1–31.
        options: Further encoder options; they override those of `ENCODERS`.

    Raises:
        ValueError: The codec is unknown, or there are no frames.
    """
    if codec not in ENCODERS:
        raise ValueError(f"codec {codec!r} is unknown; one of {', '.join(ENCODERS)}")
    encoder, settings = ENCODERS[codec]
    rate = {"crf": str(crf)}
    if codec in _QUANTISED:
        rate = {"qmin": str(crf), "qmax": str(crf)}
    with atomic_file(path) as partial, av.open(str(partial), "w") as container:
        stream: VideoStream | None = None
        for frame in frames:
            if stream is None:
                added = container.add_stream(
                    encoder, rate=fps, options={**settings, **rate, **(options or {})}
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
    """Opens the encoder of a stream and resets the priority of its threads to that of the caller.

    If it has the permission (for example as root in a container), SVT-AV1 gives its threads, and
    the thread that opens it, the highest real-time priority. All other programs on the machine then
    wait, and every process that this thread starts inherits the priority.

    Args:
        stream: Stream with its size and format set, before its first frame.
    """
    policy, priority = os.sched_getscheduler(0), os.sched_getparam(0)
    stream.codec_context.open()
    for thread in os.listdir("/proc/self/task"):
        with contextlib.suppress(ProcessLookupError):  # the thread has ended in the meantime
            if os.sched_getscheduler(int(thread)) == os.SCHED_FIFO:
                os.sched_setscheduler(int(thread), policy, priority)
