"""Live video: growing files, pipes in real time, servers that drop the connection."""

import http.server
import os
import socket
import threading
import time

import numpy as np
import pytest

from dagr_jax.video.clip import Clip, Piece, read_clips
from dagr_jax.video.inputs import Crops, InputSpec, Resize, Stream
from dagr_jax.video.live import Again, Feed, Window, is_url
from dagr_jax.video.stream import Limits, VideoError

from .clips import moving_bar, remux, write

SPEC = InputSpec({"frames": Stream("linspace", 4, Resize((24, 32)))})
OF_WINDOWS = Stream(
    "windows",
    0,
    Resize((24, 32), antialias=True),
    of="frames",
    window=8,
    choice="linspace",
    chunk=8,
)
WINDOWS = InputSpec({**SPEC.streams, "windows": OF_WINDOWS})
CROPS = InputSpec({"all": Stream("all", 0, crops=Crops((20, 30), "corners"), chunk=16)})


def assert_same_pictures(ours, theirs):
    """The same pieces and clip, wherever in their video they are."""
    assert [type(one) for one in ours] == [type(one) for one in theirs]
    for one, other in zip(ours, theirs, strict=True):
        if isinstance(one, Piece):
            assert one.stream == other.stream
            np.testing.assert_array_equal(one.places, other.places)
            np.testing.assert_array_equal(one.frames, other.frames)
        else:
            assert one.inputs.keys() == other.inputs.keys()
            for name, frames in one.inputs.items():
                np.testing.assert_array_equal(frames, other.inputs[name])


@pytest.fixture(scope="module")
def stream(tmp_path_factory):
    """70 frames at 25 fps, as MPEG-TS."""
    home = tmp_path_factory.mktemp("live")
    return remux(write(home / "clip.mp4", moving_bar(70), g="10"), home / "clip.ts")


@pytest.mark.parametrize("spec", [SPEC, WINDOWS, CROPS])
def test_windows_are_what_segments_are(stream, spec):
    feed = Feed(str(stream), spec, 0.8, every=True, patience=0.2)
    windows = list(feed)
    by_start = {}
    for one in read_clips(stream, spec, 0.8):
        if isinstance(one, Piece | Clip) and one.length < 70:
            by_start.setdefault(one.start, []).append(one)
    assert [window.number for window in windows] == [0, 1, 2]
    for window, start in zip(windows[:2], (0, 20), strict=True):  # the last segment takes the rest
        assert isinstance(window.pictures[-1], Clip)
        assert_same_pictures(window.pictures, by_start[start])
    np.testing.assert_allclose([w.start for w in windows], [0, 0.8, 1.6], atol=1e-9)
    np.testing.assert_allclose([w.end for w in windows], [0.8, 1.6, 2.4], atol=1e-9)
    assert feed.rest == pytest.approx(0.4) and not any(w.damaged + w.dropped for w in windows)


def test_a_file_that_grows(stream, tmp_path):
    data, path = stream.read_bytes(), tmp_path / "grows.ts"
    path.write_bytes(data[:200])

    def grow():
        for start in range(200, len(data), 2000):
            time.sleep(0.05)
            with open(path, "ab") as file:
                file.write(data[start : start + 2000])

    thread = threading.Thread(target=grow)
    thread.start()
    windows = list(Feed(str(path), SPEC, 0.8, every=True, patience=2.0))
    thread.join()
    whole = list(Feed(str(stream), SPEC, 0.8, every=True, patience=0.1))
    assert len(windows) == len(whole) == 3
    for one, other in zip(windows, whole, strict=True):
        assert_same_pictures(one.pictures, other.pictures)
    assert windows[0].arrived < windows[1].arrived < windows[2].arrived


