"""The embedded corpus: generated clips with known distortions.

Its labels are **not human opinion**. The label of a clip is the GMSD of its delivered frames
against the pristine frames, plus a term for repeated frames, mapped to 1–5 (`mos_from_gmsd`). The
corpus makes it possible to train, test and time the whole system without a download. A model for
real videos needs a data set with human ratings.
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
    Gaze,
    Quality,
    Saliency,
    pack,
    quality_record,
    worker_pool,
    write_shard,
)
from dagr_jax.data.records import Clip, Listed, file_digest, write_list
from dagr_jax.runtime.errors import environment
from dagr_jax.video.decode import decode_frames, read_stream
from dagr_jax.video.encode import write_video
from dagr_jax.video.inputs import Stream

MOS_RANGE = (1.0, 5.0)
DISCLAIMER = "Labels are GMSD against the pristine clip, mapped to 1-5. They are not human opinion."

# Each photograph is used in one part only. Each part has detailed and smooth photographs, because
# GMSD rates the same distortion differently on them.
PHOTOGRAPHS = {
    "test": ["coffee", "china", "gravel"],
    "val": ["coins", "rocket"],
}
PHOTOGRAPHS["train"] = [
    p for p in scenes.PHOTOGRAPHS if p not in PHOTOGRAPHS["test"] + PHOTOGRAPHS["val"]
]
# ((height, width), probability) of wide, large and upright clips. Like real clips, all are larger
# than the 224 × 398 of the network.
SIZES = [((270, 480), 0.6), ((360, 640), 0.2), ((480, 270), 0.2)]


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Settings of the corpus. Each content is delivered as five distorted clips.

    Attributes:
        seed: Seed of all contents.
        contents: Number of contents (train, val, test).
        frames: Number of frames per clip.
        fixations: Number of simulated gaze points per frame.
        distortions: Plan of the distortions, from `distortions.PLANS`.
        patches: Mean share of the background that shows photographs, in [0, 1]; the rest is drawn.
    """

    seed: int
    contents: tuple[int, int, int]
    frames: int
    fixations: int
    distortions: str
    patches: float


def mos_from_gmsd(mean_gmsd: float, repeated: float) -> float:
    """Computes the label 1 + 4·exp(−(GMSD + 0.04·repeated) / 0.1).

    Args:
        mean_gmsd: Mean over the frames of the GMSD between a frame and the source frame it shows.
        repeated: Share of frames, in [0, 1], that repeat the previous frame. Showing every frame
            twice has the same effect as a GMSD that is higher by 0.02.

    Returns:
        The label, in (1, 5].
    """
    low, high = MOS_RANGE
    return low + (high - low) * float(np.exp(-(mean_gmsd + 0.04 * repeated) / 0.1))


def _split_of(corpus: Corpus, content: int) -> str:
    train, val, _ = corpus.contents
    return "train" if content < train else "val" if content < train + val else "test"


def _deliver(path: Path, frames: np.ndarray, distortion: Distortion, fps: int) -> None:
    """Compresses the frames with the codec of the distortion, if any, and writes the clip."""
    if distortion.codec is not None and distortion.crf is not None:
        compressed = path.with_suffix(".mkv")  # Matroska supports every codec
        write_video(compressed, frames, fps=fps, codec=distortion.codec, crf=distortion.crf)
        frames = decode_frames(compressed, np.arange)
        compressed.unlink()
    fastest = {"preset": "ultrafast"}
    write_video(path, frames, fps=fps, crf=distortion.delivery_crf, options=fastest)


def _make_content(
    corpus: Corpus,
    content: int,
    folder: Path,
    stream: Stream,
    map_size: tuple[int, int],
    gaze_frames: int,
) -> list[dict[str, str]]:
    """Renders a content and writes its five clips and their shards. Returns the label rows."""
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
    fixated = [scenes.fixations(d, corpus.fixations, (height, width), rng) for d in density]

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
        record, seen = quality_record(path, clip, stream), stream
        if gaze_frames:
            seen = dataclasses.replace(stream, frames=gaze_frames)
            record["gaze_frames"], _ = read_stream(path, seen)
        looked = [shown[i] for i in seen.indices(corpus.frames)]
        maps = np.stack([density[s] for s in looked])
        points = [np.insert(fixated[s], 0, t, axis=1) for t, s in enumerate(looked)]
        write_shard(
            folder / "shards" / f"{name}.npz",
            {
                **record,
                "maps": (maps / maps.max((1, 2), keepdims=True) * 255 + 0.5).astype(np.uint8),
                "points": np.concatenate(points),
                "shape": np.array([height, width], np.int32),
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
    stream: Stream,
    map_size: tuple[int, int],
    gaze_frames: int,
    workers: int,
    seed: int,
    contents: Sequence[int],
    frames: int,
    fixations: int,
    distortions: str,
    patches: float,
) -> None:
    """Makes the corpus in an empty folder: `videos/`, `labels.csv` and the record sets.

    The contents are made in parallel processes. The result does not depend on their number.

    Args:
        folder: Empty folder to fill.
        stream: Which frames of a clip are stored, and at which size.
        map_size: (h, w) of the stored gaze maps and of the saliency set's frames.
        gaze_frames: Number of frames with gaze that are stored of a clip; 0: those of `stream`.
        workers: Number of processes.
        seed: Seed of all contents.
        contents: Number of contents (train, val, test).
        frames: Number of frames per clip.
        fixations: Number of simulated gaze points per frame.
        distortions: Plan of the distortions, from `distortions.PLANS`.
        patches: Mean share of the background that shows photographs, in [0, 1].
    """
    train, val, test = contents
    corpus = Corpus(seed, (train, val, test), frames, fixations, distortions, patches)
    with environment(folder):
        for name in ("videos", "shards"):
            (folder / name).mkdir()
    numbers = range(sum(corpus.contents))
    with worker_pool(workers) as pool:
        made = [
            pool.submit(_make_content, corpus, c, folder, stream, map_size, gaze_frames)
            for c in numbers
        ]
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
        # Start with the slowest, so that the others are packed at the same time.
        kinds = (Frames, Gaze, Saliency, Quality)
        for packed in [pool.submit(pack, kind, folder, shards) for kind in kinds]:
            packed.result()
    with environment(folder), open(folder / "labels.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(labels[0]))
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
