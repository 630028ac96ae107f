"""The embedded corpus: clips with known distortions, made on the spot.

Its labels are **not human opinion**. A clip's label is the GMSD of its delivered frames against
the pristine ones, with a term for repeated frames, mapped to 1–5 (`mos_from_gmsd`). It serves to
train, test and time the whole system without a download; a model that is to judge real videos
wants a data set of human ratings.
"""

import concurrent.futures
import csv
import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from dagr_jax.data import gmsd, scenes
from dagr_jax.data.distortions import Distortion, distort, plan, repeated_fraction
from dagr_jax.data.prepare import (
    WHOLE,
    Frames,
    Quality,
    Saliency,
    Sampling,
    pack,
    quality_record,
    worker_pool,
    write_shard,
)
from dagr_jax.data.records import Clip, Listed, file_digest, write_list
from dagr_jax.runtime.errors import environment
from dagr_jax.video.decode import decode_frames
from dagr_jax.video.encode import write_video

MOS_RANGE = (1.0, 5.0)
DISCLAIMER = "Labels are GMSD against the pristine clip, mapped to 1-5. They are not human opinion."

# Photographs are split with the contents: none stands on two sides. Each side has busy ones and
# quiet ones, of which GMSD judges the same damage differently.
PHOTOGRAPHS = {
    "test": ["coffee", "china", "gravel"],
    "val": ["coins", "rocket"],
}
PHOTOGRAPHS["train"] = [
    p for p in scenes.PHOTOGRAPHS if p not in PHOTOGRAPHS["test"] + PHOTOGRAPHS["val"]
]
# (height, width) and how often: wide, large and upright clips, all with a real clip's habit of
# being larger than the network's 224 × 398.
SIZES = [((270, 480), 0.6), ((360, 640), 0.2), ((480, 270), 0.2)]


@dataclasses.dataclass(frozen=True)
class Corpus:
    """What is made: `contents` scenes of `frames` frames, five deliveries each.

    Attributes:
        seed: All contents follow from it.
        contents: Number of contents (train, val, test).
        frames: Frames a clip.
        fixations: Simulated gaze points a frame.
        distortions: What happens to them, of `distortions.PLANS`.
        patches: How much of a background is of photographs, in [0, 1]; the rest is drawn.
    """

    seed: int
    contents: tuple[int, int, int]
    frames: int
    fixations: int
    distortions: str
    patches: float


def mos_from_gmsd(mean_gmsd: float, repeated: float) -> float:
    """The label: 1 + 4·exp(−(GMSD + 0.04·repeated) / 0.1), in (1, 5].

    Args:
        mean_gmsd: GMSD averaged over the frames, each against the source frame it shows.
        repeated: Share of frames, in [0, 1], that repeat the one before. A clip that shows every
            frame twice loses as much as one whose GMSD is higher by 0.02.
    """
    low, high = MOS_RANGE
    return low + (high - low) * float(np.exp(-(mean_gmsd + 0.04 * repeated) / 0.1))


def _split_of(corpus: Corpus, content: int) -> str:
    train, val, _ = corpus.contents
    return "train" if content < train else "val" if content < train + val else "test"


def _deliver(path: Path, frames: np.ndarray, distortion: Distortion, fps: int) -> None:
    """Compresses as the distortion says, and writes what comes out of it as the clip's file."""
    if distortion.codec is not None and distortion.crf is not None:
        compressed = path.with_suffix(".mkv")  # Matroska takes every codec
        write_video(compressed, frames, fps=fps, codec=distortion.codec, crf=distortion.crf)
        frames = decode_frames(compressed, np.arange)
        compressed.unlink()
    fastest = {"preset": "ultrafast"}
    write_video(path, frames, fps=fps, crf=distortion.delivery_crf, options=fastest)


