"""Any gaze set with one folder per video that holds `frames`, `maps` and `fixations`.

The repacked frames and maps of DIEM have this layout. `frames` may also be named `images`, and
`fixations` may be named `fixation`. Pictures are read in the order of their names.
"""

from pathlib import Path

from dagr_jax.data.gaze import GazeSet, GazeVideo, Pictures, child, folders


def find(source: Path) -> list[GazeVideo]:
    """Finds the videos below a source folder."""
    found = []
    for folder in folders(source):
        frames = child(folder, "frames", "images")
        maps, fixations = child(folder, "maps"), child(folder, "fixations", "fixation")
        if frames and maps and fixations:
            gaze = Pictures(maps, fixations)
            found.append(GazeVideo(folder.name, folder.name, frames, gaze))
    return found


DATASET = GazeSet(title="the folder", citation="", counts={}, find=find)
