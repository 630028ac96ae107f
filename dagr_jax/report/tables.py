"""Rows as text, for the options `--format` and `--out` of commands that print rows."""

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
    """Formats rows as text that ends with a newline.

    Args:
        rows: Rows as dicts; a row may lack columns. Columns are in the order of their first
            appearance.
        form: "table" or "md" with numbers to three decimals; "json", "jsonl" or "csv" with full
            precision.

    Raises:
        ValueError: The format is unknown.
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
    """Replaces NaN and infinity by None in plain data, because JSON has neither."""
    if isinstance(tree, Mapping):
        return {key: defined(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [defined(value) for value in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree


def _plain(value: Any) -> Any:
    """Returns a value for a CSV cell; lists and dicts become JSON."""
    return json.dumps(value) if isinstance(value, (list, dict)) else value


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.3f}"
    return printable(str(value))


def printable(text: str) -> str:
    """Replaces non-printable characters, because control characters could drive a terminal."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def write(rows: Sequence[Mapping[str, Any]], path: str | os.PathLike[str]) -> None:
    """Writes rows to a file atomically, in the format of its suffix.

    Args:
        rows: Rows as dicts.
        path: File to write.

    Raises:
        DagrError: The suffix is not .json, .jsonl, .csv or .txt.
    """
    text = render(rows, form_of(path))
    with atomic_file(path) as partial:
        partial.write_bytes(os.fsencode(text))


def form_of(path: str | os.PathLike[str]) -> str:
    """Returns the format for the suffix of a file.

    Args:
        path: The file.

    Raises:
        DagrError: The suffix is not .json, .jsonl, .csv or .txt.
    """
    forms = {".json": "json", ".jsonl": "jsonl", ".csv": "csv", ".txt": "table"}
    suffix = Path(path).suffix.lower()
    if suffix not in forms:
        raise DagrError(f"{path}: the suffix names no format; use one of {', '.join(forms)}")
    return forms[suffix]
