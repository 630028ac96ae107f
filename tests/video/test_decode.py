import struct
import tracemalloc
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from dagr_jax.video.decode import VideoError, decode_frames, iter_frames, probe, read_clip
from dagr_jax.video.resize import resize_bilinear

from .clips import ENCODERS, decode_all, flat_colour, moving_bar, remux, tone, write

SHARED = Path(__file__).resolve().parents[3] / "shared"


def bar_positions(frames):
    """Returns the left edge of the bar in each frame, from the red channel (background 0)."""
    return [int(np.argmax(frame[..., 0].mean(axis=0) > 100)) for frame in frames]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write(tmp_path_factory.mktemp("clip") / "clip.mp4", moving_bar(27))


@pytest.mark.parametrize("codec", ENCODERS)
def test_chosen_frames_are_those_of_a_full_decode(tmp_path, codec):
    path = write(tmp_path / f"clip{ENCODERS[codec][1]}", moving_bar(27), codec)
    everything = [rgb for _, rgb in sorted(decode_all(path), key=lambda item: item[0])]
    assert len(everything) == 27
    assert bar_positions(everything) == [2 * i for i in range(27)]
    if codec in ("h264", "hevc"):
        with av.open(str(path)) as container:
            stored = [packet.pts for packet in container.demux(video=0) if packet.size]
        assert stored != sorted(stored)  # there are B-frames to reorder

    frames, info = read_clip(path, 8)
    chosen = [0, 3, 7, 11, 14, 18, 22, 26]
    np.testing.assert_array_equal(frames, np.stack([everything[i] for i in chosen]))
    np.testing.assert_array_equal(np.stack(list(iter_frames(path))), np.stack(everything))
    assert (info.num_frames, info.width, info.height) == (27, 64, 48)
    assert (info.codec, info.pix_fmt, info.bit_depth, info.damaged) == (codec, "yuv420p", 8, 0)
    assert info.fps == pytest.approx(25) and info.duration == pytest.approx(27 / 25)
    assert probe(path) == info


def test_any_order_repeats_and_functions(clip):
    everything = np.stack([rgb for _, rgb in decode_all(clip)])
    np.testing.assert_array_equal(decode_frames(clip, [20, 3, 3, 0]), everything[[20, 3, 3, 0]])
    np.testing.assert_array_equal(
        decode_frames(clip, lambda length: np.arange(length)[::-1]), everything[::-1]
    )
    assert decode_frames(clip, []).shape == (0, 48, 64, 3)
    segments, _ = read_clip(clip, 3, "segments")
    np.testing.assert_array_equal(segments, everything[[4, 13, 22]])


def test_resized_frames(clip):
    everything = np.stack([rgb for _, rgb in decode_all(clip)])
    for antialias in (False, True):
        frames, info = read_clip(clip, 4, size=(20, 30), antialias=antialias)
        expected = resize_bilinear(everything[[0, 8, 17, 26]], (20, 30), antialias=antialias)
        np.testing.assert_array_equal(frames, expected)
        assert (info.height, info.width) == (48, 64)  # size of the file, not of the result


