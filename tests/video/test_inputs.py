"""Model inputs: the plain data, and the frames that it selects from clips of all lengths."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagr_jax.runtime.errors import DagrError
from dagr_jax.video.inputs import Crops, InputSpec, Resize, Stream
from dagr_jax.video.resize import resize, short_side
from dagr_jax.video.sampling import fragment_indices

SPEC = InputSpec(
    {
        "frames": Stream("linspace", 4, Resize(size=(8, 10))),
        "windows": Stream("windows", 0, Resize((8, 10)), of="frames", window=8, choice="linspace"),
        "crops": Stream(
            "even", 16, Resize(short_side=9), Crops((4, 4), "corners"), mask=True, chunk=4
        ),
        "swin": Stream("fragments", 32, Resize((6, 6), kernel="bicubic"), fragments=8, stride=2),
        "all": Stream("all", 0, chunk=16),
    }
)


def test_a_spec_survives_a_checkpoint():
    assert InputSpec.from_json(json.loads(json.dumps(SPEC.to_json()))) == SPEC


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"rule": "random", "frames": 3}, "rule 'random' is unknown"),
        ({"rule": "even", "frames": 0}, "is empty; set at least 1"),
        ({"rule": "linspace", "frames": 2, "mask": True}, "mask has no effect"),
        ({"rule": "fragments", "frames": 9, "fragments": 2}, "cannot be split evenly"),
        ({"rule": "windows", "frames": 0}, "needs a window"),
        ({"rule": "even", "frames": 2, "colour": 1}, "colour"),
        ({"rule": "even", "frames": 2, "resize": {"size": [2, 2], "short_side": 2}}, "not both"),
        ({"rule": "even", "frames": 2, "resize": {"kernel": "lanczos"}}, "'lanczos' is unknown"),
        (
            {"rule": "even", "frames": 2, "crops": {"size": [2, 2], "places": "random"}},
            "must not be random",
        ),
        ({"rule": "windows", "frames": 0, "window": 8, "of": "nothing"}, "is not the name of a"),
    ],
)
def test_a_spec_that_means_nothing_is_refused(fields, problem):
    with pytest.raises(DagrError, match=problem):
        InputSpec.from_json({"frames": fields})


def test_frames_of_each_rule():
    assert SPEC.indices("frames", 10).tolist() == [0, 3, 6, 9]
    # Evenly spaced from the first frame; a short clip gives each of its frames once.
    assert SPEC.indices("crops", 32).tolist() == list(range(0, 32, 2))
    assert SPEC.indices("crops", 3).tolist() == [0, 1, 2]
    assert Stream("even", 4).indices(2).tolist() == [0, 0, 1, 1]
    assert SPEC.indices("all", 5).tolist() == [0, 1, 2, 3, 4]
    assert Stream("all", 3).indices(9).tolist() == [0, 3, 6]


def test_fragments_of_a_long_video():
    # 100 frames: segments of 12, runs of 8, 4 frames of room, so the offset is 2.
    indices = SPEC.indices("swin", 100)
    assert indices[:8].tolist() == [2, 4, 6, 8, 14, 16, 18, 20]
    assert len(indices) == 32 and indices.max() == 7 * 12 + 2 + 6


@given(st.integers(1, 400), st.integers(0, 5))
def test_fragments_are_eight_runs_in_range(length, seed):
    """Test T20 of KVQ: 32 indices in range, 8 groups of stride 2; below 64 frames no offset."""
    rng = np.random.default_rng(seed)
    for indices in (fragment_indices(length, 8, 32, 2), fragment_indices(length, 8, 32, 2, rng)):
        assert indices.shape == (32,) and indices.min() >= 0 and indices.max() < length
        runs = indices.reshape(8, 4)
        assert (np.diff(runs, axis=1) % length == 2 % length).all()
        if length < 64:
            assert (runs[:, 0] == np.arange(8) * (length // 8)).all()


def test_windows_hold_the_chosen_frames():
    frames, place = SPEC.windows("windows", 19)
    assert frames.shape == (3, 8)
    assert frames[-1].tolist() == [16, 17, 18, 18, 18, 18, 18, 18]  # padded with the last frame
    assert frames.reshape(-1)[place].tolist() == SPEC.indices("frames", 19).tolist()


def test_resizes():
    frames = np.zeros((2, 6, 8, 3), np.uint8)
    assert Resize().apply(frames) is frames
    assert Resize(size=(3, 5)).apply(frames).shape == (2, 3, 5, 3)
    assert Resize(short_side=3).apply(frames).shape == (2, 3, 4, 3)
    assert short_side(1080, 1920, 540) == (540, 960) and short_side(720, 406, 540) == (957, 540)


def test_area_is_the_mean_of_what_a_pixel_covers():
    """The definition: divide each pixel into as many parts as the other size, average the parts."""
    image = np.random.default_rng(0).integers(0, 256, (7, 9, 3), np.uint8)
    for height, width in ((3, 4), (7, 2), (1, 1), (5, 9)):
        parts = image.repeat(height, axis=0).repeat(width, axis=1).astype(np.float64)
        want = parts.reshape(height, 7, width, 9, 3).mean(axis=(1, 3))
        assert np.abs(resize(image, (height, width), "area") - want).max() <= 0.5 + 1e-3


def plain_cubic(row: np.ndarray, n_out: int, a: float = -0.75) -> list[float]:
    """Resizes with Keys' kernel, half-pixel centres and a repeated border, pixel by pixel."""

    def weight(d: float) -> float:
        d = abs(d)
        if d <= 1:
            return (a + 2) * d**3 - (a + 3) * d**2 + 1
        return a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a if d < 2 else 0.0

    found = []
    for i in range(n_out):
        x = (i + 0.5) * len(row) / n_out - 0.5
        near = range(int(np.floor(x)) - 1, int(np.floor(x)) + 3)
        found.append(sum(weight(x - j) * row[min(max(j, 0), len(row) - 1)] for j in near))
    return found


