"""`dagr bench decode`: 8 frames of a 1080p clip, compared with decoding more frames."""

import multiprocessing
import tempfile
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from dagr_jax.bench.timing import alternate, ratio, row
from dagr_jax.runtime.machine import machine
from dagr_jax.video.decode import decode_frames, read_clip
from dagr_jax.video.sampling import sample_indices

HEIGHT, WIDTH, LENGTH, FPS = 1080, 1920, 240, 30


def measure(rounds: int = 5) -> dict[str, Any]:
    """Times decoding of a clip with a key frame every second, and of one with one every 10 s.

    The sides are "ours" (the decoder of the scorer), "in_order" (decode every frame, convert the
    chosen ones) and "every_frame" (decode and convert every frame). All return the same frames and
    use one thread. "ours" also counts the frames first; the others get the frame count.

    Args:
        rounds: Number of timed rounds, after one warm-up round.

    Returns:
        "machine", "rows", and "ratios" ours / theirs (below 1 is faster), with the keys
        `decode_<seconds between key frames>s/<side>`.

    Raises:
        RuntimeError: The sides return different frames.
    """
    rows, ratios = [], {}
    chosen = sample_indices(LENGTH, 8)
    with tempfile.TemporaryDirectory() as folder:
        for gap in (1, 10):
            path = Path(folder) / f"key{gap}.mp4"
            write_clip(path, gap * FPS)
            sides = {
                "ours": lambda path=path: read_clip(path, 8)[0],
                "in_order": lambda path=path: read_in_order(path, chosen, every=False),
                "every_frame": lambda path=path: read_in_order(path, chosen, every=True),
            }
            first = {name: side() for name, side in sides.items()}
            if not all(np.array_equal(frames, first["ours"]) for frames in first.values()):
                raise RuntimeError(f"the sides do not agree on the frames of a clip with {gap} s")
            seconds = alternate(sides, rounds)
            for name, times in seconds.items():
                rows.append(row(f"decode_{gap}s_{name}", times))
                if name != "ours":
                    ratios[f"decode_{gap}s/{name}"] = ratio(seconds["ours"], times)
            rows[-3]["peak_memory_mb"] = _peak(path)
    return {"machine": machine(), "rows": rows, "ratios": ratios}


def write_clip(path: Path, gop: int, seed: int = 0) -> None:
    """Writes a moving clip with as much detail as a photograph.

    Args:
        path: File to write.
        gop: Number of frames between key frames.
        seed: Seed of the noise.
    """
    rng = np.random.default_rng(seed)
    grain = rng.normal(0, 6, (HEIGHT + LENGTH, WIDTH + LENGTH, 1))
    y, x = np.mgrid[: HEIGHT + LENGTH, : WIDTH + LENGTH]
    waves = np.stack([np.sin(x / k) * np.cos(y / (k + 7)) for k in (23, 41, 97)], -1)
    scene = np.clip(128 + 90 * waves + grain, 0, 255).astype(np.uint8)
    options = {"preset": "veryfast", "crf": "23", "threads": "1"}
    options["x264-params"] = f"keyint={gop}:min-keyint={gop}:scenecut=0:mbtree=0"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options=options)
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        for i in range(LENGTH):
            window = scene[i // 4 : i // 4 + HEIGHT, i : i + WIDTH]
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(window), "rgb24")
            frame.pts, frame.time_base = i, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def read_in_order(path: Path, chosen: np.ndarray, *, every: bool, threads: int = 1) -> np.ndarray:
    """Decodes all frames in order and returns the chosen ones.

    Args:
        path: Video file.
        chosen: (n,) indices of the frames, ascending.
        every: Convert every frame to RGB, not only the chosen ones.
        threads: Number of decoder threads; 0: the decoder chooses.

    Returns:
        (n, H, W, 3) uint8.
    """
    wanted, kept = set(chosen.tolist()), []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_count = threads
        stream.thread_type = "AUTO"
        for i, frame in enumerate(container.decode(stream)):
            if every or i in wanted:
                picture = frame.to_ndarray(format="rgb24")
                if i in wanted:
                    kept.append(picture)
    return np.stack(kept)


def _peak(path: Path) -> float:
    """Returns the peak memory of decoding in a new process, in MB, including Python itself."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_resident_after, (path,))


def _resident_after(path: Path) -> float:
    decode_frames(path, sample_indices(LENGTH, 8), (224, 398))
    # Not getrusage: its value is inherited from the parent process.
    status = Path("/proc/self/status").read_text()
    kilobytes = next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]
    return round(int(kilobytes) / 1024, 1)
