"""Display geometry beside the output of FFmpeg's own program, which turns and crops as players do.

Our frames are those that a player shows. The pixel aspect ratio is the exception: it is left to the
player in overlays and copies, and not applied in scores (see `video.decode`).
"""

import re
import shutil
import subprocess

import numpy as np
import pytest

from dagr_jax.video.decode import decode_frames, probe, timed_frames
from dagr_jax.video.matroska import Crop, crop_of
from dagr_jax.video.transcode import transcode
from tests.odd_files import encode, numbered, turned_by_sei

from .clips import write

pytestmark = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")


def shown(path, height, width):
    """The frames that FFmpeg's program shows, (n, height, width, 3)."""
    call = ["ffmpeg", "-v", "error", "-i", str(path), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    raw = subprocess.run(call, check=True, capture_output=True).stdout
    return np.frombuffer(raw, np.uint8).reshape(-1, height, width, 3)


def assert_same(ours, theirs):
    """Both convert with swscale, but filter chroma otherwise; a wrong turn differs by tens."""
    assert ours.shape == theirs.shape
    assert np.abs(ours.astype(int) - theirs).mean() < 4


def version() -> tuple[int, ...]:
    told = subprocess.run(["ffmpeg", "-version"], check=True, capture_output=True, text=True).stdout
    found = re.search(r"version n?(\d+)\.(\d+)", told)
    return tuple(map(int, found.groups())) if found else (0, 0)


@pytest.mark.parametrize("flips", [{}, {"hflip": True}, {"vflip": True}])
@pytest.mark.parametrize("turn", [0, 90, 180, 270])
def test_display_matrix(tmp_path, turn, flips):
    path = write(tmp_path / "turned.mp4", numbered(3), rotation=turn, **flips)
    info = probe(path)
    assert_same(decode_frames(path, range(3)), shown(path, info.height, info.width))
    # The overlay and the copy on a page are written as they are shown.
    copy = tmp_path / "copy.mp4"
    transcode(copy, path, timed_frames(path), 25.0)
    assert_same(decode_frames(copy, range(3)), shown(path, info.height, info.width))


@pytest.mark.parametrize("size", [(97, 161), (97, 160), (96, 161)])
def test_odd_sizes(tmp_path, size):
    frames = np.pad(numbered(3), ((0, 0), (0, size[0] - 96), (0, size[1] - 160), (0, 0)), "edge")
    path = write(tmp_path / "odd.mkv", frames, pix_fmt="yuv444p")
    assert_same(decode_frames(path, range(3)), shown(path, *size))


def test_pixel_aspect(tmp_path):
    """Pixels twice as wide as high: neither changes the frames, and the copy keeps the ratio."""
    path = encode(tmp_path / "wide.mp4", numbered(3), sample_aspect_ratio=2)
    assert_same(decode_frames(path, range(3)), shown(path, 96, 160))
    copy = tmp_path / "copy.mp4"
    transcode(copy, path, timed_frames(path), 25.0)
    call = ["ffmpeg", "-i", str(copy)]
    told = subprocess.run(call, check=False, capture_output=True, text=True).stderr
    assert "SAR 2:1" in told


def test_orientation_of_key_frames(tmp_path):
    if version() < (7, 1):
        pytest.skip("FFmpeg turns by SEI from version 7.1 on")
    path = turned_by_sei(tmp_path).path
    assert_same(decode_frames(path, range(40)), shown(path, 160, 96))


@pytest.mark.parametrize(
    ("name", "crop", "rows", "columns"),
    [
        (0x54BB, Crop(top=12), slice(12, 96), slice(0, 160)),
        (0x54AA, Crop(bottom=12), slice(0, 84), slice(0, 160)),
        (0x54CC, Crop(left=12), slice(0, 96), slice(12, 160)),
        (0x54DD, Crop(right=12), slice(0, 96), slice(0, 148)),
    ],
)
def test_crop_of_matroska(tmp_path, name, crop, rows, columns):
    """The crop stands in the header; FFmpeg's program applies it from version 7.1 on."""
    path = encode(tmp_path / "cropped.mkv", numbered(3))
    whole = decode_frames(path, range(3))[:, rows, columns]
    # PyAV cannot write a crop. The element DisplayUnit has the length of one.
    data = bytearray(path.read_bytes())
    at = data.index(b"\x54\xb2\x81", data.index(b"\x16\x54\xae\x6b"))
    data[at : at + 4] = name.to_bytes(2) + b"\x81\x0c"
    path.write_bytes(data)
    assert crop_of(path) == crop
    np.testing.assert_array_equal(decode_frames(path, range(3)), whole)
    info = probe(path)
    assert (info.height, info.width) == whole.shape[1:3]
    if version() >= (7, 1):
        assert_same(decode_frames(path, range(3)), shown(path, *whole.shape[1:3]))


def test_a_header_without_end(tmp_path):
    """Cut anywhere, it is no crop and no error."""
    path = encode(tmp_path / "whole.mkv", numbered(2))
    data = path.read_bytes()
    for length in range(0, 600, 7):
        path.write_bytes(data[:length])
        assert crop_of(path) == Crop()
