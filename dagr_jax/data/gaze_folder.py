"""Any folder of gaze: a folder for each video with `frames`, `maps` and `fixations`.

The frame-and-map repack of DIEM looks so. `frames` may be called `images`, and `fixations`
`fixation`; the pictures of all three are taken in the order of their names.
"""

from pathlib import Path

from dagr_jax.data.gaze import GazeSet, GazeVideo, Pictures, child, folders


def find(source: Path) -> list[GazeVideo]:
    found = []
    for folder in folders(source):
        frames = child(folder, "frames", "images")
        maps, fixations = child(folder, "maps"), child(folder, "fixations", "fixation")
        if frames and maps and fixations:
            gaze = Pictures(maps, fixations)
            found.append(GazeVideo(folder.name, folder.name, frames, gaze))
    return found


DATASET = GazeSet(title="the folder", citation="", counts={}, find=find)