@pytest.mark.parametrize("n_out", [3, 5, 12, 20])
def test_bicubic_is_keys_kernel_without_antialias(n_out):
    row = np.random.default_rng(1).integers(0, 256, 12, np.uint8)
    want = np.clip(plain_cubic(row.astype(float), n_out), 0, 255)
    got = resize(row[None, :, None], (1, n_out), "bicubic").ravel()
    assert np.abs(got - want).max() <= 0.5 + 1e-3


def test_bicubic_stays_in_range():
    """The kernel overshoots at edges; values outside 0 to 255 are clipped, not wrapped."""
    edge = np.repeat(np.array([0, 255], np.uint8), 8)[None, :, None]
    got = resize(edge, (1, 24), "bicubic").ravel()
    assert got.min() == 0 and got.max() == 255 and (np.diff(got.astype(int)) >= -1).all()


@pytest.mark.torch
@pytest.mark.parametrize("size", [(20, 31), (61, 90), (12, 70)])
@pytest.mark.parametrize(
    ("kernel", "antialias"),
    [("bicubic", False), ("bicubic", True), ("bilinear", False), ("bilinear", True)],
)
def test_kernels_are_those_of_pytorch(kernel, antialias, size):
    torch = pytest.importorskip("torch")
    image = np.random.default_rng(2).integers(0, 256, (37, 53, 3), np.uint8)
    given = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    want = torch.nn.functional.interpolate(given, size=size, mode=kernel, antialias=antialias)
    want = want[0].permute(1, 2, 0).numpy().clip(0, 255)
    # Tolerance: the rounding, and float32 sums of values up to 255.
    assert np.abs(resize(image, size, kernel, antialias=antialias) - want).max() <= 0.5 + 1e-3


def test_crops():
    frames = np.arange(2 * 6 * 8 * 3, dtype=np.uint8).reshape(2, 6, 8, 3)
    corners = Crops((4, 4), "corners").apply(frames)
    assert corners.shape == (4, 2, 4, 4, 3)
    np.testing.assert_array_equal(corners[3], frames[:, 2:, 4:])
    center = Crops((4, 4)).apply(frames)
    np.testing.assert_array_equal(center[0], frames[:, 1:5, 2:6])
    # No side is enlarged; a frame that is smaller on both sides is returned once, unchanged.
    assert Crops((9, 4), "corners").apply(frames).shape == (4, 2, 6, 4, 3)
    assert Crops((9, 9), "corners").apply(frames).shape == (1, 2, 6, 8, 3)


def test_spread_crops_and_mirrored_frames():
    frames = np.arange(2 * 20 * 30 * 3, dtype=np.uint8).reshape(2, 20, 30, 3)
    spread = Crops((10, 10), "spread", mirror=True)
    cut = spread.apply(frames)
    assert cut.shape == (3, 2, 10, 10, 3)
    for window, (top, left) in zip(cut, [(5, 10), (2, 5), (8, 15)], strict=True):
        np.testing.assert_array_equal(window, frames[:, top : top + 10, left : left + 10])
    # A small frame is extended, so that the windows of all clips have one shape.
    small = frames[:, :4, :7]
    for window in spread.apply(small):
        assert window.shape == (2, 10, 10, 3)
        np.testing.assert_array_equal(window[:, :4, :7], small)
        np.testing.assert_array_equal(window[:, 4:8, :7], small[:, ::-1])
        np.testing.assert_array_equal(window[:, :4, 7:10], small[:, :, :3:-1])
    wide = spread.apply(frames[:, :4])
    np.testing.assert_array_equal(wide[1][:, :4], frames[:, :4, 5:15])
    random = Crops((10, 10), "spread", mirror=True).corners(20, 30, np.random.default_rng(0))
    assert len(random) == 3


def test_random_crops_are_drawn_in_training_alone():
    crops = Crops((4, 4), "corners")
    rng = np.random.default_rng(0)
    drawn = crops.corners(20, 30, rng)
    assert len(drawn) == 4 and len(set(drawn)) > 1
    assert all(0 <= top <= 16 and 0 <= left <= 26 for top, left in drawn)
    assert crops.corners(20, 30) == crops.corners(20, 30) != drawn