def test_a_named_pipe_is_taken_as_it_comes(stream, tmp_path):
    pipe, data = tmp_path / "pipe", stream.read_bytes()
    os.mkfifo(pipe)

    def feed_it():
        with open(pipe, "wb", buffering=0) as file:
            file.write(data[: len(data) // 2])
            time.sleep(1.0)  # longer than the timeout, which does not apply to pipes
            file.write(data[len(data) // 2 :])

    threading.Thread(target=feed_it, daemon=True).start()
    windows = list(Feed(str(pipe), SPEC, 0.8, patience=0.3, waiting=5))
    assert [w.number for w in windows] == [0, 1, 2]
    assert windows[2].arrived - windows[0].arrived > 0.5


def test_who_is_slow_loses_the_oldest(stream):
    feed = Feed(str(stream), SPEC, 0.2, waiting=2, patience=0.1)
    taken = []
    for window in feed:
        taken.append((window.number, window.dropped))
        until = time.monotonic() + 60
        while feed._count < 14 and time.monotonic() < until:  # until all have come
            time.sleep(0.02)
    assert taken[-2:] == [(12, 11), (13, 11)] and len(taken) == 3


def test_every_window_if_asked(stream):
    numbers = []
    for window in Feed(str(stream), SPEC, 0.2, waiting=2, every=True, patience=0.1):
        numbers.append((window.number, window.dropped))
        time.sleep(0.05)
    assert numbers == [(number, 0) for number in range(14)]


def test_damage_is_counted_where_it_is(stream, tmp_path):
    data = bytearray(stream.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 2000] = bytes(2000)
    path = tmp_path / "damaged.ts"
    path.write_bytes(data)
    windows = list(Feed(str(path), SPEC, 0.2, every=True, patience=0.1))
    damaged = [w.number for w in windows if w.damaged]
    assert damaged and all(4 <= number <= 10 for number in damaged)


def test_pictures_that_are_lost_are_damage_of_their_own_window(tmp_path):
    """Packets 20 to 59 do not decode: the last picture stays, and its windows say so."""
    path = write(tmp_path / "clip.mp4", moving_bar(100), g="10", bf="0")

    def spoil(number, packet):
        if 20 <= number < 60:
            packet.update(np.zeros(packet.size, np.uint8).tobytes())

    spoilt = remux(path, tmp_path / "spoilt.mkv", edit=spoil)
    windows = list(Feed(str(spoilt), SPEC, 0.4, every=True, patience=0.1))
    assert [w.frames for w in windows] == [10] * 10
    assert [w.damaged for w in windows] == [0, 0, 10, 10, 10, 10, 0, 0, 0, 0]
    assert all(isinstance(w.pictures[-1], Clip) for w in windows)


def test_a_clock_that_starts_again_in_any_format(tmp_path):
    path = write(tmp_path / "clip.mp4", moving_bar(80), g="10", bf="0")

    def again(number, packet):
        if number >= 40:
            packet.pts += -1600 + 3_600_000  # an hour later; Matroska allows no step back
            packet.dts = packet.pts

    broken = remux(remux(path, tmp_path / "a.mkv"), tmp_path / "again.mkv", edit=again)
    windows = list(Feed(str(broken), SPEC, 0.8, every=True, patience=0.1))
    assert [(w.number, w.frames, w.damaged) for w in windows] == [(i, 20, 0) for i in range(4)]
    np.testing.assert_allclose([w.start for w in windows], [0, 0.8, 1.6, 2.4], atol=1e-9)


def test_frames_of_two_sizes_cost_their_window(tmp_path):
    parts = [
        remux(write(tmp_path / f"{k}.mp4", moving_bar(30, width=64 + 32 * k)), tmp_path / f"{k}.ts")
        for k in range(2)
    ]
    joined = tmp_path / "joined.ts"
    joined.write_bytes(b"".join(part.read_bytes() for part in parts))
    own_size = InputSpec({"every": Stream("all", 0)})
    windows = list(Feed(str(joined), own_size, 0.8, every=True, patience=0.1))
    assert [bool(w.problem) for w in windows] == [False, True, False]
    assert windows[1].problem == "its frames have 2 sizes" and not windows[1].pictures


class Breaks(http.server.BaseHTTPRequestHandler):
    """Serves a file; the first time, it sends only half of the announced bytes."""

    def do_GET(self):
        self.server.asked += 1
        data = self.server.data
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        breaks = self.server.asked == 1 or self.server.always
        self.wfile.write(data[: len(data) // 2] if breaks else data)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(stream):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Breaks) as server:
        server.data, server.asked, server.always = stream.read_bytes(), 0, False
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_a_connection_that_breaks_is_made_again(server):
    items = list(Feed(f"http://127.0.0.1:{server.server_port}/", SPEC, 0.8, every=True))
    kinds = [type(item) for item in items]
    again = kinds.index(Again)
    assert kinds.count(Again) == 1 and items[again].pause == 1.0 and server.asked == 2
    assert {w.connection for w in items[:again]} == {1}
    later = items[again + 1 :]
    assert [w.connection for w in later] == [2, 2, 2] and later[0].start == 0
    assert [w.number for w in items if isinstance(w, Window)] == list(range(len(items) - 1))


def test_a_server_that_begins_anew_each_time_is_given_up(server, monkeypatch):
    monkeypatch.setattr("dagr_jax.video.live.time.sleep", lambda _: None)
    server.always = True
    with pytest.raises(VideoError, match="check the address, or allow more attempts"):
        list(Feed(f"http://127.0.0.1:{server.server_port}/", SPEC, 0.4, every=True, retries=3))
    assert server.asked == 4  # one that gets somewhere, three that do not


def test_who_leaves_ends_the_thread(stream):
    before = threading.active_count()
    for _ in Feed(str(stream), SPEC, 0.2, waiting=1, every=True, patience=0.1):
        break
    until = time.monotonic() + 10
    while threading.active_count() > before:
        assert time.monotonic() < until
        time.sleep(0.02)


def test_pauses_grow_until_the_source_is_given_up(monkeypatch):
    pauses = []
    monkeypatch.setattr("dagr_jax.video.live.time.sleep", pauses.append)
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"http://127.0.0.1:{free.getsockname()[1]}/"
    feed = Feed(address, SPEC, 1.0, retries=7)
    with pytest.raises(VideoError, match="Connection refused.*; check the address, or allow more"):
        assert [item.pause for item in feed] == [1, 2, 4, 8, 16, 30, 30]
    assert pauses == [1, 2, 4, 8, 16, 30, 30]


def test_a_silent_server_is_left(server):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        begin = time.monotonic()
        with pytest.raises(VideoError, match="FFmpeg cannot read it"):
            list(Feed(address, SPEC, 1.0, retries=0, patience=0.5))
        assert time.monotonic() - begin < 20


def test_a_playlist_from_the_network_reads_no_file_here(server, stream):
    server.data = f"#EXTM3U\n#EXTINF:2,\nfile://{stream}\n#EXT-X-ENDLIST\n".encode()
    server.asked = 1
    with pytest.raises(VideoError):
        list(Feed(f"http://127.0.0.1:{server.server_port}/a.m3u8", SPEC, 0.8, retries=0))


def test_what_is_no_video(tmp_path):
    text = tmp_path / "text.ts"
    text.write_text("no video\n" * 1000)
    for source, says in (
        (text, "text.ts: FFmpeg cannot read it"),
        (tmp_path / "gone.ts", "gone.ts: No such file or directory; check the path"),
        (tmp_path, "it is a folder; give a video"),
        ("foo://x", "Protocol not found.; give a URL that FFmpeg can open"),
    ):
        with pytest.raises(VideoError, match=says):
            list(Feed(str(source), SPEC, 1.0, patience=0.1))


def test_limits(stream):
    with pytest.raises(VideoError, match="frames of 64 x 48 are more than 3000 pixels"):
        list(Feed(str(stream), SPEC, 1.0, patience=0.1, limits=Limits(3000)))


def test_what_is_a_url(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.makedirs("http:")
    (tmp_path / "http:" / "x.ts").touch()
    assert is_url("rtsp://camera/1") and is_url("HTTPS://x") and not is_url("a/b://c")
    assert not is_url("http://x.ts") and not is_url("clip.ts")  # these are files
