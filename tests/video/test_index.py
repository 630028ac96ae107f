"""Decoding of chosen frames by packets: the same pixels as full decoding, with less work."""

import numpy as np
import pytest

from dagr_jax.video import decode
from dagr_jax.video.index import Packets, read_packets
from dagr_jax.video.inputs import Resize
from dagr_jax.video.stream import RawVideo

from .clips import moving_bar, write

# name: (codec, options of the encoder, arguments of `write`); a key frame about every 8 frames.
CASES = {
    "h264": ("h264", {"g": "8"}, {}),
    "h264, open GOP": ("h264", {"g": "8", "x264-params": "open-gop=1:mbtree=0:bframes=3"}, {}),
    "h264, one GOP": ("h264", {"g": "250"}, {}),
    "h264, key frames alone": ("h264", {"g": "1"}, {}),
    "h264, 10 bits": ("h264", {"g": "8"}, {"pix_fmt": "yuv420p10le"}),
    "h264, rotated": ("h264", {"g": "8"}, {"rotation": 90}),
    "h264, variable rate": (
        "h264",
        {"g": "8"},
        {"times": np.cumsum(1 + np.arange(40) % 3).tolist()},
    ),
    "h264, interlaced": ("h264", {"g": "8", "x264-params": "tff=1:mbtree=0:bframes=3"}, {}),
    "hevc, open GOP": (
        "hevc",
        {"x265-params": "bframes=3:keyint=8:min-keyint=8:open-gop=1:log-level=none:pools=none"},
        {},
    ),
    "hevc, closed GOP": (
        "hevc",
        {"x265-params": "bframes=3:keyint=8:min-keyint=8:open-gop=0:log-level=none:pools=none"},
        {},
    ),
    "vp9": ("vp9", {"g": "8", "auto-alt-ref": "1", "lag-in-frames": "16", "deadline": "good"}, {}),
    "av1": ("av1", {"g": "8"}, {}),
}


@pytest.fixture(scope="module", params=CASES)
def clip(request, tmp_path_factory):
    codec, options, more = CASES[request.param]
    path = tmp_path_factory.mktemp("clip") / f"clip{decode_suffix(codec)}"
    return write(path, moving_bar(40), codec, **options, **more)


def decode_suffix(codec):
    return {"vp9": ".webm", "av1": ".mkv"}.get(codec, ".mp4")


def everything(path, ranks):
    """The same by decoding every frame."""
    run = decode._read(path, frozenset(range(1000)))
    return np.stack([run.pictures[rank] for rank in ranks.tolist()]), run.info()


@pytest.mark.parametrize("seed", range(4))
def test_the_same_pixels_as_decoding_everything(clip, seed):
    packets = read_packets(clip)
    assert packets.tell and packets.count == 40
    rng = np.random.default_rng(seed)
    ranks = rng.choice(40, rng.integers(1, 9), replace=False)
    run = decode._read_chosen(clip, packets, frozenset(ranks.tolist()), Resize())
    assert run is not None  # nothing fell back
    wanted, info = everything(clip, ranks)
    frames, found = decode._decode(clip, ranks, Resize())
    np.testing.assert_array_equal(frames, wanted)
    assert found == info


def test_every_single_frame(clip):
    wanted, _ = everything(clip, np.arange(40))
    for rank in range(40):
        np.testing.assert_array_equal(decode.decode_frames(clip, [rank])[0], wanted[rank])


def test_only_what_is_needed_is_decoded(tmp_path):
    path = write(tmp_path / "clip.mp4", moving_bar(40), g="8", bf="0")
    packets = read_packets(path)
    assert [i for i, key in enumerate(packets.keys) if key] == [0, 8, 16, 24, 32]
    assert packets.spans([0]) == [(0, 0)]
    assert packets.spans([0, 18, 20, 35]) == [(0, 0), (16, 20), (32, 35)]
    # Adjacent spans are merged.
    assert packets.spans([15, 17]) == [(8, 17)]