def _make_content(
    corpus: Corpus, content: int, folder: Path, sampling: Sampling, map_size: tuple
) -> list[dict[str, str]]:
    """Renders a content and writes its five clips and their shards; returns the label rows."""
    rng = np.random.default_rng([corpus.seed, content])
    split = _split_of(corpus, content)
    sizes, chances = zip(*SIZES, strict=True)
    height, width = sizes[rng.choice(len(sizes), p=chances)]
    fps = int(rng.choice([24, 25, 30]))
    scene = scenes.render(
        rng, PHOTOGRAPHS[split], height, width, corpus.frames, patches=corpus.patches
    )
    gradients = [gmsd.gradient_magnitude(gmsd.luminance(f)) for f in scene.frames]
    density = [scenes.gaze_map(scene, t, map_size) for t in range(corpus.frames)]
    fixated = [scenes.fixations(d, corpus.fixations, rng) for d in density]

    rows = []
    for number, distortion in enumerate(plan(rng, corpus.distortions)):
        frames, shown = distort(scene.frames, distortion, rng)
        coded = distortion.codec or "uncompressed"
        name = f"content{content:03d}_{number}_{distortion.kind}_{coded}.mp4"
        path = folder / "videos" / name
        _deliver(path, frames, distortion, fps)
        scores = [
            gmsd.gmsd(gradients[s], gmsd.gradient_magnitude(gmsd.luminance(decoded)))
            for s, decoded in zip(shown, decode_frames(path, np.arange), strict=True)
        ]
        mos = mos_from_gmsd(float(np.mean(scores)), repeated_fraction(shown))
        clip = Clip(name, f"content{content:03d}", round(mos, 6))
        indices = sampling.indices(corpus.frames)
        maps = np.stack([density[shown[i]] for i in indices])
        write_shard(
            folder / "shards" / f"{name}.npz",
            {
                **quality_record(path, clip, sampling),
                "maps": (maps / maps.max((1, 2), keepdims=True) * 255 + 0.5).astype(np.uint8),
                "fixations": np.stack([fixated[shown[i]] for i in indices]),
            },
        )
        rows.append(
            {
                "video": name,
                "content": clip.content,
                "split": split,
                "mos": f"{clip.mos:.6f}",
                "kind": distortion.kind,
                "level": f"{distortion.level:.4f}",
                "codec": distortion.codec or "",
                "crf": "" if distortion.crf is None else str(distortion.crf),
                "delivery_crf": str(distortion.delivery_crf),
            }
        )
    return rows


def prepare(
    folder: Path,
    *,
    sampling: Sampling,
    map_size: tuple[int, int],
    workers: int,
    seed: int,
    contents: Sequence[int],
    frames: int,
    fixations: int,
    distortions: str,
    patches: float,
) -> None:
    """Makes the corpus in an empty folder: `videos/`, `labels.csv` and the record sets.

    The contents are made in parallel processes; the result does not depend on their number.

    Args:
        folder: Empty folder to fill.
        sampling: Which frames of a clip are stored, and at which size.
        map_size: (h, w) of the stored gaze maps and of the saliency set's frames.
        workers: Number of processes.
        seed, contents, frames, fixations, distortions, patches: See `Corpus`.
    """
    train, val, test = contents
    corpus = Corpus(seed, (train, val, test), frames, fixations, distortions, patches)
    with environment(folder):
        for name in ("videos", "shards"):
            (folder / name).mkdir()
    numbers = range(sum(corpus.contents))
    with worker_pool(workers) as pool:
        made = [pool.submit(_make_content, corpus, c, folder, sampling, map_size) for c in numbers]
        progress = tqdm(
            concurrent.futures.as_completed(made),
            total=len(made),
            desc="prepare",
            unit="content",
            disable=None,
        )
        for job in progress:
            job.result()
        labels = [row for job in made for row in job.result()]
        shards = {WHOLE: [folder / "shards" / f"{row['video']}.npz" for row in labels]}
        # The longest first, so that the others are packed beside it.
        kinds = (Frames, Saliency, Quality)
        for packed in [pool.submit(pack, kind, folder, shards) for kind in kinds]:
            packed.result()
    with environment(folder), open(folder / "labels.csv", "w", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(labels[0]))
        writer.writeheader()
        writer.writerows(labels)
    digests = [file_digest(folder / "videos" / row["video"]) for row in labels]
    write_list(
        folder,
        [
            Listed(row["video"], row["content"], row["split"], digest)
            for row, digest in zip(labels, digests, strict=True)
        ],
    )
    with environment(folder):
        (folder / "README.txt").write_text(DISCLAIMER + "\n")
    shutil.rmtree(folder / "shards")
