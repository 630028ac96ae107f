"""Label files in the formats of video quality data sets.

A reader returns one `Label` for each row that names a video. It never guesses: a missing column and
a value that is not a number are errors that name the file and the line.
"""

import math
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.io

from dagr_jax.runtime import texts
from dagr_jax.runtime.errors import DagrError

SHEETS = (".xlsx", ".xls")


@dataclass(frozen=True)
class Label:
    """One row of a label file.

    Attributes:
        video: Name of the video in the file, without surrounding space.
        mos: Mean opinion score on the scale of the data set; NaN if the cell is empty.
        row: {header: text} of all columns.
        line: Number of the line (of a sheet: the row), from 1; 0 if the format has no lines.
    """

    video: str
    mos: float
    row: Mapping[str, str]
    line: int = 0


class LabelError(DagrError):
    """A label file cannot be used."""


def read_list(path: Path) -> list[Label]:
    """Reads a list in the common format: `path, x, x, mos`, without a header.

    The first column is the video and the last column is the MOS. The columns between (duration and
    frame rate, or −1) are ignored.

    Args:
        path: The file.

    Returns:
        One label per row.

    Raises:
        LabelError: A row has fewer than two columns, or a MOS is not a number.
    """
    labels = []
    for number, cells in _rows(path):
        if len(cells) < 2:
            raise LabelError(path, f"line {number} has one column", "write 'path, x, x, mos'")
        if len(cells) == 3 and all(cell.isdigit() for cell in cells[1:]):
            raise LabelError(
                path,
                f"line {number} has three columns: is {','.join(cells[1:])} one number?",
                "write 'path, x, x, mos'; a decimal comma needs semicolons or tabs as separators",
            )
        if cells[0].isdigit() and _number(cells[1]) is None:
            raise LabelError(
                path, f"line {number} begins with an index, not a path", "drop the first column"
            )
        labels.append(Label(cells[0], _mos(path, number, cells[-1]), {}, number))
    return _some(path, labels)


def is_list(path: Path) -> bool:
    """Returns whether a text file is a list without a header (its first row ends in a number)."""
    if path.suffix.lower() in (*SHEETS, ".mat"):
        return False
    rows = _rows(path)
    return bool(rows) and len(rows[0].cells) > 1 and _number(rows[0].cells[-1]) is not None


def read_columns(path: Path, video: Sequence[str], mos: Sequence[str]) -> list[Label]:
    """Reads a table with a header: .csv (comma, semicolon or tab; decimal comma or point) or .xlsx.

    Args:
        path: The file.
        video: Possible names of the video column, in order of preference. Case and surrounding
            space are ignored.
        mos: Possible names of the MOS column, in order of preference. Case and surrounding space
            are ignored.

    Returns:
        One label for each row that names a video.

    Raises:
        LabelError: A column is missing, or a MOS is not a number.
    """
    rows = _sheet(path) if path.suffix.lower() in SHEETS else _rows(path)
    if not rows:
        raise LabelError(path, "it is empty", "copy or download it again")
    header = rows[0].cells
    texts.refuse_equal(header, path, LabelError)
    at = [_column(path, header, names) for names in (video, mos)]
    labels = []
    for number, cells in rows[1:]:
        if len(cells) <= max(at) or any(cells[len(header) :]):
            raise LabelError(
                path,
                f"line {number} has {len(cells)} cells and the first line {len(header)}",
                "correct the line; a decimal comma needs semicolons or tabs between the cells",
            )
        if cells[at[0]]:
            value = _mos(path, number, cells[at[1]])
            row = dict(zip(header, cells, strict=False))
            labels.append(Label(cells[at[0]], value, row, number))
    return _some(path, labels)


