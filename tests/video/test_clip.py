"""Frames for a model: the whole video and its segments, read in one pass."""

import gc
import itertools
import tracemalloc
import weakref

import numpy as np
import pytest
from av.video.frame import VideoFrame

from dagr_jax.video.clip import Clip, ClipPlan, Piece, clips_of, plan_clips, read_clips
from dagr_jax.video.clock import Timeline
from dagr_jax.video.decode import VideoError, decode_frames, iter_frames, probe, read_clip
from dagr_jax.video.inputs import Crops, InputSpec, Resize, Stream
from dagr_jax.video.resize import resize
from dagr_jax.video.stream import Limits

from .clips import ENCODERS, gathered, moving_bar, remux, write

SIZE = 24, 32
FRAMES = Stream("linspace", 4, Resize(SIZE))
OF_WINDOWS = Stream(
    "windows",
    0,
    Resize(SIZE, antialias=True),
    of="frames",
    window=8,
    choice="linspace",
    chunk=8,
)
SPEC = InputSpec({"frames": FRAMES})
WINDOWS = InputSpec({"frames": FRAMES, "windows": OF_WINDOWS})


def steady(length, fps):
    """The timeline of frames at a constant rate; 0: unknown."""
    return Timeline.of([None] * length, 0.0, fps)


def taken(path, spec, seconds=0.0):
    """(ClipPlan, {(start, length): {stream: frames}}, VideoInfo, number of plans) of a file."""
    return gathered(read_clips(path, spec, seconds))


def assert_as_decoded(path, spec, seconds):
    """Every clip is what decoding the frames of its bounds gives; returns the number of plans."""
    plan, clips, info, plans = taken(path, spec, seconds)
    assert clips.keys() == set(plan.bounds) and plan.path == str(path)
    assert info == probe(path) or info.num_frames == probe(path).num_frames
    assert plan.bounds[0] == (0, info.num_frames)
    for (start, length), inputs in clips.items():
        assert inputs.keys() == spec.streams.keys()
        for name, stream in spec.streams.items():
            ranks = start + spec.indices(name, length).reshape(-1)
            antialias = stream.resize.antialias
            wanted = decode_frames(path, ranks, stream.resize.size, antialias=antialias)
            np.testing.assert_array_equal(inputs[name], wanted)
    return plans


@pytest.fixture(scope="module", params=ENCODERS)
def clip(request, tmp_path_factory):
    """A clip of 53 frames at 25 fps."""
    suffix = ENCODERS[request.param][1]
    path = tmp_path_factory.mktemp("clips") / f"clip{suffix}"
    return write(path, moving_bar(53), request.param)


@pytest.mark.parametrize("spec", [SPEC, WINDOWS], ids=["plain", "windows"])
@pytest.mark.parametrize("seconds", [0.0, 0.5])
def test_clips_are_the_frames_of_their_bounds(clip, spec, seconds):
    assert assert_as_decoded(clip, spec, seconds) == 1


def test_the_whole_is_what_read_clip_gives(clip):
    _, clips, info, _ = taken(clip, SPEC, 0.5)
    frames, same = read_clip(clip, 4, size=(24, 32))
    np.testing.assert_array_equal(clips[0, 53]["frames"], frames)
    assert info == same


def test_frames_that_packets_do_not_tell_apart(tmp_path):
    """Without times, the decoder's output order is used, and one decoding pass is enough."""
    path = write(tmp_path / "clip.mp4", moving_bar(30), bf="0")
    bare = remux(path, tmp_path / "bare.h264")
    assert assert_as_decoded(bare, SPEC, 0.4) == 1


def test_a_damaged_file_is_read_again(tmp_path):
    """The packets announce more frames than can be decoded; results before that are discarded."""
    path = write(tmp_path / "clip.mp4", moving_bar(60), g="10", bf="0")
    packets = itertools.count()

    def spoil(number, packet):
        if next(packets) in (20, 31):
            packet.update(np.zeros(packet.size, np.uint8).tobytes())

    spoilt = remux(path, tmp_path / "spoilt.mkv", edit=spoil)
    plan, clips, info, plans = taken(spoilt, SPEC, 0.4)
    assert plans == 2 and info.damaged > 0
    every = np.stack(list(iter_frames(spoilt, SIZE)))
    assert info.num_frames == len(every) < 60
    assert clips.keys() == set(plan.bounds)
    for (start, length), inputs in clips.items():
        wanted = every[start + SPEC.indices("frames", length)]
        np.testing.assert_array_equal(inputs["frames"], wanted)


