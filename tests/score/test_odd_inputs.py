"""Unusual and invalid videos and checkpoints."""

import gc
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest

from dagr_jax import cli
from dagr_jax.runtime.errors import DagrError
from dagr_jax.score import Result
from dagr_jax.train.checkpoints import load_variables
from dagr_jax.video.stream import Limits, VideoError
from tests.train.tiny import same_bits
from tests.video.clips import moving_bar, remux, write


@pytest.mark.parametrize("segments", [0.0, 0.5])
def test_one_frame(scorer, tmp_path, segments):
    path = write(tmp_path / "one.mp4", moving_bar(1))
    result = scorer.score(path, segments=segments)
    assert result.total_frames == 1 and np.isfinite(result.score)
    assert [segment.score for segment in result.segments] == [result.score] * bool(segments)


@pytest.mark.parametrize(
    ("width", "height"), [(2, 2), (2, 480), pytest.param(7680, 4320, marks=pytest.mark.slow)]
)
def test_sizes(scorer, tmp_path, width, height):
    path = write(tmp_path / "clip.mp4", moving_bar(3, height, max(width, 16))[:, :, :width])
    result = scorer.score(path, limits=Limits())
    assert (result.width, result.height, result.total_frames) == (width, height, 3)
    assert np.isfinite(result.score)


def test_two_hours(scorer, tmp_path):
    """At 1 fps: all segments are scored, and the limit applies to the time, not the frames."""
    path = write(tmp_path / "long.mp4", moving_bar(7200, 16, 16), rate=1)
    result = scorer.score(path, segments=600, limits=Limits())
    assert result.duration == 7200 and len(result.segments) == 12
    with pytest.raises(VideoError, match="it is longer than 3600 s; cut it, or raise the limit"):
        scorer.score(path, limits=Limits(seconds=3600))


def test_no_duration(scorer, tmp_path):
    """All frames have the same time: the nominal frame rate is used, and segments are finite."""
    path = write(tmp_path / "clip.mp4", moving_bar(20), bf="0")

    def at_once(_, packet):
        packet.pts = packet.dts = 0

    still = remux(path, tmp_path / "still.mkv", edit=at_once)
    result = scorer.score(still, segments=0.1)
    assert result.score == scorer.score(path).score and 1 <= len(result.segments) <= 20


def test_no_timestamps(scorer, tmp_path):
    path = write(tmp_path / "clip.mp4", moving_bar(20), bf="0")
    bare = scorer.score(remux(path, tmp_path / "bare.h264"))
    assert bare.total_frames == 20 and bare.score == scorer.score(path).score


def test_a_file_that_may_not_be_read(scorer):
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        path = write(Path(folder) / "secret.mp4", moving_bar(5))
        path.chmod(0)
        own = os.geteuid()
        if own == 0:  # root may read everything
            os.seteuid(65534)
        try:
            (row,) = scorer.score_many([path])
        finally:
            os.seteuid(own)
    assert row.error == f"{path}: it may not be read; change its permissions"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Orbax's readers
def test_a_checkpoint_that_is_cut(checkpoint, tmp_path, capsys):
    """With each file cut in half or missing: the same bits, or a one-line error with its name."""
    clip = write(tmp_path / "clip.mp4", moving_bar(5))
    files = [path.relative_to(checkpoint) for path in checkpoint.rglob("*") if path.is_file()]
    broken, wanted = 0, load_variables(checkpoint)
    for file in files:
        for gone in (False, True):
            copy = tmp_path / "copy"
            shutil.copytree(checkpoint, copy)
            data = (copy / file).read_bytes()
            (copy / file).unlink() if gone else (copy / file).write_bytes(data[: len(data) // 2])
            try:
                held = load_variables(copy)
            except DagrError:
                broken += 1
                assert cli.main(["score", str(clip), "--checkpoint", str(copy)]) == 1
                told = capsys.readouterr().err
                assert told.count("\n") == 1 and str(copy) in told, (file, told)
            else:
                assert same_bits(held[0], wanted[0]) and held[1] == wanted[1], file
            shutil.rmtree(copy)
    gc.collect()  # the readers that Orbax left, whose warnings this test ignores
    assert broken >= 2


def test_nothing_is_left_of_a_page_that_cannot_be_written(checkpoint, tmp_path, capsys):
    clip = write(tmp_path / "clip.mp4", moving_bar(5))
    call = ["score", str(clip), "--checkpoint", str(checkpoint), "--page"]
    with pytest.raises(SystemExit):
        cli.main([*call, str(tmp_path / "gone" / "page.html")])
    assert "its folder does not exist" in capsys.readouterr().err
    (tmp_path / "page.html").mkdir()
    assert cli.main([*call, str(tmp_path / "page.html")]) == 1
    told = capsys.readouterr()
    assert "page.html: Is a directory" in told.err.splitlines()[-1]
    assert sorted(os.listdir(tmp_path)) == ["clip.mp4", "page.html"]


def test_an_overlay_of_odd_sizes(scorer, tmp_path):
    from dagr_jax.report.page import Page

    path = write(tmp_path / "clip.mkv", moving_bar(5, 47, 63), pix_fmt="yuv444p")
    result = scorer.score(path)
    page = Page(tmp_path / "page.html", scorer)
    page.add(result.to_dict())
    page.write()
    copy = scorer.score(tmp_path / "page_files" / "1.mp4")
    assert isinstance(copy, Result) and (copy.width, copy.height) == (64, 48)
