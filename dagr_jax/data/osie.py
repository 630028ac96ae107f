"""OSIE: 700 photographs with the fixations of 15 viewers (Xu et al., Journal of Vision 2014).

The source folder has the photographs in `images` or `stimuli` (also in a subfolder `data`), and the
fixations in `fixations.mat`, as downloaded, or in `fixations.npz`: one row per fixation, with the
columns `image` (index into `names`), `viewer`, and `x` and `y` in pixels that count from 1.

A photograph becomes a video of `_LENGTH` frames. Those of the test part show the whole photograph,
as in the literature. Half of the others show a moving crop, so that a network of videos sees
motion; their gaze moves with them, because viewers look at places of the photograph.
"""

import dataclasses
import functools
import hashlib
import os
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from PIL import Image

from dagr_jax.data.gaze import GazeSet, GazeVideo, blurred, child
from dagr_jax.data.labels import LabelError, read_mat
from dagr_jax.video.pictures import pictures, read_picture
from dagr_jax.video.stream import VideoError

_LENGTH = 16
# Standard deviation of the density around a fixation: one degree of visual angle, in pixels.
_DEGREE = 24.0
# Photographs of the validation and test part, by name: the last 100 are the test part.
_VAL, _TEST = 100, 100
# Height and width of a moving crop, as a share of the photograph.
_CROP = 0.75


@dataclasses.dataclass(frozen=True)
class MovingCrop(os.PathLike[str]):
    """A photograph as a video: a crop of constant size that moves along a straight line.

    Attributes:
        picture: The photograph.
        share: Height and width of the crop, as a share of the photograph; 1: all of it.
        begin: Place of the crop in the first frame, (y, x) from 0 to 1.
        end: Place of the crop in the last frame.
    """

    picture: Path
    share: float = 1.0
    begin: tuple[float, float] = (0.0, 0.0)
    end: tuple[float, float] = (0.0, 0.0)

    def __fspath__(self) -> str:
        return os.fspath(self.picture)

    def __len__(self) -> int:
        return _LENGTH

    def boxes(self, shape: tuple[int, int]) -> np.ndarray:
        """Returns (T, 4) crops: top, left, height and width in pixels, in a picture of a shape."""
        size = np.floor(np.array(shape) * self.share)
        t = np.linspace(0, 1, _LENGTH)[:, None]
        place = (1 - t) * np.array(self.begin) + t * np.array(self.end)
        corner = place * (np.array(shape) - size)
        return np.concatenate([corner, np.broadcast_to(size, corner.shape)], axis=1)

    def read(self, chosen: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Reads chosen frames.

        Args:
            chosen: (T,) frame indices.
            size: (h, w) of the frames in pixels.

        Returns:
            (T, h, w, 3) uint8 RGB, resized with antialiasing.

        Raises:
            VideoError: The photograph cannot be read.
        """
        picture = Image.fromarray(read_picture(self.picture, "RGB"))
        boxes = self.boxes((picture.height, picture.width))[chosen]
        frames = [
            picture.resize(
                (size[1], size[0]),
                Image.Resampling.BILINEAR,
                box=(left, top, left + width, top + height),
            )
            for top, left, height, width in boxes.tolist()
        ]
        return np.stack([np.asarray(frame) for frame in frames])


@dataclasses.dataclass(frozen=True)
class Fixations:
    """Gaze at a photograph under a moving crop: the same places in all frames.

    Attributes:
        table: File with the fixations of all photographs.
        clip: The photograph and its crops.
    """

    table: Path
    clip: MovingCrop

    def length(self, fps: float) -> int:
        return len(self.clip)

    def read(
        self, chosen: np.ndarray, shape: tuple[int, int], fps: float, size: tuple[int, int]
    ) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
        places = _fixations(self.table).get(self.clip.picture.name)
        if places is None or not len(places):
            raise VideoError(self.clip.picture, f"has no fixations in {self.table.name}")
        boxes = self.clip.boxes(shape)[chosen]
        seen = (int(boxes[0, 2]), int(boxes[0, 3]))
        points, maps = [], []
        for t, (top, left, height, width) in enumerate(boxes.tolist()):
            y, x = places[:, 0] - top, places[:, 1] - left
            inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
            own = np.stack([y[inside], x[inside]], axis=1)
            maps.append(blurred(own, seen, _DEGREE, size))
            points.append(np.insert(own.astype(np.int32), 0, t, axis=1))
        return np.stack(maps), np.concatenate(points), seen


@functools.lru_cache(maxsize=2)
def _fixations(table: Path) -> dict[str, np.ndarray]:
    """Reads all fixations: {name of the photograph: (n, 2) y and x in pixels from 0}.

    Raises:
        VideoError: The file is not a table of fixations.
    """
    try:
        if table.suffix == ".npz":
            with np.load(table, allow_pickle=False) as held:
                image, names = held["image"], held["names"]
                places = np.stack([held["y"], held["x"]], axis=1).astype(np.float64) - 1
            return {str(name): places[image == i] for i, name in enumerate(names)}
        found = {}
        for one in read_mat(table)["fixations"]:
            viewers = [
                np.stack([np.atleast_1d(v["fix_y"]), np.atleast_1d(v["fix_x"])], axis=1)
                for v in one["subjects"]
            ]
            found[str(one["img"])] = np.concatenate(viewers).astype(np.float64) - 1
        return found
    except (
        BadZipFile,
        LabelError,
        OSError,
        ValueError,
        KeyError,
        IndexError,
        TypeError,
    ) as error:
        raise VideoError(table, "is not the table of fixations of OSIE", "unpack it again") from (
            error
        )


def _find(source: Path) -> list[GazeVideo]:
    home = child(source, "data") or source
    images = child(home, "images", "stimuli")
    tables = [home / "fixations.npz", home / "fixations.mat", home / "eye" / "fixations.mat"]
    table = next((path for path in tables if path.is_file()), None)
    if images is None or table is None:
        return []
    paths = pictures(images)
    found = []
    for number, path in enumerate(paths):
        left = len(paths) - number
        part = "test" if left <= _TEST else "val" if left <= _TEST + _VAL else "train"
        clip = MovingCrop(path)
        # The digest of the name chooses the motion, so that it does not depend on other files.
        rng = np.random.default_rng(list(hashlib.sha256(path.name.encode()).digest()))
        if part != "test" and rng.random() < 0.5:
            begin, end = rng.uniform(0, 1, (2, 2)).tolist()
            clip = MovingCrop(path, _CROP, (begin[0], begin[1]), (end[0], end[1]))
        name = path.stem
        found.append(GazeVideo(name, name, clip, Fixations(table, clip), part))
    return found


DATASET = GazeSet(
    title="OSIE",
    citation="Xu et al., Predicting human gaze beyond pixels, Journal of Vision 2014",
    counts={"train": 500, "val": _VAL, "test": _TEST},
    find=_find,
)