@pytest.mark.parametrize("fps", [23.976, 25.0, 60.0])
@pytest.mark.parametrize("seconds", [0.01, 0.5, 2.0, 7.3])
@pytest.mark.parametrize("length", [1, 2, 59, 60, 61, 1000])
def test_segments_cover_the_video_without_gap(fps, seconds, length):
    whole, *parts = plan_clips("x", steady(length, fps), seconds).bounds
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
        plan, _, _, _ = taken(path, SPEC, 1.0)
        begins = [t / 25 for t in times]
        for (start, count), (begin, end) in zip(plan.bounds[1:], plan.shown[1:], strict=True):
            assert begin == pytest.approx(begins[start], abs=2e-3)
            if start + count < 30:
                assert end == pytest.approx(begins[start + count], abs=2e-3)
        # The last frame is shown as long as most frames are.
        assert plan.shown[0] == (0, pytest.approx(5 + 1 / 25, abs=2e-3))
        # Cut by time: a second of 25 frames, then the frames of each second.
        assert [count for _, count in plan.bounds[1:]] == [25, 1, 1, 1, 2]


def test_segments_need_a_frame_rate():
    with pytest.raises(VideoError, match="x: it has no frame rate; score it without segments"):
        plan_clips("x", steady(10, 0.0), 1.0)


def test_limits(tmp_path):
    path = write(tmp_path / "clip.mp4", moving_bar(30))
    assert list(read_clips(path, SPEC, limits=Limits(64 * 48, 1.2)))
    with pytest.raises(VideoError, match="frames of 64 x 48 are more than 3071 pixels"):
        list(read_clips(path, SPEC, limits=Limits(64 * 48 - 1, 60)))
    with pytest.raises(VideoError, match="it is longer than 1.1 s; cut it, or raise the limit"):
        list(read_clips(path, SPEC, limits=Limits(64 * 48, 1.1)))
    bare = remux(path, tmp_path / "bare.h264")  # says nothing of its length
    with pytest.raises(VideoError, match="longer than 1.1 s"):
        list(read_clips(bare, SPEC, limits=Limits(64 * 48, 1.1)))


def test_one_time_that_is_wrong_makes_no_long_video(tmp_path):
    """A leap of five hours is one long picture, not a video of five hours."""
    times = [*range(20), *range(20 + 25 * 18_000, 30 + 25 * 18_000)]
    path = write(tmp_path / "leap.mkv", moving_bar(30), times=times)
    *_, info = read_clips(path, SPEC, limits=Limits())
    assert info.fps == 25 and info.notes == "a picture stays for 18000 s"


def test_packets_that_give_no_pictures_are_damage(tmp_path):
    """Of encrypted HEVC, the decoder gives one picture and no error."""
    rng = np.random.default_rng(0)
    path = write(tmp_path / "open.mp4", moving_bar(50), "hevc")

    def scramble(number, packet):
        data = bytearray(bytes(packet))
        data[8:] = rng.bytes(len(data) - 8)
        packet.update(bytes(data))

    closed = remux(path, tmp_path / "closed.mkv", edit=scramble)
    with pytest.raises(VideoError, match="of its pictures are damaged|no frame of it decodes"):
        list(read_clips(closed, SPEC))


def test_frames_do_not_wait_for_the_garbage_collector(tmp_path):
    path = write(tmp_path / "clip.mp4", moving_bar(30))
    gc.collect()
    gc.disable()  # garbage in reference cycles stays
    try:
        messages = list(read_clips(path, SPEC, 0.4))
        left = [one for one in gc.get_objects() if isinstance(one, VideoFrame)]
    finally:
        gc.enable()
    assert len(messages) == 6 and not left


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """53 frames of 60 × 100 pixels, 25 a second, and all of them as they are decoded."""
    path = tmp_path_factory.mktemp("large") / "large.mp4"
    write(path, moving_bar(53, 60, 100))
    return path, decode_frames(path, np.arange(53))


