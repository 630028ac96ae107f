"""OSIE: both forms of its table are read, and gaze moves with the crop of a photograph."""

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from dagr_jax.data import gaze, osie
from dagr_jax.video.inputs import Resize, Stream
from dagr_jax.video.stream import VideoError

HEIGHT, WIDTH = 60, 80
STREAM = Stream("linspace", 4, Resize((30, 40)))


def make_osie(folder, count=230, table="npz", seed=0):
    """Photographs with a white dot where all viewers look (apart from one, who looks elsewhere)."""
    rng = np.random.default_rng(seed)
    images = folder / ("images" if table == "npz" else "stimuli")
    images.mkdir(parents=True)
    names, rows, mat = [], [], []
    for i in range(count):
        y, x = int(rng.integers(20, 40)), int(rng.integers(30, 50))
        picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        picture[y - 2 : y + 3, x - 2 : x + 3] = 255
        name = f"{1001 + i}.png"
        Image.fromarray(picture).save(images / name)
        names.append(name)
        looks = [(y + 1, x + 1)] * 14 + [(5, 5)]  # counted from 1
        rows += [(i, v, fx, fy) for v, (fy, fx) in enumerate(looks)]
        subjects = np.empty(15, object)
        for v, (fy, fx) in enumerate(looks):
            subjects[v] = {"fix_x": np.array([float(fx)]), "fix_y": np.array([float(fy)])}
        mat.append({"img": name, "subjects": subjects})
    if table == "npz":
        image, viewer, fx, fy = np.array(rows).T
        np.savez(
            folder / "fixations.npz", image=image, viewer=viewer, x=fx, y=fy, names=np.array(names)
        )
    else:
        cells = np.empty(count, object)
        cells[:] = mat
        savemat(folder / "fixations.mat", {"fixations": cells})
    return folder


@pytest.mark.parametrize("table", ["npz", "mat"])
def test_parts_and_fixations(tmp_path, table):
    found = osie.DATASET.find(make_osie(tmp_path, table=table))
    parts = [video.part for video in found]
    assert parts == ["train"] * 30 + ["val"] * 100 + ["test"] * 100
    moving = [video.frames.share < 1 for video in found]
    assert 40 < sum(moving[:130]) < 90 and not any(moving[130:])
    for video in (found[0], found[-1]):
        record = gaze.gaze_record(video, STREAM, (30, 40))
        assert record["length"] == 16 and record["frames"].shape == (4, 30, 40, 3)


def test_the_last_100_photographs_are_still_and_show_all_fixations(tmp_path):
    (video,) = osie.DATASET.find(make_osie(tmp_path))[-1:]
    record = gaze.gaze_record(video, STREAM, (60, 80))
    assert record["shape"].tolist() == [HEIGHT, WIDTH] and len(record["points"]) == 4 * 15
    for t in range(4):
        own = record["points"][record["points"][:, 0] == t, 1:]
        # Fixations count from 1 in the table and from 0 in the record.
        assert own[-1].tolist() == [4, 4]
        y, x = own[0]
        assert record["frames"][t, y, x].min() > 200  # the dot
        assert record["maps"][t, y, x] > 240


def test_gaze_moves_with_the_crop(tmp_path):
    found = osie.DATASET.find(make_osie(tmp_path))
    video = next(v for v in found if v.frames.share < 1)
    record = gaze.gaze_record(video, STREAM, (45, 60))
    assert record["shape"].tolist() == [45, 60]
    places = set()
    for t in range(4):
        own = record["points"][record["points"][:, 0] == t, 1:]
        y, x = own[0]
        # The crop is not enlarged here, so a pixel of the record is one of the photograph.
        assert record["frames"][t, y, x].min() > 100
        places.add((int(y), int(x)))
    assert len(places) > 1  # it moves


def test_a_table_of_something_else_is_one_line(tmp_path):
    make_osie(tmp_path)
    np.savez(tmp_path / "fixations.npz", image=np.zeros(3))
    (video, *_) = osie.DATASET.find(tmp_path)
    with pytest.raises(VideoError, match="is not the table of fixations of OSIE; unpack it again"):
        gaze.gaze_record(video, STREAM, (30, 40))


def test_a_photograph_without_fixations_is_named(tmp_path):
    make_osie(tmp_path)
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "images" / "9999.png")
    (*_, video) = osie.DATASET.find(tmp_path)
    with pytest.raises(VideoError, match=r"9999\.png: has no fixations"):
        gaze.gaze_record(video, STREAM, (30, 40))
