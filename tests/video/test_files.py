"""Expansion of file names on the command line."""

import io
import os

import pytest

from dagr_jax.runtime.errors import DagrError
from dagr_jax.video.files import expand


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