def test_crops_are_windows_of_the_resized_frames(large):
    path, every = large
    spec = InputSpec(
        {
            "middle": Stream("linspace", 3, Resize((40, 50)), Crops((24, 20))),
            "corners": Stream("linspace", 3, crops=Crops((25, 31), "corners")),
            "pieces": Stream("linspace", 3, crops=Crops((25, 31), "corners"), chunk=2),
            "wide": Stream("linspace", 3, crops=Crops((25, 200), "corners")),
            "small": Stream("linspace", 3, Resize((40, 50)), Crops((80, 60), "corners")),
        }
    )
    plan, clips, _, _ = taken(path, spec, 0.8)
    assert len(plan.bounds) == 4
    for (start, length), found in clips.items():
        ranks = start + np.array([0, (length - 1) // 2, length - 1])
        whole, resized = every[ranks], decode_frames(path, ranks, (40, 50))
        np.testing.assert_array_equal(found["middle"], resized[None, :, 8:32, 15:35])
        four = [whole[:, top : top + 25, left : left + 31] for top in (0, 35) for left in (0, 69)]
        np.testing.assert_array_equal(found["corners"], four)
        np.testing.assert_array_equal(found["pieces"], four)
        two = [whole[:, top : top + 25] for top in (0, 0, 35, 35)]
        np.testing.assert_array_equal(found["wide"], two)
        np.testing.assert_array_equal(found["small"], resized[None])


def test_streams_are_resized_each_in_its_way(large):
    path, every = large
    spec = InputSpec(
        {
            "bicubic": Stream("segments", 5, Resize(SIZE, kernel="bicubic")),
            "antialiased": Stream("segments", 5, Resize(SIZE, kernel="bicubic", antialias=True)),
            "short": Stream("segments", 5, Resize(short_side=32)),
            "area": Stream("segments", 5, Resize(short_side=32, kernel="area")),
            "own": Stream("segments", 5),
        }
    )
    (found,) = taken(path, spec)[1].values()
    frames = every[[5, 15, 26, 37, 47]]
    for name, wanted in {
        "bicubic": resize(frames, (24, 32), "bicubic"),
        "antialiased": resize(frames, (24, 32), "bicubic", antialias=True),
        "short": resize(frames, (32, 53)),  # 32 · 100 / 60, cut
        "area": resize(frames, (32, 53), "area"),
        "own": frames,
    }.items():
        np.testing.assert_array_equal(found[name], wanted, err_msg=name)
    upright = write(path.with_name("upright.mp4"), moving_bar(5, 100, 60))
    spec = InputSpec({"short": Stream("all", 0, Resize(short_side=32))})
    (found,) = taken(upright, spec)[1].values()
    wanted = resize(decode_frames(upright, np.arange(5)), (53, 32))
    np.testing.assert_array_equal(found["short"], wanted)


ALL = InputSpec({"frames": FRAMES, "all": Stream("all", 0, chunk=16)})


def test_all_frames_come_in_pieces(large):
    """Each frame once, in pieces of 16 and a rest, of the video and of its segments."""
    path, every = large
    messages = list(read_clips(path, ALL, 0.8))
    pieces = [message for message in messages if isinstance(message, Piece)]
    for bound, count in {(0, 53): 53, (0, 20): 20, (20, 20): 20, (40, 13): 13}.items():
        own = [piece for piece in pieces if (piece.start, piece.length) == bound]
        starts = range(0, count, 16)
        assert [piece.places.tolist() for piece in own] == [
            list(range(start, min(start + 16, count))) for start in starts
        ]
        for piece, first in zip(own, starts, strict=True):
            assert piece.stream == "all" and len(piece.frames) <= 16
            first += bound[0]
            wanted = every[first : first + len(piece.frames)]
            np.testing.assert_array_equal(piece.frames, wanted)
    assert sum(len(piece.frames) for piece in pieces) == 2 * 53
    # A piece comes as soon as it is complete, and no clip holds its stream again.
    kinds = [type(message) for message in messages]
    assert kinds[1] is Piece and kinds.index(Clip) < len(kinds) - 4
    assert all(one.inputs.keys() == {"frames"} for one in messages if isinstance(one, Clip))


def test_of_more_frames_than_a_stream_takes_some_come_in_pieces(large):
    path, every = large
    _, clips, _, _ = taken(path, InputSpec({"some": Stream("all", 20, chunk=16)}))
    np.testing.assert_array_equal(clips[0, 53]["some"], every[np.arange(20) * 53 // 20])


def test_memory_does_not_grow_with_a_stream_in_pieces(tmp_path):
    """Of 200 frames of the video and of one of its halves no more live than two pieces hold."""
    alive, most = weakref.WeakSet(), 0

    class Frame(np.ndarray):
        """An array that can be hashed."""

        __hash__ = object.__hash__
        __eq__ = object.__eq__

    class Frames:
        def __getitem__(self, rank):
            frame = np.full((6, 8, 3), rank, np.uint8).view(Frame)
            alive.add(frame)
            return frame

    plan = plan_clips("x", steady(200, 25.0), 4.0)
    assert len(plan.bounds) == 3
    count = 0
    for message in clips_of(Frames(), InputSpec({"all": Stream("all", 0, chunk=16)}), plan):
        if isinstance(message, Piece):
            count += len(message.frames)
            most = max(most, len(alive))
    assert count == 400 and 16 <= most <= 2 * 16 + 1

    path = write(tmp_path / "long.mp4", moving_bar(150, 180, 320))
    frame_bytes = 180 * 320 * 3
    for _ in range(2):  # what is loaded at the first time does not count
        tracemalloc.start()
        for message in read_clips(path, InputSpec({"all": Stream("all", 0, chunk=16)})):
            del message
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    # A piece, the frames that it is stacked of, and one being converted.
    assert peak < 40 * frame_bytes


def test_a_short_clip_is_masked_or_repeated(large):
    """What is masked has each frame once; the frames of longer clips are evenly chosen."""
    path, _ = large
    spec = InputSpec(
        {
            "masked": Stream("even", 20, Resize(SIZE), mask=True),
            "repeated": Stream("even", 20, Resize(SIZE)),
        }
    )
    plan, clips, _, _ = taken(path, spec, 0.5)
    assert sorted({length for _, length in plan.bounds}) == [12, 13, 16, 53]
    for (start, length), found in clips.items():
        ranks = start + np.arange(20) * length // 20
        frames = decode_frames(path, ranks, SIZE)
        np.testing.assert_array_equal(found["repeated"], frames)
        if length < 20:
            assert len(found["masked"]) == length
            frames = decode_frames(path, start + np.arange(length), SIZE)
        np.testing.assert_array_equal(found["masked"], frames)


def test_fragments_are_runs_of_frames(large):
    """Of 53 frames four segments of 13: runs of 2 frames in steps of 3, in the middle of 7."""
    path, every = large
    spec = InputSpec({"runs": Stream("fragments", 8, fragments=4, stride=3)})
    _, clips, _, _ = taken(path, spec)
    ranks = [3, 6, 16, 19, 29, 32, 42, 45]
    np.testing.assert_array_equal(clips[0, 53]["runs"], every[ranks])
    # A clip that is shorter than its runs is gone through again from its beginning.
    wrapped = InputSpec({"runs": Stream("fragments", 8, fragments=2, stride=4)})
    short = next(iter(clips_of(every[:10], wrapped, ClipPlan(((0, 10),), 0.0))))
    np.testing.assert_array_equal(short.inputs["runs"], every[[0, 4, 8, 2, 5, 9, 3, 7]])


def test_frames_in_memory_are_as_those_of_a_file(large):
    path, every = large
    spec = InputSpec({**WINDOWS.streams, **ALL.streams})
    plan, wanted, _, _ = taken(path, spec, 0.8)
    _, found, _, _ = gathered([plan, *clips_of(every, spec, plan)])
    assert found.keys() == wanted.keys()
    for bound, inputs in wanted.items():
        assert list(inputs) == list(found[bound]) == ["frames", "windows", "all"]
        for name, frames in inputs.items():
            np.testing.assert_array_equal(found[bound][name], frames)


def test_frames_of_several_sizes(tmp_path):
    """Which a stream that resizes them can take, and one that does not cannot."""
    parts = []
    for name, size in (("small", (48, 64)), ("large", (96, 128))):
        file = write(tmp_path / f"{name}.mp4", moving_bar(5, *size))
        parts.append(remux(file, tmp_path / f"{name}.h264").read_bytes())
    path = tmp_path / "both.h264"
    path.write_bytes(b"".join(parts))
    _, clips, _, _ = taken(path, SPEC)
    assert clips[0, 10]["frames"].shape == (4, *SIZE, 3)
    with pytest.raises(VideoError, match="both.h264: its frames have 2 sizes; re-encode it at"):
        taken(path, InputSpec({"x": Stream("all", 0)}))
