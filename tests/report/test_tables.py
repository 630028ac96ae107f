"""Rows as text."""

import csv
import io
import json

import pytest

from dagr_jax.report import tables
from dagr_jax.runtime.errors import DagrError

ROWS = [
    {"file": "a, b.mp4", "score": 61.23456789},
    {"file": "c\x1b[2J.mp4", "error": "empty"},
]


def test_json_jsonl_and_csv_hold_the_same_values():
    assert json.loads(tables.render(ROWS, "json")) == ROWS
    assert [json.loads(x) for x in tables.render(ROWS, "jsonl").splitlines()] == ROWS
    read = list(csv.DictReader(io.StringIO(tables.render(ROWS, "csv"))))
    assert read == [
        {"file": "a, b.mp4", "score": "61.23456789", "error": ""},
        {"file": "c\x1b[2J.mp4", "score": "", "error": "empty"},
    ]


def test_the_table_rounds_and_keeps_control_characters_from_the_terminal():
    text = tables.render(ROWS, "table")
    assert text.splitlines() == [
        "file       score   error",
        "a, b.mp4   61.235",
        "c�[2J.mp4          empty",
    ]


def test_a_file_is_written_in_the_format_of_its_suffix(tmp_path):
    tables.write(ROWS, tmp_path / "x.JSON")
    assert json.loads((tmp_path / "x.JSON").read_text()) == ROWS
    with pytest.raises(DagrError, match="names no format"):
        tables.write(ROWS, tmp_path / "x.pkl")
    assert [p.name for p in tmp_path.iterdir()] == ["x.JSON"]


def test_an_unknown_format_is_refused():
    with pytest.raises(ValueError, match="'xml' is unknown; one of table"):
        tables.render(ROWS, "xml")


def test_markdown_keeps_bars_inside_cells():
    rows = [{"what": "a|b", "value": 0.12345}, {"what": "c"}]
    assert tables.render(rows, "md").splitlines() == [
        "| what | value |",
        "| --- | --- |",
        "| a\\|b | 0.123 |",
        "| c |  |",
    ]
