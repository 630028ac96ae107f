import numpy as np
import pytest
from PIL import Image

from dagr_jax.runtime.errors import DagrError
from dagr_jax.video.resize import resize_bilinear


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def plain_bilinear(image, height, width):
    """Resizes by the definition, in float64: half-pixel centres, repeated border."""
    h, w, _ = image.shape
    out = np.empty((height, width, image.shape[2]))
    for i in range(height):
        y = (i + 0.5) * h / height - 0.5
        y0, fy = int(np.floor(y)), y - np.floor(y)
        top, bottom = np.clip([y0, y0 + 1], 0, h - 1)
        for j in range(width):
            x = (j + 0.5) * w / width - 0.5
            x0, fx = int(np.floor(x)), x - np.floor(x)
            left, right = np.clip([x0, x0 + 1], 0, w - 1)
            out[i, j] = (1 - fy) * ((1 - fx) * image[top, left] + fx * image[top, right]) + fy * (
                (1 - fx) * image[bottom, left] + fx * image[bottom, right]
            )
    return out


@pytest.mark.parametrize("size", [(5, 7), (13, 9), (30, 41), (11, 3), (1, 1)])
def test_without_antialias_is_the_definition(size):
    image = noise(11, 17, 3)
    got = resize_bilinear(image, size)
    # Half a level is the rounding; 1e-3 allows for float32 sums of values up to 255.
    assert np.abs(got - plain_bilinear(image, *size)).max() <= 0.5 + 1e-3


def test_known_values():
    row = np.array([0, 100, 200, 50], np.uint8).reshape(1, 4, 1)
    # Halving samples the middle of each pair; doubling samples quarters, with repeated border.
    assert resize_bilinear(row, (1, 2)).ravel().tolist() == [50, 125]
    assert resize_bilinear(row, (1, 8)).ravel().tolist() == [0, 25, 75, 125, 175, 163, 88, 50]
    # To a quarter: only the two middle pixels; or, with antialiasing, all four with the triangle
    # weights 0.625, 0.875, 0.875, 0.625 over 3, which give 97.9.
    assert resize_bilinear(row, (1, 1)).ravel().tolist() == [150]
    assert resize_bilinear(row, (1, 1), antialias=True).ravel().tolist() == [98]


@pytest.mark.parametrize("size", [(20, 31), (56, 90), (100, 45), (7, 64), (40, 64)])
def test_antialias_is_pil(size):
    image = noise(40, 64, 3)
    got = resize_bilinear(image, size, antialias=True)
    for c in range(3):  # PIL's float mode does not round
        channel = Image.fromarray(image[..., c].astype(np.float32))
        exact = np.asarray(channel.resize(size[::-1], Image.Resampling.BILINEAR))
        assert np.abs(got[..., c] - exact).max() <= 0.5 + 1e-3  # rounding, and float32 sums
    # On uint8, PIL also rounds between its two passes, which can change a result by one level.
    rounded = np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR))
    assert np.abs(got.astype(int) - rounded).max() <= 1


@pytest.mark.parametrize("antialias", [False, True])
def test_batches_constants_and_identity(antialias):
    video = noise(2, 3, 12, 10, 3)
    got = resize_bilinear(video, (5, 20), antialias=antialias)
    for b in range(2):
        for t in range(3):
            one = resize_bilinear(video[b, t], (5, 20), antialias=antialias)
            np.testing.assert_array_equal(got[b, t], one)
    white = np.full((33, 21, 3), 255, np.uint8)
    assert (resize_bilinear(white, (17, 50), antialias=antialias) == 255).all()
    same = resize_bilinear(video, (12, 10), antialias=antialias)
    np.testing.assert_array_equal(same, video)
    assert not np.shares_memory(same, video)


def test_bad_input():
    with pytest.raises(ValueError, match=r"must be uint8 \(\.\.\., h, w, c\), not float32"):
        resize_bilinear(np.zeros((4, 4, 3), np.float32), (2, 2))
    with pytest.raises(DagrError, match="every side must be at least 1"):
        resize_bilinear(np.zeros((4, 4, 3), np.uint8), (0, 2))