@pytest.mark.parametrize("length", [1, 3])
def test_short_videos_repeat_frames(tmp_path, length):
    path = write(tmp_path / "short.mp4", moving_bar(length))
    frames, info = read_clip(path, 8)
    assert info.num_frames == length
    assert bar_positions(frames) == [2 * (i * (length - 1) // 7) for i in range(8)]


def test_bit_rate_counts_the_packets(clip):
    with av.open(str(clip)) as container:
        size = sum(packet.size for packet in container.demux(video=0))
    assert probe(clip).bit_rate == pytest.approx(8 * size / (27 / 25))


def test_rank_not_time_with_a_varying_frame_rate(tmp_path):
    times = [0, 1, 2, 3, 30, 31, 60, 90]
    path = write(tmp_path / "vfr.mkv", moving_bar(8), rate=30, times=times)
    frames, info = read_clip(path, 4)
    assert bar_positions(frames) == [0, 4, 8, 14]  # frames 0, 2, 4, 7
    assert info.fps == pytest.approx(30, rel=0.02)  # Matroska rounds times to milliseconds
    assert info.duration == pytest.approx(91 / 30, abs=2e-3)


def test_without_times_the_order_of_the_decoder_counts(tmp_path, clip):
    path = remux(clip, tmp_path / "raw.h264")
    assert all(pts is None for pts, _ in decode_all(path))
    frames, info = read_clip(path, 8)
    assert bar_positions(frames) == [2 * i for i in (0, 3, 7, 11, 14, 18, 22, 26)]
    assert (info.num_frames, info.fps) == (27, 25.0)


def test_frames_hidden_by_an_edit_list_do_not_count(tmp_path, clip):
    data = bytearray(clip.read_bytes())
    at = data.index(b"elst") + 4
    version_flags, entries, duration, start = struct.unpack_from(">IIIi", data, at)
    assert (version_flags, entries) == (0, 1)
    step = 512  # FFmpeg writes 12,800 ticks per second at 25 fps
    struct.pack_into(">IIIi", data, at, 0, 1, duration - 200, start + 5 * step)
    path = tmp_path / "edited.mp4"
    path.write_bytes(data)
    frames, info = read_clip(path, 4)
    assert info.num_frames == 22
    assert bar_positions(frames) == [2 * i for i in (5, 12, 19, 26)]


@pytest.mark.parametrize("suffix", [".mp4", ".ts", ".mkv"])
def test_a_cut_file_counts_what_decodes(tmp_path, suffix):
    rng = np.random.default_rng(1)  # noise gives large packets, so that the cut is inside one
    video = rng.integers(0, 256, (40, 48, 64, 3), dtype=np.uint8)
    whole = remux(
        write(tmp_path / "noise.mkv", video),
        tmp_path / f"whole{suffix}",
        **({"movflags": "faststart"} if suffix == ".mp4" else {}),
    )
    data = whole.read_bytes()
    cut = tmp_path / f"cut{suffix}"
    cut.write_bytes(data[: int(len(data) * 0.6)])
    frames, info = read_clip(cut, 8)
    assert 15 <= info.num_frames <= 30 < probe(whole).num_frames == 40
    everything = np.stack(list(iter_frames(cut)))
    assert len(everything) == info.num_frames
    np.testing.assert_array_equal(frames[[0, 7]], everything[[0, -1]])
    # Frames before the cut are unchanged; the frames next to it lack their references.
    original = np.stack([rgb for _, rgb in decode_all(whole)])
    keep = info.num_frames - 5
    np.testing.assert_array_equal(everything[:keep], original[:keep])
    np.testing.assert_array_equal(read_clip(cut, 8)[0], frames)


def test_damage_is_counted(tmp_path):
    video = np.random.default_rng(2).integers(0, 256, (40, 48, 64, 3), dtype=np.uint8)
    path = write(tmp_path / "noise.mkv", video)
    assert probe(path).damaged == 0
    data = bytearray(path.read_bytes())
    for at in range(len(data) // 2, len(data) // 2 + 3000, 100):
        data[at] ^= 0xFF
    path.write_bytes(data)
    info = probe(path)
    assert info.damaged > 0 and 30 <= info.num_frames < 40
    np.testing.assert_array_equal(read_clip(path, 8)[0], read_clip(path, 8)[0])


QUADRANTS = np.zeros((3, 48, 64, 3), np.uint8)
QUADRANTS[:, :24, :32, 0] = 200
QUADRANTS[:, :24, 32:, 1] = 200
QUADRANTS[:, 24:, :32, 2] = 200


@pytest.mark.parametrize("mirror", ["none", "hflip", "vflip"])
@pytest.mark.parametrize("turn", [0, 90, 180, 270])
def test_display_rotation_is_applied(tmp_path, turn, mirror):
    flips = {} if mirror == "none" else {mirror: True}
    path = write(tmp_path / "turned.mp4", QUADRANTS, rotation=turn, **flips)
    expected = np.rot90(QUADRANTS[0], turn // 90)  # both counter-clockwise
    expected = {"none": expected, "hflip": expected[:, ::-1], "vflip": expected[::-1]}[mirror]
    frames, info = read_clip(path, 3)
    assert (info.height, info.width) == frames.shape[1:3] == expected.shape[:2]
    clockwise = -turn % 360 if mirror != "vflip" else (180 - turn) % 360
    assert info.rotation == clockwise
    # In the middle of the quadrants, the codec preserves flat colours to a few levels.
    h, w = expected.shape[:2]
    for y in (h // 4, 3 * h // 4):
        for x in (w // 4, 3 * w // 4):
            assert np.abs(frames[1, y, x].astype(int) - expected[y, x]).max() <= 6
    resized, _ = read_clip(path, 3, size=(10, 14))
    np.testing.assert_array_equal(resized, resize_bilinear(frames, (10, 14)))


@pytest.mark.parametrize("height,width", [(27, 35), (48, 51), (33, 64)])
def test_odd_sizes(tmp_path, height, width):
    video = moving_bar(9, height, width)
    path = write(tmp_path / "odd.webm", video, "vp9")
    frames, info = read_clip(path, 9)
    assert (info.height, info.width) == (height, width)
    np.testing.assert_array_equal(frames, [rgb for _, rgb in decode_all(path)])
    # Away from the bar, the codec preserves the ramp of the green channel to a few levels.
    assert np.abs(frames[0, :, 20:, 1].astype(int) - video[0, :, 20:, 1]).mean() < 4


def test_ten_bits_become_eight(tmp_path):
    video = moving_bar(9)
    path = write(tmp_path / "ten.mp4", video, "hevc", pix_fmt="yuv420p10le", crf="4")
    frames, info = read_clip(path, 9)
    assert (info.bit_depth, info.pix_fmt) == (10, "yuv420p10le")
    assert bar_positions(frames) == [2 * i for i in range(9)]
    # Green background right of the bar: CRF 4 and swscale's 10-bit path change it by ~2 levels.
    assert np.abs(frames[0, :, 20:, 1].astype(int) - video[0, :, 20:, 1]).mean() < 3


BT709, BT601 = (0.2126, 0.0722), (0.299, 0.114)  # weights of red and blue in luma


@pytest.mark.parametrize("tag,weights", [(1, BT709), (5, BT601)])
@pytest.mark.parametrize("tag_range", [1, 2], ids=["limited", "full"])
@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv444p"])
def test_colour_follows_the_tags_of_the_file(tmp_path, tag, weights, tag_range, pix_fmt):
    y, u, v = 120, 90, 170
    if tag_range == 1:
        luma, blue, red = (y - 16) / 219, (u - 128) / 224, (v - 128) / 224
    else:
        luma, blue, red = y / 255, (u - 128) / 255, (v - 128) / 255
    kr, kb = weights
    r, b = luma + 2 * (1 - kr) * red, luma + 2 * (1 - kb) * blue
    g = (luma - kr * r - kb * b) / (1 - kr - kb)
    path = flat_colour(
        tmp_path / "flat.mp4", (y, u, v), pix_fmt=pix_fmt, colorspace=tag, color_range=tag_range
    )
    frame = decode_frames(path, [0])[0]
    # swscale's fast path truncates twice.
    assert np.abs(frame.reshape(-1, 3) - 255 * np.array([r, g, b])).max() <= 2.5
    white = (235 if tag_range == 1 else 255, 128, 128)
    path = flat_colour(
        tmp_path / "white.mp4", white, pix_fmt=pix_fmt, colorspace=tag, color_range=tag_range
    )
    assert (decode_frames(path, [0]) == 255).all()


@pytest.mark.parametrize(("trc", "hdr"), [(16, "pq"), (18, "hlg"), (1, "")])
def test_hdr_is_said_and_its_code_values_are_kept(tmp_path, trc, hdr):
    """10-bit BT.2020: the picture does not depend on the transfer function."""
    y, u, v = 480, 400, 600
    path = tmp_path / "hdr.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx265", rate=25, options={"x265-params": QUIET})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p10le"
        context = stream.codec_context
        context.colorspace, context.color_range = 9, 1
        context.color_primaries, context.color_trc = 9, trc
        frame = av.VideoFrame(64, 48, "yuv420p10le")
        for plane, value in zip(frame.planes, (y, u, v), strict=True):
            plane.update(np.full((plane.height, plane.line_size // 2), value, "<u2").tobytes())
        frame.pts, frame.time_base = 0, Fraction(1, 25)
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    frames, info = read_clip(path, 1)
    assert (info.hdr, info.bit_depth) == (hdr, 10)
    kr, kb = 0.2627, 0.0593
    luma, blue, red = (y - 64) / 876, (u - 512) / 896, (v - 512) / 896
    r, b = luma + 2 * (1 - kr) * red, luma + 2 * (1 - kb) * blue
    g = (luma - kr * r - kb * b) / (1 - kr - kb)
    assert np.abs(frames[0].reshape(-1, 3) - 255 * np.array([r, g, b])).max() <= 2.5


# Without B-frames: of fewer frames than these, libx265 takes the dts from memory it never wrote.
QUIET = "crf=1:bframes=0:log-level=none:pools=none"


@pytest.mark.parametrize(
    ("encoder", "suffix", "pix_fmt"), [("png", ".mov", "rgba"), ("ffv1", ".mkv", "yuva420p")]
)
def test_alpha_is_dropped(tmp_path, encoder, suffix, pix_fmt):
    """A transparent pixel keeps its stored colour."""
    path = tmp_path / f"alpha{suffix}"
    rgba = np.zeros((48, 64, 4), np.uint8)
    rgba[:] = (200, 100, 50, 255)
    rgba[:, 32:, 3] = 0
    with av.open(str(path), "w") as container:
        stream = container.add_stream(encoder, rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, pix_fmt
        frame = av.VideoFrame.from_ndarray(rgba, "rgba").reformat(format=pix_fmt)
        frame.pts, frame.time_base = 0, Fraction(1, 25)
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    frame = decode_frames(path, [0])[0]
    assert np.abs(frame.astype(int) - (200, 100, 50)).max() <= 3  # YUV of 8 bits
    assert np.abs(frame[:, :30].astype(int) - frame[:, 34:]).max() == 0


def test_memory_holds_the_chosen_frames_only(tmp_path):
    path = write(tmp_path / "long.mp4", moving_bar(150, 180, 320))
    frame_bytes = 180 * 320 * 3
    tracemalloc.start()
    read_clip(path, 4)
    tracemalloc.stop()
    tracemalloc.start()
    frames, _ = read_clip(path, 4)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert frames.nbytes == 4 * frame_bytes
    # Four frames, their stack, and one in conversion; all 150 frames would be far above.
    assert peak < 12 * frame_bytes


def test_frames_of_several_sizes(tmp_path, clip):
    small = remux(clip, tmp_path / "small.h264")
    large = remux(write(tmp_path / "l.mp4", moving_bar(5, 96, 128)), tmp_path / "large.h264")
    path = tmp_path / "both.h264"
    path.write_bytes(small.read_bytes() + large.read_bytes())
    with pytest.raises(VideoError, match="frames have 2 sizes; give a size to resize to"):
        read_clip(path, 8)
    frames, info = read_clip(path, 8, size=(24, 32))
    assert frames.shape == (8, 24, 32, 3) and info.num_frames == 32
    assert bar_positions(frames[:2]) == pytest.approx([0, 4], abs=1)


def test_file_names_are_not_interpreted(tmp_path, clip):
    path = tmp_path / "a:b c%03d,é.mp4"
    path.write_bytes(clip.read_bytes())
    np.testing.assert_array_equal(read_clip(path, 2)[0], read_clip(str(clip), 2)[0])
    assert read_clip(path, 2)[1].path == str(path)


def make_bad(kind, tmp_path):
    path = tmp_path / "bad.mp4"
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "random":
        path.write_bytes(np.random.default_rng(0).bytes(20_000))
    elif kind == "text":
        path.write_text("not a video\n" * 500)
    elif kind == "text by suffix":
        path = tmp_path / "bad.txt"
        path.write_text("not a video\n" * 500)
    elif kind == "playlist":
        path.write_text("#EXTM3U\n#EXTINF:10,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n")
    elif kind == "sound":
        tone(path)
    elif kind == "sound with cover":
        tone(path, cover=moving_bar(1)[0])
    elif kind == "directory":
        path.mkdir()
    elif kind == "head only":
        whole = write(tmp_path / "whole.mp4", moving_bar(9), movflags="faststart").read_bytes()
        path.write_bytes(whole[: whole.index(b"moov") - 4])
    return path


@pytest.mark.parametrize(
    "kind,words",
    [
        ("missing", "there is no such file; check the path"),
        ("directory", "it is a folder without videos; give one that holds some, as .mp4"),
        ("empty", "the file is empty; copy or download it again"),
        ("random", "FFmpeg cannot read it .*; give a video file that plays"),
        ("text", "FFmpeg cannot read it .*; give a video file that plays"),
        ("head only", "FFmpeg cannot read it .*; give a video file that plays"),
        ("playlist", "; give a video file that plays"),
        ("text by suffix", "it is text, not video; give a video file"),
        ("sound", "it holds no video stream; give a file with pictures"),
        ("sound with cover", "it holds no video stream; give a file with pictures"),
    ],
)
def test_bad_files_say_so_in_one_line(tmp_path, kind, words):
    path = make_bad(kind, tmp_path)
    for use in (probe, lambda p: read_clip(p, 8), lambda p: list(iter_frames(p))):
        with pytest.raises(VideoError, match=words) as caught:
            use(path)
        message = str(caught.value)
        assert message.startswith(f"{path}: ") and "\n" not in message


def test_indices_outside(clip):
    with pytest.raises(VideoError, match="frame 27 was asked for and it has 27; choose .* 0 to 26"):
        decode_frames(clip, [0, 27])
    with pytest.raises(VideoError, match="frame -1 was asked for"):
        decode_frames(clip, [-1])


def test_frames_of_the_release_on_a_real_clip():
    golden = SHARED / "golden" / "end_to_end_10053703034.npz"
    video = SHARED / "videos" / "10053703034.mp4"
    if not (golden.exists() and video.exists()):
        pytest.skip("needs the real clip and the frames of the release")
    with np.load(golden) as expected:
        frames, info = read_clip(video, 8, size=(224, 398))
        difference = np.abs(frames[:, ::16, ::16].astype(int) - expected["frames_u8_sub"])
        assert info.num_frames == expected["n_frames"]
    # The decoder of the release rounds colours differently; measured: mean 0.08, maximum 1.
    assert difference.mean() < 0.5 and difference.max() <= 4
