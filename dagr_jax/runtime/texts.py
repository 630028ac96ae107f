"""Text files and tables from anywhere: their encoding, their separator, their quotes.

Names of files are bytes on Linux. Names that are not UTF-8 pass through text as lone surrogates
(`surrogateescape`), so that every file that is read can be named again.
"""

import codecs
import csv
import io
import logging
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, NamedTuple

from dagr_jax.runtime.errors import DagrError, environment

_LOG = logging.getLogger(__name__)

# UTF-32 before UTF-16, because its mark begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_LINE_END = re.compile(r"\r\n|\r|\n")  # not str.splitlines, which knows more that names may hold
# What label files are in where they are not in Unicode: those of the West and of China (LSVQ). Few
# names are not enough to tell more encodings apart.
_LIKELY = ["gb18030", "cp1252"]


def open_text(path: str | os.PathLike[str], mode: str = "w") -> IO[str]:
    """Opens a text file in UTF-8 that may hold any file name; line ends are not changed."""
    return open(path, mode, encoding="utf-8", errors="surrogateescape", newline="")


def marked(raw: bytes) -> bool:
    """Returns whether text begins with a byte order mark."""
    return any(raw.startswith(mark) for mark, _ in _MARKS)


def decode(raw: bytes, name: str | os.PathLike[str], kind: type[DagrError] = DagrError) -> str:
    """Decodes the content of a text file; logs which encoding was taken if it had to be guessed.

    Args:
        raw: The content.
        name: Name of the file, for messages.
        kind: Class of the raised error.

    Raises:
        DagrError: It is not text.
    """
    for mark, encoding in _MARKS:
        if raw.startswith(mark):
            try:
                return raw.decode(encoding)
            except UnicodeDecodeError as error:
                raise kind(name, f"it is no text in {encoding}", "save it as UTF-8") from error
    raw = raw.rstrip(b"\x1a\0")  # how old programs end a file
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        pass
    # Lines in UTF-8 are right: only the others are guessed.
    lines = raw.splitlines(keepends=True)
    odd = [i for i, line in enumerate(lines) if not is_utf8(line)]
    found = _guess(b"".join(lines[i] for i in odd))
    if found is None:
        raise kind(name, "it is no text", "save it as UTF-8")
    _LOG.warning("%s: is not UTF-8; read as %s", os.fspath(name), found)
    told = [line.decode(found if i in set(odd) else "utf-8") for i, line in enumerate(lines)]
    return "".join(told)


def is_utf8(line: bytes) -> bool:
    """Returns whether bytes are text in UTF-8."""
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _guess(raw: bytes) -> str | None:
    """Returns the encoding of text that is not UTF-8; None if it is no text."""
    import charset_normalizer

    if b"\0" in raw or any(byte < 32 and byte not in b"\t\n\r\f\v" for byte in raw):
        return None
    if re.fullmatch(rb"([\x00-\x7f]|[\xa1-\xfe]{2})*", raw) is None and _few(raw):
        # Not Chinese, whose common signs are pairs of these bytes; and too little to tell more.
        likely = ["cp1252"]
    else:
        likely = _LIKELY
    found = charset_normalizer.from_bytes(raw, cp_isolation=likely).best()
    found = found or charset_normalizer.from_bytes(raw).best()
    return found.encoding if found else None


def _few(raw: bytes) -> bool:
    return sum(byte > 127 for byte in raw) < 40


def read_text(path: str | os.PathLike[str], kind: type[DagrError] = DagrError) -> str:
    """Reads a text file in any encoding.

    Args:
        path: The file.
        kind: Class of the raised error.

    Raises:
        DagrError: The file cannot be read, or is not text.
    """
    with environment(path, kind):
        raw = Path(path).read_bytes()
    return decode(raw, path, kind)


class Line(NamedTuple):
    """A row of a table.

    Attributes:
        number: Number of the line in the file, from 1.
        cells: Cells, without surrounding space.
    """

    number: int
    cells: list[str]


