"""Makes the videos of the starter corpus and measures them against their pristine scenes.

Each content is a job of its own. Its videos and measures are complete, or they are made again, so
that an interrupted call continues where it stopped. The result does not depend on the number of
processes.
"""

import concurrent.futures
import dataclasses
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from dagr_jax import __version__
from dagr_jax.data.prepare import worker_pool
from dagr_jax.data.starter import delivery, masters, measure
from dagr_jax.data.starter.sources import Source, find
from dagr_jax.runtime.atomic import atomic_file
from dagr_jax.runtime.errors import DagrError, environment


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Settings of the corpus.

    Attributes:
        seed: Seed of all contents.
        contents: Number of contents (train, val, test).
        frames: Number of frames of a video.
    """

    seed: int
    contents: tuple[int, int, int]
    frames: int

    def part(self, content: int) -> str:
        """Returns the part of a content: "train", "val" or "test"."""
        train, val, _ = self.contents
        return "train" if content < train else "val" if content < train + val else "test"


def make(folder: Path, source: Path, corpus: Corpus, workers: int) -> list[dict[str, Any]]:
    """Makes the videos of the corpus in `folder/videos`, and their measures in `folder/made`.

    Args:
        folder: Folder to fill. What an earlier call with the same settings made is kept.
        source: Folder of the photographs and clips (`sources.find`).
        corpus: Settings of the corpus.
        workers: Number of processes.

    Returns:
        For each video, in the order of the contents: its name, content, part, how it was made
        (`delivery.Delivery`) and its measures (`measure.NAMES`).

    Raises:
        DagrError: Sources are missing, there is no tool to measure with, or the folder has videos
            of other sources or settings.
    """
    found = find(source)
    measure.tool()
    with environment(folder):
        for name in ("videos", "made"):
            (folder / name).mkdir(parents=True, exist_ok=True)
    _claim(folder, corpus, found)
    count = sum(corpus.contents)
    missing = [c for c in range(count) if not _facts(folder, c).is_file()]
    with (
        tqdm(
            desc="make", total=count, initial=count - len(missing), unit="content", disable=None
        ) as bar,
        worker_pool(workers) as pool,
    ):
        jobs = [pool.submit(_make, folder, corpus, found, content) for content in missing]
        for job in concurrent.futures.as_completed(jobs):
            job.result()
            bar.update()
    return [row for c in range(count) for row in json.loads(_facts(folder, c).read_text())]


def _claim(folder: Path, corpus: Corpus, found: Sequence[Source]) -> None:
    """Notes what the videos are made from; refuses a folder with videos of something else."""
    told = {
        "version": __version__,
        **dataclasses.asdict(corpus),
        "sources": [[one.name, one.part, one.path.stat().st_size] for one in found],
    }
    home, wanted = folder / "made" / "from.json", json.dumps(told)
    if home.is_file() and home.read_text() != wanted:
        raise DagrError(
            folder,
            "holds videos of other sources, settings or another version",
            "delete it, or give the same sources",
        )
    with atomic_file(home) as partial:
        partial.write_text(wanted)


def _facts(folder: Path, content: int) -> Path:
    return folder / "made" / f"content{content:04d}.json"


def _make(folder: Path, corpus: Corpus, found: Sequence[Source], content: int) -> None:
    """Makes the videos of a content and writes their facts."""
    rng = np.random.default_rng([corpus.seed, content])
    part = corpus.part(content)
    own = [source for source in found if source.part == part]
    scene = masters.render(rng, own, corpus.frames)
    height, width = scene.frames.shape[1:3]
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        reference = Path(scratch) / "reference.mkv"
        measure.write_reference(reference, scene.frames, scene.fps)
        for number, how in enumerate(delivery.plan(rng, min(height, width))):
            name = f"content{content:04d}_{number}{how.suffix}"
            path = folder / "videos" / name
            delivery.deliver(path, scene.frames, scene.fps, how, rng)
            rows.append(
                {
                    "video": name,
                    "content": f"content{content:04d}",
                    "split": part,
                    "scene": scene.kind,
                    "absolute": scene.absolute,
                    "scene_height": height,
                    "scene_width": width,
                    **dataclasses.asdict(how),
                    **measure.measure(path, reference, (height, width)),
                    "sources": list(scene.sources),
                }
            )
    with atomic_file(_facts(folder, content)) as partial:
        partial.write_text(json.dumps(rows, indent=1) + "\n")
