"""Overlays: times of the frames, the sound, and the contents of the picture."""

import json
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from dagr_jax import cli
from dagr_jax.report.overlay import heat, write_overlay
from dagr_jax.runtime.errors import DagrError
from dagr_jax.score.maps import maps_over_time
from dagr_jax.video.decode import iter_frames
from tests.video.clips import moving_bar, write


def with_sound(path, codec, frames):
    """A clip at 25 fps with a tone of the same length."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=25, options={"bf": "2"})
        video.height, video.width = frames.shape[1:3]
        video.pix_fmt = "yuv420p"
        sound = container.add_stream(codec, rate=48_000, layout="mono")
        for i, rgb in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(rgb, "rgb24")
            frame.pts, frame.time_base = i, Fraction(1, 25)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        wave = np.sin(np.arange(len(frames) * 1920) * 2 * np.pi * 440 / 48_000)
        samples = (wave * 8000).astype(np.int16)[None]
        resampler = av.AudioResampler(sound.format.name, "mono", 48_000)
        for start in range(0, samples.shape[1], 960):
            frame = av.AudioFrame.from_ndarray(samples[:, start : start + 960], "s16", "mono")
            frame.sample_rate, frame.pts = 48_000, start
            for ready in resampler.resample(frame):
                container.mux(sound.encode(ready))
        container.mux(sound.encode(None))
    return path


def told(path):
    """Returns (pts of the frames in s, (height, width)); and (codec, seconds) of the sound."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
        video = [float(f.pts * f.time_base) for f in frames], (frames[0].height, frames[0].width)
    with av.open(str(path)) as container:
        if not container.streams.audio:
            return *video, None
        track = container.streams.audio[0]
        samples = sum(frame.samples for frame in container.decode(track))
        return *video, (track.codec_context.name, samples / track.codec_context.sample_rate)


@pytest.mark.parametrize(
    ("codec", "kept"), [("aac", "aac"), ("pcm_s16le", "aac"), ("mp3", "mp3float")]
)
def test_an_overlay_has_the_frames_times_and_sound_of_its_file(scorer, tmp_path, codec, kept):
    path = with_sound(tmp_path / "clip.mkv", codec, moving_bar(30))
    result = scorer.score(path, segments=0.4)
    film, sheet = write_overlay(scorer, result, tmp_path / "look", "clip")
    times, size, sound = told(film)
    wanted, _, original = told(path)
    assert np.allclose(times, wanted, atol=1e-3) and size == (48, 64)
    assert sound[0] == kept
    assert sound[1] == pytest.approx(original[1], abs=0.05)  # one or two AAC frames of 21 ms
    assert sorted(p.name for p in film.parent.iterdir()) == ["clip.mp4", "clip.png"]
    with Image.open(sheet) as image:
        assert image.width == 4 * 328 + 8 and len(image.getcolors(1 << 24)) > 100


def test_uneven_times_and_odd_sizes_are_kept(scorer, tmp_path):
    path = tmp_path / "odd.mkv"
    frames = moving_bar(12, height=49, width=65)
    write(path, frames, "vp9", times=[0, 1, 2, 5, 6, 7, 8, 20, 21, 22, 23, 24])
    film, _ = write_overlay(scorer, scorer.score(path), tmp_path, "look")
    times, size, sound = told(film)
    assert np.allclose(times, told(path)[0], atol=1e-3) and size == (49, 65) and sound is None


def test_the_maps_are_those_of_windows_that_are_scored_alone(any_scorer, tmp_path):
    """Ten frames, windows of four: the last is filled up with the last frame."""
    path = write(tmp_path / "clip.mp4", moving_bar(10))
    frames = np.stack(list(iter_frames(path)))
    found = list(maps_over_time(any_scorer, path))
    np.testing.assert_allclose([one.seconds for one in found], np.arange(10) / 25, atol=1e-6)
    np.testing.assert_array_equal([one.frame for one in found], frames)
    filled = frames[[*range(10), 9, 9]]
    wanted = [any_scorer.maps(filled[i : i + 4])["saliency"] for i in (0, 4, 8)]
    for one, own in zip(found, np.concatenate(wanted)[:10], strict=True):
        assert list(one.maps) == ["saliency"] and one.maps["saliency"].shape == (24, 32)
        np.testing.assert_array_equal(one.maps["saliency"], own)


def test_heat_is_the_frame_where_nobody_looks():
    frame = np.full((20, 30, 3), 90, np.uint8)
    saliency = np.zeros((2, 3))
    np.testing.assert_array_equal(heat(frame, saliency), frame)
    hot = heat(frame, saliency + 1, strength=1.0)
    # The bright end of matplotlib's "inferno".
    np.testing.assert_array_equal(hot, np.broadcast_to([252, 254, 164], hot.shape))
    left = saliency.copy()
    left[:, 0] = 1
    changed = np.abs(heat(frame, left).astype(int) - frame).sum((0, 2))
    assert changed[0] > 0 and changed[-1] == 0


def test_the_command_numbers_files_of_one_name(checkpoint, clips, tmp_path, capsys):
    other = tmp_path / "other" / "0.mp4"
    other.parent.mkdir()
    other.write_bytes(Path(clips[0]).read_bytes())
    look = tmp_path / "look"
    arguments = ["score", clips[0], str(other), "--checkpoint", str(checkpoint)]
    assert cli.main([*arguments, "--overlay", str(look)]) == 0
    names = ["0.mp4-2.mp4", "0.mp4-2.png", "0.mp4.mp4", "0.mp4.png"]
    assert sorted(p.name for p in look.iterdir()) == names
    assert "score" in capsys.readouterr().out


def test_a_score_without_maps_has_no_overlay(no_maps_checkpoint, clips, tmp_path, capsys):
    """Though its checkpoint holds a saliency network, which nothing has trained."""
    look = tmp_path / "look"
    call = ["score", *clips[:2], "--checkpoint", str(no_maps_checkpoint), "--format", "json"]
    assert cli.main([*call, "--overlay", str(look)]) == 1
    told = capsys.readouterr()
    problem = "the score of this checkpoint uses no maps to show"
    assert [row["notes"] for row in json.loads(told.out)] == [problem] * 2
    remedy = "leave --overlay out, or use a checkpoint whose score uses maps"
    assert told.err.splitlines() == [f"dagr: {clip}: {problem}; {remedy}" for clip in clips[:2]]
    assert not list(look.iterdir())
    assert cli.main(call) == 0


def test_the_file_itself_is_never_overwritten(scorer, clips, tmp_path):
    copy = tmp_path / "clip.mp4"
    copy.write_bytes(Path(clips[0]).read_bytes())
    before = copy.read_bytes()
    with pytest.raises(DagrError, match="is the video itself; give another folder"):
        write_overlay(scorer, scorer.score(copy), tmp_path, "clip")
    assert copy.read_bytes() == before and list(tmp_path.iterdir()) == [copy]
