"""`dagr bench loader`: does data loading keep up with a training step?"""

import contextlib
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from dagr_jax.bench.timing import row
from dagr_jax.data import loader
from dagr_jax.data.prepare import (
    WHOLE,
    Frames,
    Quality,
    open_records,
    pack,
    pack_stream,
    write_shard,
)
from dagr_jax.runtime.machine import machine

SIZE, FRAMES = (224, 398), 8


def measure(
    steps: int = 200, step_s: float = 0.05, batch_size: int = 5, workers: int = 2, videos: int = 100
) -> dict[str, Any]:
    """Simulates training: takes a batch, then sleeps for the duration of an accelerator's step.

    Batches have 8 frames of 224 × 398 and their maps, read from records as in a run. The pictures
    are photographs, so that decompression takes a realistic time.

    Args:
        steps: Number of timed steps, after ten warm-up steps.
        step_s: Duration of a step in seconds.
        batch_size: Videos per batch.
        workers: Number of reader processes.
        videos: Number of videos in the set.

    Returns:
        "machine", "rows" with the time that a step waits for its batch, and "ratios", where `fed`
        is the share of the time in which a step ran.
    """
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        _write_set(home, videos)
        maps = open_records(home, "maps", "train")
        source = loader.QualitySource(home, np.arange(videos), (1.0, 5.0), {"maps": maps})
        batches = loader.train_iterator(source, batch_size=batch_size, seed=0, workers=workers)
        waits = []
        with contextlib.closing(batches):
            for number in range(10 + steps):
                begin = time.perf_counter()
                next(batches)
                if number >= 10:
                    waits.append(time.perf_counter() - begin)
                time.sleep(step_s)
    fed = step_s * steps / (step_s * steps + sum(waits))
    settings = {"step_s": step_s, "batch_size": batch_size, "workers": workers}
    return {
        "machine": machine(),
        "rows": [row("wait_for_a_batch", waits, mean_s=statistics.fmean(waits), **settings)],
        "ratios": {"fed": round(fed, 4)},
    }


def _write_set(home: Path, videos: int) -> None:
    from skimage import data

    picture = np.tile(data.astronaut(), (2, 2, 1))
    rng = np.random.default_rng(0)
    shards = []
    for i in range(videos):
        y, x = rng.integers(0, [picture.shape[0] - SIZE[0], picture.shape[1] - SIZE[1] - FRAMES])
        frames = np.stack(
            [picture[y : y + SIZE[0], x + t : x + t + SIZE[1]] for t in range(FRAMES)]
        )
        shards.append(home / f"{i}.npz")
        label = {
            "mos": np.float32(1 + 4 * i / videos),
            "relative": np.bool_(False),
            "length": np.int32(240),
        }
        rates = {"bit_rate": np.float32(1e6), "fps": np.float32(30)}
        size = {"height": np.int32(1080), "width": np.int32(1920)}
        names = {"video": f"{i}.mp4", "content": str(i)}
        maps = frames.mean(-1).astype(np.uint8)
        record = {**names, **label, **rates, **size, "frames": frames, "entries": maps}
        write_shard(shards[-1], record)
    for kind in (Quality, Frames):
        pack(kind, home, {WHOLE: shards})
    pack_stream(home, "maps", {"train": shards})
