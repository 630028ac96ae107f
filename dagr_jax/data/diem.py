"""DIEM: 85 videos with gaze of about 50 viewers each (Mital et al., Cognitive Computation 2011).

Two layouts are read. The downloaded set has one folder per video: `<name>/video/<name>.mp4` and
`<name>/event_data/<viewer>_<name>.txt`. The repacked frames and maps have the layout of
`gaze_folder`.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from dagr_jax.data import gaze_folder
from dagr_jax.data.gaze import GazeSet, GazeVideo, blurred, child, folders
from dagr_jax.video.decode import VideoError

# Columns of event_data: position on the screen, pupil and event, for each eye. Lines are numbered
# from 1. There are 30 lines per second at every frame rate of the video.
_COLUMNS = ("frame", "x", "y", "pupil", "event", "right_x", "right_y", "right_pupil", "right_event")
_RATE = 30
_FIXATION = 1  # -1: lost, 0: blink, 2: saccade
# (width, height) of the screen. Videos were shown in its centre, at their original size.
_SCREEN = (1280, 960)
# Pixels per degree of visual angle: a 21-inch screen, 1280 pixels wide, at a distance of 90 cm.
_DEGREE = 50.0
# Name prefixes of videos that show one scene from several views; they count as one content.
_SERIES = ("pingpong", "ami_ib4010", "ami_is1000a", "university_forum_construction")
_VIDEOS = (".mp4", ".mov", ".avi", ".mkv")


@dataclass(frozen=True)
class Events:
    """Gaze as event files, one per viewer."""

    folder: Path

    def length(self, fps: float) -> int:
        samples = max((len(_read(path)) for path in self._files()), default=0)
        return int(samples * fps / _RATE + 1e-6)

    def read(
        self, chosen: np.ndarray, shape: tuple[int, int], fps: float, size: tuple[int, int]
    ) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
        height, width = shape
        looked = [fixated(_read(path)) for path in self._files()]
        maps = np.zeros((len(chosen), *size), np.uint8)
        points = []
        # The sample at the moment when the frame is shown. At 25 fps a frame lasts 1.2 samples.
        for t, sample in enumerate((chosen / fps * _RATE + 1e-6).astype(int).tolist()):
            places = np.array([viewer[sample] for viewer in looked if sample < len(viewer)]) - (
                (_SCREEN[0] - width) / 2,
                (_SCREEN[1] - height) / 2,
            )
            x, y = places.T
            with np.errstate(invalid="ignore"):  # NaN: this viewer had no fixation
                inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
            x, y = x[inside], y[inside]
            points += [(t, int(down), int(right)) for down, right in zip(y, x, strict=True)]
            maps[t] = blurred(np.stack([y, x], axis=1), shape, _DEGREE, size)
        return maps, np.array(points, np.int32).reshape(-1, 3), shape

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("*.txt"))


def _read(path: Path) -> pd.DataFrame:
    """Reads the event file of a viewer, with one row per 1/30 second.

    Raises:
        VideoError: The file has other columns, or its rows are not numbered from 1.
    """
    try:
        table = pd.read_csv(path, sep=r"\s+", header=None, na_values=["."], dtype=np.float64)
    except (ValueError, OSError) as error:
        raise VideoError(path, "is no event file of DIEM", "unpack it again") from error
    if table.shape[1] != len(_COLUMNS) or (table[0] != np.arange(1, len(table) + 1)).any():
        raise VideoError(
            path,
            "is no event file of DIEM: nine columns, the first counts from 1",
            "unpack it again",
        )
    return table.set_axis(list(_COLUMNS), axis=1)


def fixated(table: pd.DataFrame) -> np.ndarray:
    """Returns the fixations of a viewer.

    Args:
        table: Event table of the viewer, N rows.

    Returns:
        (N, 2) x and y on the screen, in pixels: the mean of both eyes if both fixate, else the eye
        that fixates; NaN if neither does.
    """
    places = []
    for eye in ("", "right_"):
        place = table[[f"{eye}x", f"{eye}y"]].to_numpy(copy=True)
        place[table[f"{eye}event"] != _FIXATION] = np.nan
        places.append(place)
    left, right = places
    return np.where(np.isnan(left), right, np.where(np.isnan(right), left, (left + right) / 2))


def _find(source: Path) -> list[GazeVideo]:
    found = []
    for folder in folders(source):
        events = child(folder, "event_data")
        if events is None:
            continue
        home = child(folder, "video") or folder
        videos = sorted(p for p in home.iterdir() if p.suffix.lower() in _VIDEOS)
        frames = videos[0] if videos else home / f"{folder.name}.mp4"
        found.append(GazeVideo(folder.name, content(folder.name), frames, Events(events)))
    return found or [
        GazeVideo(v.video, content(v.video), v.frames, v.gaze) for v in gaze_folder.find(source)
    ]


def content(name: str) -> str:
    """Returns the content key: the name without the frame size; views of one scene share a key."""
    series = next((series for series in _SERIES if name.startswith(series)), None)
    return series or re.sub(r"_\d+x\d+$", "", name)


DATASET = GazeSet(
    title="DIEM",
    citation="Mital et al., Clustering of gaze during dynamic scene viewing is predicted by "
    "motion, Cognitive Computation 2011",
    counts={"": 85},
    find=_find,
)
