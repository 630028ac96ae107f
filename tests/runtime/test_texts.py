"""Texts and tables in the encodings and forms that people have."""

import logging

import pytest

from dagr_jax.runtime.errors import DagrError
from dagr_jax.runtime.texts import Line, decode, lines_of, open_text, read_table, read_text

NAMES = "video,mos\nKöln.mp4,3.5\nà la plage.mp4,2\n"
CHINESE = "name,mos\n视频一.mp4,3.2\n测试视频.mp4,4.4\n"


@pytest.mark.parametrize(
    ("text", "encoding", "said"),
    [
        (NAMES, "utf-8", ""),
        (NAMES, "utf-8-sig", ""),
        (NAMES, "utf-16", ""),
        (NAMES, "utf-32", ""),
        (NAMES, "cp1252", "is not UTF-8; read as cp1252"),
        (CHINESE, "gb18030", "is not UTF-8; read as gb18030"),
    ],
)
def test_encodings(tmp_path, caplog, text, encoding, said):
    path = tmp_path / "labels.csv"
    path.write_bytes(text.encode(encoding))
    with caplog.at_level(logging.WARNING):
        assert read_text(path) == text
    assert [said] * bool(said) == [m.removeprefix(f"{path}: ") for m in caplog.messages]


@pytest.mark.parametrize("raw", [bytes(range(256)), b"\xff\xfe\x00", b"\x00\x01\xfe\xff" * 9])
def test_what_is_no_text(raw):
    with pytest.raises(DagrError, match="a.csv: it is no text.*; save it as UTF-8"):
        decode(raw, "a.csv")


@pytest.mark.parametrize(
    ("text", "cells"),
    [
        ("a.mp4;3,1\nb.mp4;2,5\n", [["a.mp4", "3,1"], ["b.mp4", "2,5"]]),
        ("a.mp4\t3,1\nb.mp4\t2\n", [["a.mp4", "3,1"], ["b.mp4", "2"]]),
        ("a.mp4,3.1\nb.mp4,2\n", [["a.mp4", "3.1"], ["b.mp4", "2"]]),
        ("x;y.mp4,3\nb.mp4,2\n", [["x;y.mp4", "3"], ["b.mp4", "2"]]),
        ("sep=;\r\nx,y.mp4;3\r\n", [["x,y.mp4", "3"]]),
        ('"a, b.mp4",3\nc.mp4,2\n', [["a, b.mp4", "3"], ["c.mp4", "2"]]),
        (" a.mp4 , 3 \r\n\r\n,\r\nb.mp4,2", [["a.mp4", "3"], ["b.mp4", "2"]]),
    ],
)
def test_separators(text, cells):
    found = lines_of(text, "a.csv", separators="\t;,")
    assert [line.cells for line in found] == cells


@pytest.mark.parametrize("word", ["niño", "blåbær", "déjà vu", "a\u00a0b", "crème"])
def test_a_word_of_the_west_is_not_chinese(word):
    assert decode(f"{word}.mp4,3\n".encode("cp1252"), "a.csv") == f"{word}.mp4,3\n"


def test_only_lines_that_are_not_utf8_are_guessed():
    text = "café.mp4,3\n".encode() + "été.mp4,2\n".encode("cp1252") + "日本.mp4,1\n".encode()
    assert decode(text, "a.csv") == "café.mp4,3\nété.mp4,2\n日本.mp4,1\n"


def test_a_stray_quote_is_an_error_with_its_line():
    text = 'video,mos\na.mp4,1\n"b.mp4,2\nc.mp4,3\n"d.mp4,4\n'
    with pytest.raises(DagrError, match="labels.csv: line 3: its quotes cannot be meant"):
        lines_of(text, "labels.csv")
    assert lines_of('a"b.mp4,2\n', "labels.csv") == [Line(1, ['a"b.mp4', "2"])]  # in a name


def test_tables(tmp_path, caplog):
    path = tmp_path / "table.csv"
    path.write_text(",video,mos\n0,a,1\n1,b,2\n")
    with caplog.at_level(logging.WARNING):
        assert read_table(path).rows == [
            (2, {"video": "a", "mos": "1"}),
            (3, {"video": "b", "mos": "2"}),
        ]
    assert caplog.messages == [f"{path}: the first column is taken for an index"]
    for header in ("Unnamed: 0;Video;MOS;", "index;Video;MOS;"):
        path.write_text(f"{header}\n0.0;a;1,5;\n0.0;b;2;\n")
        assert read_table(path).rows == [
            (2, {"Video": "a", "MOS": "1,5"}),
            (3, {"Video": "b", "MOS": "2"}),
        ]
    path.write_text(",video,mos\nx,a,1\ny,b,2\n")
    assert read_table(path).header == ["", "video", "mos"]  # not an index
    for text, said in (
        ("video,mos,mos\na,1,2\n", "two columns are called 'mos'; rename or drop one"),
        ("video,mos\na,1\nb\n", "line 3 has 1 cells and the first line 2; correct the line"),
    ):
        path.write_text(text)
        with pytest.raises(DagrError, match=said):
            read_table(path)


def test_names_that_are_no_utf8_come_back(tmp_path):
    path, name = tmp_path / "names.csv", b"f\xfcr.mp4".decode("utf-8", "surrogateescape")
    with open_text(path) as file:
        file.write(name)
    assert path.read_bytes() == b"f\xfcr.mp4"
    with open_text(path, "r") as file:
        assert file.read() == name
