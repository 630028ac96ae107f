"""Result rows, saved line by line, so that an interrupted call can be continued."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dagr_jax.report import tables
from dagr_jax.runtime.errors import DagrError, environment

Row = Mapping[str, Any]


class RowFileError(DagrError):
    """The partial file of an earlier call does not match this call. The message is one line."""


class RowFile:
    """Rows of one call for `--out FILE`, kept in FILE.partial until all are complete.

    Args:
        out: Output file; its suffix selects the format.
        told: Options on which the rows depend, as plain data. Rows of an earlier call are reused
            only if its options are the same.
        resume: Whether to reuse the rows of an interrupted call.

    Raises:
        RowFileError: There are rows of an earlier call, and `resume` is off or the options differ.
        DagrError: The file cannot be written.
    """

    def __init__(self, out: str | os.PathLike[str], told: Row, *, resume: bool):
        self._out = Path(out)
        self.path = self._out.with_name(f"{self._out.name}.partial")
        self._rows: list[Row] = []
        head = json.dumps(told, sort_keys=True)
        with environment(self.path):
            whole = _whole_lines(self.path)
        if whole and not resume:
            raise RowFileError(
                f"{self.path}: holds rows of an interrupted call; continue with --resume, or "
                "delete it to start again"
            )
        if whole and whole[0] != head:
            raise RowFileError(
                f"{self.path}: was written with another checkpoint or other options; delete it to "
                "start again"
            )
        self._known = dict(json.loads(line) for line in whole[1:])
        self._kept = bool(self._known)
        with environment(self._out):
            self._stream = self.path.open("a", encoding="utf-8")
        if not whole:
            self._write(head)

    def known(self, file: str) -> Row | None:
        """Returns the row of an earlier call for a file; None if the file has changed."""
        return self._known.get(_seal(file))

    def add(self, row: Row) -> None:
        """Adds a row and writes it to FILE.partial, unless it is a failure, which is retried."""
        self._rows.append(row)
        if "error" not in row and self.known(row["file"]) is None:
            self._write(json.dumps([_seal(row["file"]), row]))
            self._kept = True

    def _write(self, line: str) -> None:
        with environment(self._out):
            self._stream.write(line + "\n")
            self._stream.flush()

    def close(self) -> None:
        """Closes FILE.partial and keeps it for a later call; without rows, it is removed."""
        try:
            self._stream.close()
        finally:
            if not self._kept:
                self.path.unlink(missing_ok=True)

    def finish(self) -> None:
        """Writes the output file atomically and removes FILE.partial."""
        self._stream.close()
        tables.write(self._rows, self._out)
        self.path.unlink()


def _whole_lines(path: Path) -> list[str]:
    """Returns the complete lines of FILE.partial, and removes an incomplete last line."""
    if not path.exists():
        return []
    with path.open("rb+") as stream:
        text = stream.read()
        stream.truncate(text.rfind(b"\n") + 1)
    return text[: text.rfind(b"\n") + 1].decode().splitlines()


def _seal(file: str) -> str:
    """Returns the name, size and modification time of a file, as one string."""
    try:
        found = os.stat(file)
    except (OSError, ValueError):
        return json.dumps([file])
    return json.dumps([file, found.st_size, found.st_mtime_ns])
