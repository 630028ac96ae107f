"""Frames for a model: the whole video and its segments, read in one pass."""

import gc
import itertools

import numpy as np
import pytest
from av.video.frame import VideoFrame

from dagr_jax.video.clip import Clip, ClipPlan, Look, plan_clips, read_clips
from dagr_jax.video.decode import VideoError, decode_frames, iter_frames, probe, read_clip
from dagr_jax.video.stream import Limits

from .clips import ENCODERS, moving_bar, remux, write

LOOK = Look(4, "linspace", (24, 32))
WINDOWS = Look(4, "linspace", (24, 32), window=8, choice="linspace", antialias=True)


def taken(path, look, seconds):
    """Reads a file: (ClipPlan, {(start, length): Clip}, VideoInfo, number of plans)."""
    plans = 0
    for message in read_clips(path, look, seconds):
        if isinstance(message, ClipPlan):
            plan, clips, plans = message, {}, plans + 1
        elif isinstance(message, Clip):
            clips[message.start, message.length] = message
        else:
            info = message
    return plan, clips, info, plans


def assert_as_decoded(path, look, seconds):
    """Checks every clip against decoding the frames of its bounds; returns the number of plans."""
    plan, clips, info, plans = taken(path, look, seconds)
    assert clips.keys() == set(plan.bounds)
    assert info == probe(path) or info.num_frames == probe(path).num_frames
    assert plan.bounds[0] == (0, info.num_frames)
    for (start, length), clip in clips.items():
        wanted = decode_frames(path, start + look.frames(length), look.size)
        np.testing.assert_array_equal(clip.frames, wanted)
        ranks = start + look.windows(length)[0]
        wanted = decode_frames(path, ranks.reshape(-1), look.size, antialias=look.antialias)
        np.testing.assert_array_equal(clip.windows.reshape(-1, *look.size, 3), wanted)
    return plans


@pytest.fixture(scope="module", params=ENCODERS)
def clip(request, tmp_path_factory):
    """A clip of 53 frames at 25 fps."""
    suffix = ENCODERS[request.param][1]
    path = tmp_path_factory.mktemp("clips") / f"clip{suffix}"
    return write(path, moving_bar(53), request.param)


@pytest.mark.parametrize("look", [LOOK, WINDOWS], ids=["plain", "windows"])
@pytest.mark.parametrize("seconds", [0.0, 0.5])
def test_clips_are_the_frames_of_their_bounds(clip, look, seconds):
    assert assert_as_decoded(clip, look, seconds) == 1


def test_the_whole_is_what_read_clip_gives(clip):
    _, clips, info, _ = taken(clip, LOOK, 0.5)
    frames, same = read_clip(clip, 4, size=(24, 32))
    np.testing.assert_array_equal(clips[0, 53].frames, frames)
    assert info == same


def test_frames_that_packets_do_not_tell_apart(tmp_path):
    """Without times, the decoder's output order is used, and one decoding pass is enough."""
    path = write(tmp_path / "clip.mp4", moving_bar(30), bf="0")
    bare = remux(path, tmp_path / "bare.h264")
    assert assert_as_decoded(bare, LOOK, 0.4) == 1


def test_a_damaged_file_is_read_again(tmp_path):
    """The packets announce more frames than can be decoded; results before that are discarded."""
    path = write(tmp_path / "clip.mp4", moving_bar(60), g="10", bf="0")
    packets = itertools.count()

    def spoil(number, packet):
        if next(packets) in (20, 31):
            packet.update(np.zeros(packet.size, np.uint8).tobytes())

    spoilt = remux(path, tmp_path / "spoilt.mkv", edit=spoil)
    plan, clips, info, plans = taken(spoilt, LOOK, 0.4)
    assert plans == 2 and info.damaged > 0
    every = np.stack(list(iter_frames(spoilt, LOOK.size)))
    assert info.num_frames == len(every) < 60
    assert clips.keys() == set(plan.bounds)
    for (start, length), clip in clips.items():
        np.testing.assert_array_equal(clip.frames, every[start + LOOK.frames(length)])


@pytest.mark.parametrize("fps", [23.976, 25.0, 60.0])
@pytest.mark.parametrize("seconds", [0.01, 0.5, 2.0, 7.3])
@pytest.mark.parametrize("length", [1, 2, 59, 60, 61, 1000])
def test_segments_cover_the_video_without_gap(fps, seconds, length):
    whole, *parts = plan_clips("x", length, fps, seconds).bounds
    assert whole == (0, length)
    ends = [start + count for start, count in parts]
    assert [start for start, _ in parts] == [0, *ends[:-1]] and ends[-1] == length
    frames = max(seconds * fps, 1)
    assert min(count for _, count in parts) >= min(length, frames / 2 - 1, frames - 1)
    assert max(count for _, count in parts) <= 1.5 * frames + 1


def test_segments_are_shown_when_their_frames_are(tmp_path):
    """One second of 25 frames, then 5 frames of one second each."""
    times = [*range(25), *range(25, 150, 25)]
    for name in ("clip.mp4", "clip.mkv"):
        path = write(tmp_path / name, moving_bar(30), times=times)
        plan, _, _, _ = taken(path, LOOK, 1.0)
        begins = [t / 25 for t in times]
        for (start, count), (begin, end) in zip(plan.bounds[1:], plan.shown[1:], strict=True):
            assert begin == pytest.approx(begins[start], abs=2e-3)
            if start + count < 30:
                assert end == pytest.approx(begins[start + count], abs=2e-3)
        assert plan.shown[0] == (0, pytest.approx(5 + 5 / 29, abs=2e-3))  # from the mean frame rate


def test_segments_need_a_frame_rate():
    with pytest.raises(VideoError, match="x: it has no frame rate; score it without segments"):
        plan_clips("x", 10, 0.0, 1.0)


def test_limits(tmp_path):
    path = write(tmp_path / "clip.mp4", moving_bar(30))
    assert list(read_clips(path, LOOK, limits=Limits(64 * 48, 1.2)))
    with pytest.raises(VideoError, match="frames of 64 x 48 are more than 3071 pixels"):
        list(read_clips(path, LOOK, limits=Limits(64 * 48 - 1, 60)))
    with pytest.raises(VideoError, match="1 s are more than 1.1 s; cut it, or raise the limit"):
        list(read_clips(path, LOOK, limits=Limits(64 * 48, 1.1)))
    bare = remux(path, tmp_path / "bare.h264")  # has no duration
    with pytest.raises(VideoError, match="more than 1.1 s"):
        list(read_clips(bare, LOOK, limits=Limits(64 * 48, 1.1)))


def test_frames_do_not_wait_for_the_garbage_collector(tmp_path):
    path = write(tmp_path / "clip.mp4", moving_bar(30))
    gc.collect()
    gc.disable()  # garbage in reference cycles stays
    try:
        messages = list(read_clips(path, LOOK, 0.4))
        left = [one for one in gc.get_objects() if isinstance(one, VideoFrame)]
    finally:
        gc.enable()
    assert len(messages) == 6 and not left
