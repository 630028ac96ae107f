"""Maps of another model: assignment of pictures to frames, and the range of values."""

import numpy as np
import pytest
from PIL import Image

from dagr_jax.data.map_folder import folder_of, read_maps
from dagr_jax.video.decode import VideoError

FRAMES = np.array([0, 4, 9])


def write_maps(folder, count, low=50, height=8, width=12):
    """Map i is `low`, with a column of 200 at i."""
    folder.mkdir(parents=True)
    for i in range(count):
        grey = np.full((height, width), low, np.uint8)
        grey[:, i] = 200
        Image.fromarray(grey).save(folder / f"frame_{i:03d}.png")
    return folder


def columns(maps):
    return maps.mean(1).argmax(1).tolist()


@pytest.mark.parametrize(
    ("count", "choice", "expected"),
    [
        (10, "matched", [0, 4, 9]),
        (10, "linspace", [0, 4, 9]),
        (7, "linspace", [0, 3, 6]),
        (10, "first", [0, 1, 2]),
        (10, "first_map", [0, 0, 0]),
        (3, "matched", [0, 1, 2]),  # one map per sampled frame
        (3, "first_map", [0, 0, 0]),
    ],
)
def test_which_maps_go_with_the_frames(tmp_path, count, choice, expected):
    folder = write_maps(tmp_path / "a", count)
    maps = read_maps(folder, FRAMES, 10, choice, (8, 12), "paper")
    assert columns(maps) == expected


def test_the_papers_maps_are_stretched_and_the_releases_are_not(tmp_path):
    folder = write_maps(tmp_path / "a", 3)
    paper = read_maps(folder, FRAMES, 10, "matched", (8, 12), "paper")
    assert paper.dtype == np.float32 and (paper.min(), paper.max()) == (0, 1)
    release = read_maps(folder, FRAMES, 10, "matched", (8, 12), "release")
    assert (release.min(), release.max()) == pytest.approx((50 / 255, 200 / 255))


def test_a_constant_map_prefers_no_place(tmp_path):
    folder = write_maps(tmp_path / "a", 3, low=200)
    assert (read_maps(folder, FRAMES, 10, "matched", (4, 6), "paper") == 1).all()


def test_maps_lie_under_the_videos_name():
    assert folder_of("maps", "b1/clip.v2.mp4").as_posix() == "maps/b1/clip.v2"


@pytest.mark.parametrize(
    ("count", "said"),
    [(0, "holds no maps; give the folder above"), (7, "has 7 maps for a video of 10 frames")],
)
def test_what_does_not_fit_is_one_line(tmp_path, count, said):
    folder = write_maps(tmp_path / "a", count)
    with pytest.raises(VideoError, match=said):
        read_maps(folder, FRAMES, 10, "matched", (4, 6), "paper")
