"""Times of frames: checked, corrected, or not used."""

import numpy as np
import pytest

from dagr_jax.video.clock import Timeline
from dagr_jax.video.decode import decode_frames, read_clip, timed_frames

from .clips import decode_all, moving_bar, remux, write

TICK = 1 / 90_000


def test_the_order_of_the_decoder_wins_over_presentation_times(tmp_path):
    """Times that go back are ignored, all of them; the frame rate counts."""
    shown = np.random.default_rng(0).permutation(40)
    source = write(tmp_path / "intra.mkv", moving_bar(40, width=96), g="1", bf="0")

    def show_later(i, packet):
        packet.pts = 40 * (40 + int(shown[i]))  # milliseconds; not before the decoding time

    path = remux(source, tmp_path / "shuffled.mkv", edit=show_later)
    decoded = decode_all(path)
    assert [pts for pts, _ in decoded] != sorted(pts for pts, _ in decoded)
    expected = [rgb for _, rgb in decoded]
    frames, info = read_clip(path, 8)
    np.testing.assert_array_equal(frames[[0, 7]], [expected[0], expected[39]])
    assert (info.fps, info.duration) == (25, 1.6)
    assert info.notes == "its times go back: shown at 25 frames/s"
    np.testing.assert_array_equal(decode_frames(path, range(40)), expected)
    times, every = zip(*timed_frames(path), strict=True)
    np.testing.assert_array_equal(every, expected)
    np.testing.assert_allclose(times, np.arange(40) / 25)


def test_a_steady_rate_is_exact():
    line = Timeline.of([3600 * i for i in range(100)], TICK, 0.0)
    assert line.fps == 25 and line.duration == pytest.approx(4) and line.begin == 0
    ntsc = Timeline.of([3003 * i for i in range(1000)], TICK, 0.0)
    assert ntsc.fps == pytest.approx(30_000 / 1001, rel=1e-12)
    # A clock of milliseconds rounds each interval to 33 or 34.
    rounded = Timeline.of([round(1001 * i / 30) for i in range(1000)], 1e-3, 1000.0)
    assert rounded.fps == pytest.approx(30_000 / 1001, rel=1e-4)


def test_a_pause_does_not_change_the_rate():
    times = [3600 * i for i in range(50)]
    times[25:] = [time + 60 * 90_000 for time in times[25:]]
    line = Timeline.of(times, TICK, 0.8)
    assert line.fps == 25 and line.duration == pytest.approx(62)
    assert line.note == "a picture stays for 60 s"


@pytest.mark.parametrize(
    ("times", "nominal", "rate"),
    [
        ([0, 33, 3000], 0.0, 2 / 3),  # a slide show: the mean
        ([40 * i + 30 * (i % 2) for i in range(51)], 0.0, 25),  # 70 and 10 ms by turns
        ([200 * (i // 5) + i % 5 for i in range(51)], 0.0, 25),  # bursts
        ([i // 10 for i in range(51)], 25.0, 25),  # no camera has this rate
        ([0] * 50 + [1], 25.0, 25),
    ],
)
def test_clocks_that_are_not_steady(times, nominal, rate):
    line = Timeline.of(times, 1e-3, nominal)
    assert line.fps == pytest.approx(rate, rel=0.03)


def test_lost_times_are_interpolated_or_all_are_ignored():
    line = Timeline.of([0, None, 7200, 10800, None], TICK, 0.0)
    np.testing.assert_allclose(line.seconds, np.arange(5) / 25)
    few = Timeline.of([0, None, None, None, None], TICK, 50.0)
    np.testing.assert_allclose(few.seconds, np.arange(5) / 50)
    unknown = Timeline.of([None] * 5, TICK, 0.0)
    assert not unknown.seconds.any() and unknown.fps == unknown.duration == 0
    still = Timeline.of([7] * 5, TICK, 25.0)
    np.testing.assert_allclose(still.seconds, np.arange(5) / 25)


def test_times_that_go_back_are_ignored_for_the_rate_of_decoding():
    line = Timeline.of([0, 7200, 3600, 14400, 10800], TICK, 10.0, decoded=range(0, 18000, 3600))
    assert line.ignored and line.fps == 25 and "shown at 25 frames/s" in line.note
    np.testing.assert_allclose(line.seconds, np.arange(5) / 25)
    assert Timeline.of([0, 7200, 3600], TICK, 10.0).fps == 25  # without decoding times


@pytest.mark.parametrize(("begins", "late"), [(0.0, 2.0), (1.91, 0.0), (float("nan"), 0.0)])
def test_the_first_frame_may_come_late(begins, late):
    """Up to a tenth of a second counts as nothing: encoders of sound begin early."""
    line = Timeline.of([180_000 + 3600 * i for i in range(5)], TICK, 0.0, begins)
    assert line.begin == pytest.approx(late) and line.seconds[0] == 0
