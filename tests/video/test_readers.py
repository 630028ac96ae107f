"""Processes that read ahead, also when a file crashes one of them."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from dagr_jax.video.clip import Clip, ClipPlan, Piece, read_clips
from dagr_jax.video.decode import timed_frames
from dagr_jax.video.inputs import Crops, InputSpec, Resize, Stream
from dagr_jax.video.readers import Readers
from dagr_jax.video.stream import Limits, VideoError

from .clips import moving_bar, write

FRAMES = Stream("linspace", 4, Resize((24, 32)))
WINDOWS = Stream("windows", 0, Resize((24, 32), antialias=True), of="frames", window=8, chunk=8)
SPEC = InputSpec({"frames": FRAMES, "windows": WINDOWS})
CROPS = InputSpec(
    {
        "crops": Stream("even", 8, Resize(short_side=30), Crops((20, 40), "corners"), mask=True),
        "all": Stream("all", 0, crops=Crops((20, 20)), chunk=4),
    }
)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Five clips of 10, 11, … frames."""
    home = tmp_path_factory.mktemp("clips")
    return [str(write(home / f"{i}.mp4", moving_bar(10 + i))) for i in range(5)]


def assert_equal(ours, theirs):
    assert [type(message) for message in ours] == [type(message) for message in theirs]
    for one, other in zip(ours, theirs, strict=True):
        if not isinstance(one, Piece | Clip):
            assert one == other
            continue
        assert (one.start, one.length) == (other.start, other.length)
        if isinstance(one, Piece):
            assert one.stream == other.stream and one.places.dtype == np.int64
            np.testing.assert_array_equal(one.places, other.places)
            np.testing.assert_array_equal(one.frames, other.frames)
        else:
            assert list(one.inputs) == list(other.inputs)
            for name, frames in one.inputs.items():
                np.testing.assert_array_equal(frames, other.inputs[name])


@pytest.mark.parametrize("spec", [SPEC, CROPS], ids=["windows", "crops"])
@pytest.mark.parametrize("count", [1, 2, 7])
def test_files_come_in_order_and_as_this_process_reads_them(clips, count, spec):
    with Readers(count) as readers:
        for _ in range(2):  # the processes stay for more
            read = readers.read(clips, spec, 0.2, Limits())
            for wanted, (path, messages) in zip(clips, read, strict=True):
                assert path == wanted
                assert_equal(list(messages), list(read_clips(path, spec, 0.2, Limits())))


def test_a_bad_file_is_an_error_of_its_own(clips, tmp_path):
    text = tmp_path / "text\N{SNOWMAN}\udcff.mp4"  # a name that is not UTF-8
    text.write_text("not a video")
    seen = []
    with Readers(2) as readers:
        for path, messages in readers.read([clips[0], str(text), clips[1]], SPEC):
            try:
                seen.append((path, len(list(messages))))
            except VideoError as error:
                seen.append(str(error))
    # The plan, two windows, the clip, the facts.
    assert seen[0] == (clips[0], 5) and seen[2] == (clips[1], 5)
    assert seen[1].startswith(f"{text}: FFmpeg cannot read it")


def test_what_is_not_taken_is_skipped(clips):
    with Readers(2) as readers:
        first = [next(messages) for _, messages in readers.read(clips, SPEC)]
    assert [plan.bounds for plan in first] == [((0, 10 + i),) for i in range(5)]


def pids(readers):
    return [process._program.pid for process in readers._processes]


@pytest.mark.parametrize(
    ("stop", "says"),
    [
        (signal.SIGKILL, "it crashed the decoder process (SIGKILL); re-encode it"),
        pytest.param(
            signal.SIGSTOP,
            "decoding returned nothing for 10 s; re-encode it, or give it more time",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_process_that_is_lost_costs_one_file(clips, stop, says):
    with Readers(1, patience=10.0) as readers:  # starting a new process may take seconds
        errors, read = [], 0
        for number, (_, messages) in enumerate(readers.read(clips, SPEC)):
            if number == 2:
                os.kill(pids(readers)[0], stop)
            try:
                read += isinstance(list(messages)[0], ClipPlan)
            except VideoError as error:
                errors.append(str(error))
        # The process may have received the file already.
        assert read + len(errors) == 5 and len(errors) <= 1
        assert all(error.startswith(f"{clips[2]}: {says}") for error in errors)
        ended = pids(readers)
    for pid in ended:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_one_file_alone_is_as_this_process_reads_it(clips, tmp_path):
    """Its clips, or all its frames with their times; a caller may leave before the end."""
    with Readers(1) as readers:
        for _ in range(2):
            assert_equal(
                list(readers.clips(clips[3], SPEC, 0.2)), list(read_clips(clips[3], SPEC, 0.2))
            )
            times, frames = zip(*readers.frames(clips[4]), strict=True)
            wanted_times, wanted = zip(*timed_frames(clips[4]), strict=True)
            assert times == wanted_times
            np.testing.assert_array_equal(frames, wanted)
            left = readers.frames(clips[1])
            assert next(left).seconds == 0
            left.close()
        with pytest.raises(VideoError, match="gone.mp4: there is no such file"):
            next(readers.frames("gone.mp4"))
        large = write(tmp_path / "large.mp4", moving_bar(20, 240, 320))  # more than a socket holds
        frames = readers.frames(str(large))
        next(frames)
        readers._processes[0]._program.kill()  # as a file does that crashes the decoder
        with pytest.raises(VideoError, match="it crashed the decoder process .SIGKILL."):
            list(frames)
        assert len(list(readers.frames(str(large)))) == 20


def test_a_script_without_a_main_guard_is_not_run_again(clips, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from dagr_jax.video.inputs import InputSpec, Resize, Stream\n"
        "from dagr_jax.video.readers import Readers\n"
        "print('once')\n"
        "spec = InputSpec({'frames': Stream('linspace', 2, Resize((8, 8)))})\n"
        "with Readers(2) as readers:\n"
        f"    for path, messages in readers.read({clips!r}, spec):\n"
        "        print(len(list(messages)))\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["once", "3", "3", "3", "3", "3"] and not done.stderr
