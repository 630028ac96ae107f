"""DIEM: gaze of some 50 viewers a video on 85 videos (Mital et al., Cognitive Computation 2011).

As it is downloaded, a folder for each video: `<name>/video/<name>.mp4` and
`<name>/event_data/<viewer>_<name>.txt`. Or the repack of frames and maps, as `gaze_folder`.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.ndimage import gaussian_filter

from dagr_jax.data import gaze_folder
from dagr_jax.data.gaze import GazeSet, GazeVideo, child, folders
from dagr_jax.video.decode import VideoError

# A line of event_data: of each eye the place on the screen, the pupil and what it does. Lines
# count from 1, 30 of them a second whatever the video's rate.
_COLUMNS = ("frame", "x", "y", "pupil", "event", "right_x", "right_y", "right_pupil", "right_event")
_RATE = 30
_FIXATION = 1  # -1: lost, 0: blink, 2: saccade
# Videos were shown in the middle of this screen (width, height), pixel for pixel.
_SCREEN = (1280, 960)
# One degree of sight: a 21-inch screen of 1280 pixels, 90 cm away.
_DEGREE = 50.0
# Views of one scene, which must stay together.
_SERIES = ("pingpong", "ami_ib4010", "ami_is1000a", "university_forum_construction")
_VIDEOS = (".mp4", ".mov", ".avi", ".mkv")


@dataclass(frozen=True)
class Events:
    """Gaze as event files, one a viewer."""

    folder: Path

    def length(self, fps: float) -> int:
        samples = max((len(_read(path)) for path in self._files()), default=0)
        return int(samples * fps / _RATE + 1e-6)

    def read(
        self, chosen: np.ndarray, shape: tuple[int, int], fps: float, size: tuple[int, int]
    ) -> tuple[np.ndarray, np.ndarray]:
        height, width = shape
        h, w = size
        looked = [fixated(_read(path)) for path in self._files()]
        maps, fixations = np.zeros((2, len(chosen), h, w), np.uint8)
        # The sample during which a frame is on the screen; a frame at 25 a second lasts 1.2.
        for t, sample in enumerate((chosen / fps * _RATE + 1e-6).astype(int).tolist()):
            places = np.array([viewer[sample] for viewer in looked if sample < len(viewer)]) - (
                (_SCREEN[0] - width) / 2,
                (_SCREEN[1] - height) / 2,
            )
            x, y = (places / (width, height) * (w, h)).T
            with np.errstate(invalid="ignore"):  # NaN: this viewer fixated nothing
                inside = (x >= 0) & (x < w) & (y >= 0) & (y < h)
            seen = np.zeros(size)
            np.add.at(seen, (y[inside].astype(int), x[inside].astype(int)), 1)
            sigma = (_DEGREE * h / height, _DEGREE * w / width)
            blurred = gaussian_filter(seen, sigma, mode="constant")
            peak = blurred.max() or 1.0
            maps[t] = (blurred / peak * 255 + 0.5).astype(np.uint8)
            fixations[t] = seen > 0
        return maps, fixations

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("*.txt"))


def _read(path: Path) -> pd.DataFrame:
    """A viewer's file, a row each thirtieth of a second.

    Raises:
        VideoError: It has other columns, or its rows are not numbered from 1.
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
    """Where a viewer fixated, (N, 2) x and y on the screen; NaN where neither eye did.

    The mean of both eyes where both fixate.
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
    """What a video shows: its name without its size; views of one scene are one content."""
    series = next((series for series in _SERIES if name.startswith(series)), None)
    return series or re.sub(r"_\d+x\d+$", "", name)


DATASET = GazeSet(
    title="DIEM",
    citation="Mital et al., Clustering of gaze during dynamic scene viewing is predicted by "
    "motion, Cognitive Computation 2011",
    counts={"": 85},
    find=_find,
)
