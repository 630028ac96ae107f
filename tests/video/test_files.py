"""Expansion of file names on the command line."""

import io
import os
import unicodedata

import pytest

from dagr_jax.runtime.errors import DagrError
from dagr_jax.video.files import expand, suffixes


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A tree of empty files; expand() only uses names."""
    monkeypatch.chdir(tmp_path)
    for name in ("b.mp4", "a.MOV", "notes.txt", "in/c.mkv", "in/deep/d.webm", ".hid/e.mp4"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "empty").mkdir()
    return tmp_path


def test_names(home):
    (home / "[x].mp4").touch()
    (home / "@odd.mp4").touch()
    assert list(expand(["notes.txt", "b.mp4"])) == ["notes.txt", "b.mp4"]
    assert list(expand(["in"])) == ["in/c.mkv", "in/deep/d.webm"]
    assert list(expand(["[x].mp4"])) == ["[x].mp4"]  # a file takes precedence over a pattern
    assert list(expand(["@odd.mp4"])) == ["@odd.mp4"]  # a file takes precedence over a list
    assert list(expand(["*.mp4", "i?"])) == [
        *("@odd.mp4", "[x].mp4", "b.mp4", "in/c.mkv", "in/deep/d.webm"),
    ]
    assert list(expand(["**/*.webm"])) == ["in/deep/d.webm"]
    assert list(expand(["nothing*.mp4", "empty"])) == ["nothing*.mp4", "empty"]
    assert list(expand([str(home)]))[0] == os.path.join(str(home), "@odd.mp4")


def test_lists(home):
    (home / "list.txt").write_text("b.mp4\r\n\nin\n-\n@odd\n")
    # In a list, - and @ are ordinary names.
    assert list(expand(["@list.txt", "a.MOV"])) == [
        *("b.mp4", "in/c.mkv", "in/deep/d.webm", "-", "@odd", "a.MOV"),
    ]
    found = list(expand(["-"], io.StringIO("b.mp4\0new\nline.mp4\0")))
    assert found == ["b.mp4", "new\nline.mp4"]
    with pytest.raises(DagrError, match="gone.txt: No such file or directory; check the path"):
        list(expand(["@gone.txt"]))


def test_names_of_stdin_come_as_they_are_written():
    def lines():
        yield "first.mp4\n"
        raise AssertionError("asked for the second before the first was taken")

    assert next(expand(["-"], lines())) == "first.mp4"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "cp1252"])
def test_lists_of_other_programs(home, encoding):
    """With a byte order mark, in another encoding, with the separators of Windows."""
    (home / "été.mp4").touch()
    (home / "list.txt").write_bytes("été.mp4\r\nin\\c.mkv\r\nin\\deep\r\n".encode(encoding))
    assert list(expand(["@list.txt"])) == ["été.mp4", "in/c.mkv", "in/deep/d.webm"]


def test_names_that_are_no_utf8(home):
    name = b"f\xfcr.mp4"
    (home / os.fsdecode(name)).touch()
    (home / "list.txt").write_bytes(name + b"\n")
    assert list(expand(["@list.txt"])) == [os.fsdecode(name)]
    assert f"./{os.fsdecode(name)}" in list(expand(["."]))


def test_names_as_windows_copies_them(home):
    lines = '"in\\c.mkv"\r\n  b.mp4\r\nin\\*.mkv\r\n'
    (home / "list.txt").write_text(lines)
    assert list(expand(["@list.txt"])) == ["in/c.mkv", "b.mp4", "in/c.mkv"]


def test_only_lines_that_are_no_utf8_are_guessed(home):
    """One name that is gone, in another encoding, changes no other line."""
    for name in ("été.mp4", "a\u2028b.mp4"):
        (home / name).touch()
    (home / "list.txt").write_bytes("été.mp4\na\u2028b.mp4\n".encode() + b"caf\xe9.mp4\n")
    wanted = ["été.mp4", "a\u2028b.mp4", os.fsdecode(b"caf\xe9.mp4")]
    assert list(expand(["@list.txt"])) == wanted


@pytest.mark.parametrize(("asked", "stored"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_accents_in_both_forms(home, asked, stored):
    there, wanted = (unicodedata.normalize(form, "été.mp4") for form in (stored, asked))
    (home / there).touch()
    assert there != wanted and list(expand([wanted])) == [there]


def test_brackets_in_the_name_of_a_folder(home):
    (home / "show [2020]").mkdir()
    (home / "show [2020]" / "e1.mp4").touch()
    wanted = ["show [2020]/e1.mp4"]
    assert list(expand(["show [2020]"])) == list(expand(["show [2020]/*.mp4"])) == wanted


def test_links_are_followed_once(home, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    (other / "f.mp4").touch()
    (home / "linked").symlink_to(other)
    (other / "back").symlink_to(home)  # a circle
    (home / "in" / "g.mp4").symlink_to(home / "b.mp4")
    assert list(expand(["."])) == [
        *("./a.MOV", "./b.mp4", "./in/c.mkv", "./in/deep/d.webm", "./in/g.mp4", "./linked/f.mp4"),
    ]


def test_suffixes_are_those_of_ffmpeg():
    videos = (
        ".mp4 .mov .mkv .webm .avi .flv .ts .m2ts .mts .wmv .asf .3gp .3g2 .m2v .mpg .264 .h264"
    )
    videos += " .265 .hevc .vob .ogv .mxf .ivf .obu .y4m .m4v .dv .mjpeg .f4v"
    assert suffixes() >= set(videos.split())
    others = ".mp3 .m4a .wav .flac .ogg .opus .png .jpg .gif .avif .txt .srt .ass .xml .json .m3u8"
    assert not suffixes() & set(others.split())
