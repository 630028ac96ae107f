"""Rows as text: the `--format` and `--out` of every command that prints rows."""

import csv
import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dagr_jax.runtime.atomic import atomic_file
from dagr_jax.runtime.errors import DagrError

FORMATS = ("table", "json", "jsonl", "csv")


def render(rows: Sequence[Mapping[str, Any]], form: str) -> str:
    """Rows in one of `FORMATS`, with a newline at the end.

    Args:
        rows: Dicts; a row may lack columns of others. Columns stand in the order of their first
            appearance.
        form: "table" or "md" for people (numbers to three decimals), "json", "jsonl" or "csv" in
            full.

    Raises:
        ValueError: Unknown format.
    """
    if form == "json":
        return json.dumps(defined(rows), indent=2) + "\n"
    if form == "jsonl":
        return "".join(json.dumps(defined(row)) + "\n" for row in rows)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    if form == "csv":
        stream = io.StringIO()
        writer = csv.DictWriter(stream, fieldnames=columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: _plain(value) for key, value in row.items()} for row in rows)
        return stream.getvalue()
    if form == "table":
        cells = [columns, *([_cell(row.get(c)) for c in columns] for row in rows)]
        widths = [max(len(line[k]) for line in cells) for k in range(len(columns))]
        lines = ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) for line in cells]
        return "".join(line.rstrip() + "\n" for line in lines)
    if form == "md":
        body = [[_cell(row.get(c)).replace("|", "\\|") for c in columns] for row in rows]
        grid = [columns, ["---"] * len(columns), *body]
        return "".join("| " + " | ".join(line) + " |\n" for line in grid)
    raise ValueError(f"format {form!r} is unknown; one of {', '.join(FORMATS)}")


def defined(tree: Any) -> Any:
    """Plain data for JSON, which has no NaN and no infinity: what is undefined becomes None."""
    if isinstance(tree, Mapping):
        return {key: defined(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [defined(value) for value in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree


def _plain(value: Any) -> Any:
    """A value for a CSV cell: lists and dicts as JSON."""
    return json.dumps(value) if isinstance(value, (list, dict)) else value


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.3f}"
    return printable(str(value))


def printable(text: str) -> str:
    """A text without what could drive the reader's terminal, as a control character in a name."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def write(rows: Sequence[Mapping[str, Any]], path: str | os.PathLike[str]) -> None:
    """Writes rows to a file in the format of its suffix, whole or not at all.

    Raises:
        DagrError: The suffix is none of .json, .jsonl, .csv and .txt.
    """
    text = render(rows, form_of(path))
    with atomic_file(path) as partial:
        partial.write_text(text)


def form_of(path: str | os.PathLike[str]) -> str:
    """The format that a file's suffix stands for.

    Raises:
        DagrError: The suffix is none of .json, .jsonl, .csv and .txt.
    """
    forms = {".json": "json", ".jsonl": "jsonl", ".csv": "csv", ".txt": "table"}
    suffix = Path(path).suffix.lower()
    if suffix not in forms:
        raise DagrError(f"{path}: the suffix names no format; use one of {', '.join(forms)}")
    return forms[suffix]
