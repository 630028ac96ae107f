"""Label files of other programs, and names as file systems store them."""

import logging
import unicodedata
from pathlib import Path

import pytest

from dagr_jax.data import folder
from dagr_jax.data.labels import LabelError
from dagr_jax.data.rated import Source


def sources(home: Path, labels: str, *names: str) -> list[Source]:
    """The videos of a label file, in a folder with files of these names."""
    for name in names:
        path = home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (home / "labels.csv").write_text(labels)
    return folder.DATASET.sources(home, home / "labels.csv")


def test_a_decimal_comma_needs_another_separator(tmp_path):
    found = sources(tmp_path, "a.mp4;3,1\nb.mp4;2,5\n", "a.mp4", "b.mp4")
    assert [(one.video, one.mos) for one in found] == [("a.mp4", 3.1), ("b.mp4", 2.5)]


def test_a_stray_quote_takes_no_videos_away(tmp_path):
    rows = [f"v{i:03d}.mp4,{i % 5 + 1}" for i in range(200)]
    rows[90] = '"' + rows[90]
    with pytest.raises(LabelError, match="labels.csv: line 92: its quotes cannot be meant"):
        sources(tmp_path, "\n".join(["file,mos", *rows]))


@pytest.mark.parametrize(
    "labels",
    [
        "video,mos\na.mp4,3,1\nb.mp4,4,2\n",
        "video,mos\na.mp4\n",
        "a.mp4,3,1\nb.mp4,4,2\n",
        "0,a.mp4,3\n1,b.mp4,4\n",
        "video,mos\na.mp4,1_0\n",
        "video,MOS,mos\na.mp4,1,5\n",
    ],
)
def test_rows_that_cannot_be_meant(tmp_path, labels):
    """A decimal comma between commas, a cell that is missing, an index: the line is named."""
    with pytest.raises(LabelError, match="labels.csv: (line [12]|two columns)"):
        sources(tmp_path, labels)


def test_two_columns_of_one_name(tmp_path):
    with pytest.raises(LabelError, match="two columns are called 'mos'"):
        sources(tmp_path, "file,mos,mos\na.mp4,1,5\n")


@pytest.mark.parametrize("separator", ["/", "\\"])
def test_contents_of_windows_paths(tmp_path, caplog, separator):
    """One content in two folders of distortions, whatever the separator; and that is said."""
    names = [f"{kind}/{i:03d}.mp4" for i in (1, 2) for kind in ("blur", "noise")]
    lines = "".join(f"{name.replace('/', separator)},2\n" for name in names)
    with caplog.at_level(logging.WARNING):
        found = sources(tmp_path, f"file,mos\n{lines}", *names)
    assert [one.content for one in found] == ["001", "001", "002", "002"]
    assert [one.video for one in found] == names and all(one.path for one in found)
    (said,) = caplog.messages
    assert "2 contents are in several folders, such as 001 in blur, noise; if these are" in said


def test_one_name_in_all_folders_is_no_content(tmp_path, caplog):
    names = [f"take{i}/video.mp4" for i in range(10)]
    lines = "".join(f"{name},2\n" for name in names)
    with caplog.at_level(logging.WARNING):
        found = sources(tmp_path, f"file,mos\n{lines}", *names)
    assert [one.content for one in found] == [f"take{i}/video" for i in range(10)]
    assert not caplog.messages
    listed = "".join(f"{name},2,c{i % 3}\n" for i, name in enumerate(names))
    found = sources(tmp_path, f"file,mos,content\n{listed}", *names)
    assert [one.content for one in found] == [f"c{i % 3}" for i in range(10)]


@pytest.mark.parametrize(("written", "stored"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_accents_in_both_forms(tmp_path, written, stored):
    there = unicodedata.normalize(stored, "in/été.mp4")
    name = unicodedata.normalize(written, "été.mp4")
    (one,) = sources(tmp_path, f"file,mos\n{name},3\n", there)
    assert one.path == tmp_path / there


def test_hidden_files_and_linked_folders(tmp_path_factory):
    home, other = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("other")
    (other / "b.mp4").touch()
    (home / "linked").symlink_to(other)
    found = sources(home, "file,mos\nc.mp4,1\nb.mp4,2\n", "in/._c.mp4")
    assert [one.path for one in found] == [None, home / "linked" / "b.mp4"]