def read_mat(path: Path) -> dict[str, Any]:
    """Reads the variables of a MATLAB file.

    Args:
        path: The file.

    Returns:
        {name: value}. Structs become dicts and cells become lists; singleton axes are dropped.

    Raises:
        LabelError: The file is not a MATLAB file of version 7 or older.
    """
    try:
        held = scipy.io.loadmat(path, squeeze_me=True, simplify_cells=True)
    except (
        scipy.io.matlab.MatReadError,
        zlib.error,
        ValueError,
        TypeError,
        OSError,
        NotImplementedError,
    ) as error:
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise LabelError(
            path, f"it is no readable MATLAB file ({said})", "copy it again, or save it as -v7"
        ) from error
    return {name: value for name, value in held.items() if not name.startswith("__")}


def pair(path: Path, videos: Any, scores: Any) -> list[Label]:
    """Makes labels from two lists of a MATLAB file.

    Args:
        path: The file, for messages.
        videos: Names of the n videos.
        scores: n scores.

    Returns:
        n labels.

    Raises:
        LabelError: The lengths of the lists differ, or a score is not a number.
    """
    names, values = np.atleast_1d(videos).ravel(), numbers(path, scores)
    if len(names) != len(values):
        raise LabelError(path, f"it has {len(names)} videos and {len(values)} scores", "copy again")
    return _some(
        path, [Label(str(n).strip(), float(v), {}) for n, v in zip(names, values, strict=True)]
    )


def numbers(path: Path, values: Any) -> np.ndarray:
    """A list of numbers of a MATLAB file, (n,) float64.

    Raises:
        LabelError: One of them is not a number.
    """
    try:
        return np.atleast_1d(values).ravel().astype(np.float64)
    except (ValueError, TypeError) as error:
        raise LabelError(
            path, f"it has text where numbers belong ({error})", "give the data set's own file"
        ) from error


def field(path: Path, tree: Mapping[str, Any], *names: str) -> Any:
    """Returns a variable of a MATLAB file, or a field of a variable.

    Args:
        path: The file, for messages.
        tree: Variables of the file.
        *names: Name of the variable, then names of nested fields.

    Raises:
        LabelError: The variable or field does not exist.
    """
    for i, name in enumerate(names):
        if not isinstance(tree, Mapping) or name not in tree:
            wanted = ".".join(names[: i + 1])
            raise LabelError(path, f"it has no {wanted}", "give the data set's own file")
        tree = tree[name]
    return tree


def _rows(path: Path) -> list[texts.Line]:
    """Returns the rows of a text file; with a decimal comma, another separator comes first."""
    return texts.lines_of(texts.read_text(path, LabelError), path, LabelError, "\t;,")


def _sheet(path: Path) -> list[texts.Line]:
    """Returns (row number, cells as text) of the non-empty rows of a workbook's first sheet."""
    try:
        table = pd.read_excel(path, header=None, dtype=object)
    except (ValueError, OSError, KeyError, ImportError, zipfile.BadZipFile) as error:
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise LabelError(
            path, f"it cannot be read as a sheet ({said})", "save it as .csv"
        ) from error
    rows = []
    for number, row in enumerate(table.itertuples(index=False), start=1):
        cells = ["" if pd.isna(cell) else str(cell).strip() for cell in row]
        if any(cells):
            rows.append(texts.Line(number, cells))
    return rows


def _column(path: Path, header: Sequence[str], names: Sequence[str]) -> int:
    folded = [name.casefold() for name in header]
    for name in names:
        if name.casefold() in folded:
            return folded.index(name.casefold())
    raise LabelError(
        path, f"it has no column {' or '.join(map(repr, names))}", f"it has {', '.join(header)}"
    )


def _mos(path: Path, line: int, cell: str) -> float:
    if not cell:
        return math.nan
    value = _number(cell)
    if value is None:
        raise LabelError(path, f"line {line}: MOS is {cell!r}, not a number", "correct the line")
    return value


def _number(cell: str) -> float | None:
    """Parses a finite number with a decimal point or comma; None if it is not one."""
    try:
        value = float("_" if "_" in cell else cell.replace(",", "."))
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _some(path: Path, labels: list[Label]) -> list[Label]:
    if not labels:
        raise LabelError(path, "it names no video", "give the data set's label file")
    return labels
