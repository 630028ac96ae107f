"""`Scorer`: the same score for every form of the input."""

import dataclasses
import io
import math
import shutil
from pathlib import Path

import numpy as np
import pytest

from dagr_jax.runtime.errors import DagrError
from dagr_jax.score import Failure, Result
from dagr_jax.video.decode import iter_frames
from dagr_jax.video.readers import Readers
from dagr_jax.video.stream import Limits, VideoError


def scores(results):
    return [result.score for result in results]


def test_the_same_file_scores_the_same_to_the_last_bit(any_scorer, clips, tmp_path):
    other = shutil.copy(clips[1], tmp_path / "another name.mkv")
    alone = any_scorer.score(clips[1]).score
    assert math.isfinite(alone) and alone not in scores([any_scorer.score(clips[0])])
    frames = np.stack(list(iter_frames(clips[1])))
    with open(clips[1], "rb") as stream:
        ways = [clips[1], Path(other), frames, stream, io.BytesIO(Path(other).read_bytes())]
        assert scores(any_scorer.score_many(ways)) == [alone] * 5
    with Readers(2) as readers:
        found = any_scorer.score_many([clips[0], frames, other, clips[1]], readers=readers)
        assert scores(found)[1:] == [alone] * 3
        (segmented,) = any_scorer.score_many([other], segments=0.3, readers=readers)
    assert segmented.score == alone


@pytest.mark.parametrize("batch_size", [2, 3, 16])
def test_other_batches_score_the_same_but_for_rounding(any_scorer, clips, batch_size):
    one = list(any_scorer.score_many(clips, segments=0.3))
    many = list(any_scorer.score_many(clips, segments=0.3, batch_size=batch_size))
    for a, b in zip(one, many, strict=True):
        assert a.file == b.file and len(a.segments) == len(b.segments) > 1
        for x, y in zip((a, *a.segments), (b, *b.segments), strict=True):
            assert x.score / 100 == pytest.approx(y.score / 100, abs=1e-5)


def test_a_segment_scores_as_a_video_of_its_own(any_scorer, clips):
    result = any_scorer.score(clips[4], segments=0.4)  # 32 frames, of 40 ms each
    frames = np.stack(list(iter_frames(clips[4])))
    assert [(s.start, s.end) for s in result.segments] == [(0, 0.4), (0.4, 0.8), (0.8, 1.28)]
    for segment, (begin, end) in zip(result.segments, [(0, 10), (10, 20), (20, 32)], strict=True):
        assert segment.score == any_scorer.score(frames[begin:end]).score
    assert result.worst.score == min(segment.score for segment in result.segments)
    assert result.score == any_scorer.score(clips[4]).score


def test_what_a_result_says(scorer, clips):
    result = scorer.score(clips[0], segments=0.4)
    assert (result.file, result.dataset, result.mos_range) == (clips[0], "made-up", (1.0, 5.0))
    assert result.mos == pytest.approx(1 + result.score / 25, abs=1e-9)
    assert (result.width, result.height, result.fps, result.duration) == (64, 48, 25.0, 0.8)
    assert (result.total_frames, result.frames, result.rotation) == (20, 4, 0)
    assert (result.codec, result.pix_fmt, result.bit_depth) == ("h264", "yuv420p", 8)
    assert len(result.checkpoint) == 12 and result.checkpoint == scorer.digest
    row = result.to_dict()
    assert list(row) == [field.name for field in dataclasses.fields(Result)]
    assert row["segments"][0] == {"start": 0.0, "end": 0.4, "score": result.segments[0].score}
    assert row["worst"] in row["segments"] and row["mos_range"] == [1.0, 5.0]


def test_a_notebook_shows_a_table_in_which_names_stay_text(scorer, clips, tmp_path):
    name = tmp_path / "<img src=x onerror=alert(1)>.mp4"
    shutil.copy(clips[0], name)
    shown = scorer.score(name, segments=0.4)._repr_html_()
    assert "<img" not in shown and "&lt;img src=x onerror=alert(1)&gt;.mp4" in shown
    assert "of 100" in shown and "64 × 48, 25 frames/s, 0.8 s, h264" in shown


def test_other_weights_have_another_digest(scorer, windows_scorer):
    assert scorer.digest != windows_scorer.digest


def test_failures_stand_in_their_place(scorer, clips, tmp_path):
    empty = tmp_path / "empty.mp4"
    empty.touch()
    for readers in (None, Readers(2)):
        given = [clips[0], str(empty), io.BytesIO(b"no video"), clips[1]]
        first, bad, stream, last = scorer.score_many(given, readers=readers)
        assert [first.file, last.file] == clips[:2]
        assert bad == Failure(str(empty), f"{empty}: the file is empty; copy or download it again")
        assert stream.error.startswith("file object: FFmpeg cannot read it")
        if readers:
            readers.__exit__()
    with pytest.raises(VideoError, match="the file is empty"):
        scorer.score(empty)
    with pytest.raises(VideoError, match="file object: FFmpeg cannot read it"):
        scorer.score(io.BytesIO(b"no video"))


def test_limits(scorer, clips):
    with pytest.raises(VideoError, match="more than 100 pixels"):
        scorer.score(clips[0], limits=Limits(pixels=100))
    (failure,) = scorer.score_many(clips[:1], limits=Limits(seconds=0.5))
    assert "it is longer than 0.5 s; cut it" in failure.error


def test_misuse_is_an_error_not_a_failure(scorer):
    with pytest.raises(DagrError, match=r"float32 of shape \(2, 8, 8, 3\); give uint8"):
        scorer.score(np.zeros((2, 8, 8, 3), np.float32))
    frames = np.zeros((4, 8, 8, 3), np.uint8)
    with pytest.raises(DagrError, match="frames: it has no frame rate; score it without segments"):
        scorer.score(frames, segments=1.0)
    with pytest.raises(DagrError, match="makes its own saliency maps; leave these out"):
        list(scorer.score_many([frames], maps=lambda name: "maps"))
