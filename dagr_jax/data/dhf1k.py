"""DHF1K: gaze of 17 people on 1,000 videos, 600 / 100 / 300 (Wang et al., TPAMI 2021)."""

import dataclasses
from pathlib import Path

from dagr_jax.data.gaze import GazeSet, GazeVideo, Pictures, child, folders


def _find(source: Path) -> list[GazeVideo]:
    """Finds the videos: `video/001.AVI` and `annotation/0001/{maps,fixation}/0001.png`.

    The annotation of the last 300 videos is not public. Without it, the published validation part
    is the test part, as is common in the field, and the training part is split into training and
    validation.
    """
    videos, annotation = child(source, "video", "videos"), child(source, "annotation")
    if videos is None or annotation is None:
        return []
    by_number = {int(p.stem): p for p in videos.iterdir() if p.stem.isdigit()}
    found = []
    for folder in folders(annotation):
        maps, fixations = child(folder, "maps"), child(folder, "fixation", "fixations")
        if folder.name.isdigit() and maps is not None and fixations is not None:
            number = int(folder.name)
            frames = by_number.get(number, videos / f"{number:03d}.AVI")
            name = f"{number:04d}"
            found.append((number, GazeVideo(name, name, frames, Pictures(maps, fixations))))
    tested = any(number > 700 for number, _ in found)

    def part(number: int) -> str:
        if tested:
            return "train" if number <= 600 else "val" if number <= 700 else "test"
        return "train" if number <= 600 else "test"

    return [dataclasses.replace(video, part=part(number)) for number, video in found]


DATASET = GazeSet(
    title="DHF1K",
    citation="Wang et al., Revisiting video saliency prediction in the deep learning era, "
    "IEEE TPAMI 2021",
    counts={"train": 600, "val": 100, "test": 300},
    find=_find,
)