def lines_of(
    text: str,
    name: str | os.PathLike[str],
    kind: type[DagrError] = DagrError,
    separators: Sequence[str] = ",",
) -> list[Line]:
    """Splits text into the rows and cells of a table; empty rows are left out.

    Args:
        text: The text.
        name: Name of the file, for messages.
        kind: Class of the raised error.
        separators: Possible separators of cells. The first one that gives all rows the same number
            of cells, at least two, is taken; else the most frequent one of the first row.

    Raises:
        DagrError: A quote is not closed in its line.
    """
    rows = _LINE_END.split(text)
    if named := re.fullmatch("sep=(.)", rows[0]):  # Excel tells the separator in the first line
        rows[0], separators = "", named[1]
    filled = [row for row in rows if row.strip()]
    chosen = max(separators, key=filled[0].count) if filled else separators[0]
    for separator in separators:
        try:
            counts = {len(cells) for cells in csv.reader(filled, delimiter=separator) if any(cells)}
        except csv.Error:
            continue
        if len(counts) == 1 and counts.pop() > 1:
            chosen = separator
            break
    return list(_split(rows, name, kind, chosen))


def _split(
    rows: list[str], name: str | os.PathLike[str], kind: type[DagrError], separator: str
) -> Iterator[Line]:
    for number, row in enumerate(rows, start=1):
        # Each line by itself: a stray quote would otherwise swallow the lines after it.
        try:
            (cells,) = csv.reader([row], delimiter=separator, strict=True) if row else [[]]
        except csv.Error as error:
            raise kind(
                name, f"line {number}: its quotes cannot be meant ({error})", "correct the line"
            ) from error
        cells = [cell.strip() for cell in cells]
        if any(cells):
            yield Line(number, cells)


class Table(NamedTuple):
    """A table with a header.

    Attributes:
        header: Names of the columns.
        rows: (number of the line, column → cell) of each row.
    """

    header: list[str]
    rows: list[tuple[int, dict[str, str]]]


def read_own_table(path: str | os.PathLike[str], kind: type[DagrError] = DagrError) -> Table:
    """Reads a CSV file with a header that this package wrote: UTF-8 with any file name.

    Args:
        path: The file.
        kind: Class of the raised error.

    Raises:
        DagrError: The file cannot be read, or is not a table.
    """
    with environment(path, kind):
        raw = Path(path).read_bytes()
    text = decode(raw, path, kind) if marked(raw) else raw.decode("utf-8", "surrogateescape")
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header, *rows = [(reader.line_num, cells) for cells in reader if any(cells)] or [(0, [])]
    except csv.Error as error:
        raise kind(path, f"is not a table ({error})", "save it as .csv") from error
    names = [name.strip() for name in header[1]]
    return Table(names, [(n, dict(zip(names, cells, strict=False))) for n, cells in rows])


def read_table(path: str | os.PathLike[str], kind: type[DagrError] = DagrError) -> Table:
    """Reads a CSV file with a header. An index column, which pandas writes, is left out.

    Args:
        path: The file.
        kind: Class of the raised error.

    Raises:
        DagrError: The file cannot be read or is not a table, two columns have the same name, or a
            row has more or fewer cells than the header.
    """
    lines = lines_of(read_text(path, kind), path, kind, "\t;,")
    if not lines:
        return Table([], [])
    header, rows = lines[0].cells, lines[1:]
    for number, cells in rows:
        if len(cells) != len(header):
            raise kind(
                path,
                f"line {number} has {len(cells)} cells and the first line {len(header)}",
                "correct the line",
            )
    if _is_index(header[0], [cells[0] for _, cells in rows]):
        _LOG.warning("%s: the first column is taken for an index", os.fspath(path))
        header, rows = header[1:], [Line(number, cells[1:]) for number, cells in rows]
    while header and not header[-1] and not any(cells[-1] for _, cells in rows):
        header, rows = header[:-1], [Line(number, cells[:-1]) for number, cells in rows]
    refuse_equal(header, path, kind)
    return Table(header, [(n, dict(zip(header, cells, strict=True))) for n, cells in rows])


def refuse_equal(
    header: Iterable[str], name: str | os.PathLike[str], kind: type[DagrError] = DagrError
) -> None:
    """Raises DagrError if two columns have the same name."""
    folded = Counter(column.casefold() for column in header)
    if twice := [column for column, count in folded.items() if count > 1 and column]:
        raise kind(name, f"two columns are called {twice[0]!r}", "rename or drop one of them")


def _is_index(name: str, cells: Sequence[str]) -> bool:
    """Whether a first column counts the rows, as pandas writes it."""
    if name and name != "index" and not name.startswith("Unnamed:"):
        return False
    try:
        return all(float(cell).is_integer() for cell in cells)
    except ValueError:
        return False
