"""Folders of pictures: natural order, numbers that agree, depths, hidden files."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dagr_jax.data.gaze import gaze_record
from dagr_jax.data.gaze_folder import find
from dagr_jax.video.inputs import Resize, Stream
from dagr_jax.video.pictures import pictures, read_picture
from dagr_jax.video.stream import VideoError


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def test_natural_order_without_hidden_files(tmp_path):
    names = ["frame_1.png", "frame_2.png", "frame_10.png", "frame_11.png", "z.png"]
    for name in reversed([*names, "._frame_3.png", ".hidden.png"]):
        (tmp_path / name).touch()
    (tmp_path / "notes.txt").touch()
    assert [path.name for path in pictures(tmp_path)] == names
    assert pictures(tmp_path / "gone") == []


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_16_bits_are_scaled(tmp_path, mode):
    deep = np.array([[0, 1, 128, 257, 257 * 100, 65535]], np.uint16)
    save(tmp_path / "deep.png", deep)
    found = read_picture(tmp_path / "deep.png", mode)
    # 257 is 65535 / 255. What is not 0 does not become 0: it may be a fixation.
    wanted = np.array([[0, 1, 1, 1, 100, 255]], np.uint8)
    np.testing.assert_array_equal(found if mode == "L" else found[..., 0], wanted)


@pytest.fixture
def gaze(tmp_path):
    """A video of 12 frames, whose number is their brightness, and the peak column of its maps."""
    home = tmp_path / "source" / "v0"
    for i in range(12):
        save(home / "frames" / f"frame_{i + 1}.png", np.full((8, 16, 3), 20 * i, np.uint8))
        point = np.zeros((8, 16), np.uint8)
        point[4, i] = 255
        save(home / "maps" / f"{i:04d}.png", point)
        save(home / "fixations" / f"{i:04d}.png", point)
    return home


def record(home):
    (video,) = find(home.parent)
    return gaze_record(video, Stream("linspace", 12, Resize((8, 16))), (8, 16))


def test_each_frame_has_its_own_gaze(gaze):
    (gaze / "maps" / "._0003.png").write_text("of macOS")
    shutil.copytree(gaze, gaze.parent / ".trash" / "v0")
    found = record(gaze)
    assert [int(frame.mean()) // 20 for frame in found["frames"]] == list(range(12))
    assert [int(m.sum(0).argmax()) for m in found["maps"]] == list(range(12))
    assert found["points"].tolist() == [[t, 4, t] for t in range(12)]


def test_numbers_that_say_something_else(gaze):
    """The number of the video, and of how many there are, is in the name of each picture."""
    for folder in ("frames", "maps", "fixations"):
        for i, path in enumerate(pictures(gaze / folder)):
            path.rename(path.with_name(f"clip7 {folder[0]} ({i + 1} of 12).png"))
    assert record(gaze)["length"] == 12
    (gaze / "frames" / "clip7 f (5 of 12).png").unlink()
    (gaze / "maps" / "clip7 m (9 of 12).png").unlink()
    (gaze / "fixations" / "clip7 f (9 of 12).png").unlink()
    with pytest.raises(VideoError, match="does not belong to clip7 f .6 of 12..png by its number"):
        record(gaze)


def test_series_that_are_shifted(gaze):
    """Frames 1 to 12 and maps 2 to 13: gaze of other frames."""
    for folder in ("maps", "fixations"):
        for i, path in reversed(list(enumerate(pictures(gaze / folder)))):
            path.rename(path.with_name(f"{i + 2:04d}.png"))
    with pytest.raises(VideoError, match="0002.png: does not belong to frame_1.png"):
        record(gaze)


@pytest.mark.parametrize(("dtype", "scale"), [(np.float32, 1.0), (np.int32, 255), (np.uint8, 255)])
def test_depths_of_tiff(tmp_path, dtype, scale):
    shares = np.linspace(0, 1, 12).reshape(3, 4)
    save(tmp_path / "map.tif", (shares * scale).astype(dtype))
    found = read_picture(tmp_path / "map.tif", "L")
    np.testing.assert_allclose(found, shares * 255, atol=1)


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        (["maps/0005.png"], "maps: has 11 pictures, and frames has 12"),
        (["frames/frame_5.png"], "maps: has 12 pictures, and frames has 11; unpack both again"),
        (
            ["frames/frame_5.png", "maps/0008.png", "fixations/0008.png"],
            "maps/0004.png: does not belong to frame_6.png by its number: a picture is missing",
        ),
        (
            ["frames/frame_5.png", "maps/0004.png", "fixations/0003.png"],
            "fixations/0004.png: does not belong to 0003.png",
        ),
    ],
)
def test_counts_and_numbers_must_agree(gaze, gone, said):
    for name in gone:
        (gaze / name).unlink()
    with pytest.raises(VideoError) as error:
        record(gaze)
    assert said in str(error.value)
