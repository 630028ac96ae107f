"""Rows on their way to a file, kept line by line, so that a call that was interrupted can go on."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dagr_jax.report import tables
from dagr_jax.runtime.errors import DagrError, environment

Row = Mapping[str, Any]


class RowFileError(DagrError):
    """What was left of an earlier call does not go with this one. One line."""


class RowFile:
    """The rows of one call for `--out FILE`, in FILE.partial until all are there.

    Args:
        out: Where the rows go; its suffix names the format.
        told: What the rows depend on besides the files: rows of an earlier call count only where
            it was told the same. Plain data.
        resume: Take the rows of an earlier call that was interrupted.

    Raises:
        RowFileError: There are rows of an earlier call, and they are not wanted or not alike.
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
                f"{self.path}: holds rows of a call that was interrupted; go on with --resume, or "
                "remove it to begin anew"
            )
        if whole and whole[0] != head:
            raise RowFileError(
                f"{self.path}: is of another checkpoint or other options; remove it to begin anew"
            )
        self._known = dict(json.loads(line) for line in whole[1:])
        self._kept = bool(self._known)
        with environment(self._out):
            self._stream = self.path.open("a", encoding="utf-8")
        if not whole:
            self._write(head)

    def known(self, file: str) -> Row | None:
        """The row that an earlier call made of a file, if the file is still the same."""
        return self._known.get(_seal(file))

    def add(self, row: Row) -> None:
        """Keeps a row: on disk at once, unless it is a failure, which is tried again."""
        self._rows.append(row)
        if "error" not in row and self.known(row["file"]) is None:
            self._write(json.dumps([_seal(row["file"]), row]))
            self._kept = True

    def _write(self, line: str) -> None:
        with environment(self._out):
            self._stream.write(line + "\n")
            self._stream.flush()

    def close(self) -> None:
        """Leaves the rows so far for `resume`; without any, FILE.partial is removed."""
        try:
            self._stream.close()
        finally:
            if not self._kept:
                self.path.unlink(missing_ok=True)

    def finish(self) -> None:
        """Writes the file, whole, and removes FILE.partial."""
        self._stream.close()
        tables.write(self._rows, self._out)
        self.path.unlink()


def _whole_lines(path: Path) -> list[str]:
    """The lines of FILE.partial; what an interruption cut is cut off."""
    if not path.exists():
        return []
    with path.open("rb+") as stream:
        text = stream.read()
        stream.truncate(text.rfind(b"\n") + 1)
    return text[: text.rfind(b"\n") + 1].decode().splitlines()


def _seal(file: str) -> str:
    """A file's name, size and time of change."""
    try:
        found = os.stat(file)
    except (OSError, ValueError):
        return json.dumps([file])
    return json.dumps([file, found.st_size, found.st_mtime_ns])