def test_frames_shown_before_their_key_frame_need_the_one_before_it():
    """Decoding order I0 P3 b1 b2 I6 b4 b5; the numbers give the presentation order."""
    packets = Packets(
        times=(0, 3, 1, 2, 6, 4, 5),
        keys=(True, False, False, False, True, False, False),
        hidden=(False,) * 7,
        bytes=7,
        whole=True,
        codec="h264",
    )
    assert packets.tell and packets.shown.tolist() == [0, 2, 3, 1, 5, 6, 4]
    assert packets.spans([4]) == [(4, 4)]
    assert packets.spans([5]) == [(0, 5)]
    assert packets.spans([0, 4, 5]) == [(0, 5)]  # also if the key frame itself is chosen


@pytest.mark.parametrize(
    "changes",
    [
        {"whole": False},
        {"codec": "vp8"},
        {"times": (0, 2, None)},
        {"times": (0, 1, 1)},
        {"times": (1, 0, 2)},
        {"keys": (False, True, False)},
        {"hidden": (True, False, False)},
        {"times": (), "keys": (), "hidden": ()},
    ],
)
def test_what_the_packets_cannot_tell(changes):
    fields = {"times": (0, 2, 1), "keys": (True, False, False), "hidden": (False,) * 3}
    assert Packets(**fields, bytes=3, whole=True, codec="h264").tell
    assert not Packets(**{**fields, "bytes": 3, "whole": True, "codec": "h264", **changes}).tell


def test_a_cut_file_is_decoded_as_a_whole(tmp_path):
    path = write(tmp_path / "clip.mkv", moving_bar(40), g="8")
    whole = path.read_bytes()
    for share in (0.6, 0.75, 0.9, 0.97):
        path.write_bytes(whole[: int(len(whole) * share)])
        count = decode.probe(path).num_frames
        ranks = np.arange(0, count, 3)
        wanted, info = everything(path, ranks)
        frames, found = decode._decode(path, ranks, Resize())
        np.testing.assert_array_equal(frames, wanted)
        assert found == info


def test_damage_where_it_is_looked_at_falls_back(tmp_path):
    path = write(tmp_path / "clip.mp4", moving_bar(40), g="8")
    raw = bytearray(path.read_bytes())
    start = raw.index(b"mdat") + 4
    rng = np.random.default_rng(0)
    for _ in range(20):
        broken = raw.copy()
        for at in rng.integers(start, start + (len(raw) - start) // 2, 30).tolist():
            broken[at] ^= 0xFF
        path.write_bytes(bytes(broken))
        packets = read_packets(path)
        if not packets.tell:
            continue
        run = decode._read_chosen(path, packets, frozenset(range(packets.count)), Resize())
        if run is not None:  # then every frame came out, and as without the packets
            wanted, _ = everything(path, np.arange(packets.count))
            got = np.stack([run.pictures[i] for i in range(packets.count)])
            np.testing.assert_array_equal(got, wanted)


def test_bare_pictures(tmp_path):
    """A .yuv file of ten grey frames; 4:2:0 has 1.5 bytes per pixel."""
    path = tmp_path / "clip.yuv"
    pictures = [np.full(16 * 8 * 3 // 2, 16 + 20 * i, np.uint8) for i in range(10)]
    for picture in pictures:
        picture[16 * 8 :] = 128
    path.write_bytes(b"".join(p.tobytes() for p in pictures))
    raw = RawVideo(str(path), 16, 8, fps=25)
    packets = read_packets(raw)
    assert packets.tell and packets.count == 10 and packets.spans([7]) == [(7, 7)]
    frames, info = decode.read_clip(raw, 4)
    # Limited range: 16 is black, 219 steps to white.
    grey = [round(20 * i * 255 / 219) for i in (0, 3, 6, 9)]
    np.testing.assert_allclose(frames.mean((1, 2, 3)), grey, atol=1)
    assert np.ptp(frames.astype(int), axis=(1, 2, 3)).max() == 0
    assert (info.width, info.height, info.num_frames, info.fps) == (16, 8, 10, 25.0)
    path.write_bytes(path.read_bytes()[:-10])
    assert decode.probe(raw).num_frames == 9
