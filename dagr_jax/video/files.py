"""Video files as people name them: files, folders, patterns, lists."""

import glob
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TextIO

from dagr_jax.runtime.errors import environment

# By these a video in a folder is known; a file that is named itself may be called anything.
SUFFIXES = frozenset(
    f".{suffix}"
    for suffix in (
        *("3gp", "asf", "avi", "flv", "h264", "h265", "hevc", "ivf", "m2ts", "m4v", "mjpeg"),
        *("mkv", "mov", "mp4", "mpeg", "mpg", "mts", "mxf", "obu", "ogv", "ts", "vob", "webm"),
        *("wmv", "y4m"),
    )
)


# Stands in a folder that holds a page's copies of videos: they are not looked for there.
OF_PAGE = ".of-a-page"


def expand(names: Iterable[str], stdin: TextIO | None = None) -> Iterator[str]:
    """The files that names stand for, in that order.

    Args:
        names: A file; a folder, for all videos in it and its folders, by name; a pattern with *,
            ? or [ ], where no file is called that; @FILE for the names in a file; - for those of
            stdin as they come. Names stand one a line, or end with NUL, as `find -print0` has it.
        stdin: Instead of `sys.stdin`.

    Yields:
        Paths. What stands for nothing is itself one, so that reading it says what is wrong.

    Raises:
        DagrError: A list cannot be read.
    """
    for name in names:
        if name == "-":
            yield from expand_lines(stdin or sys.stdin)
        elif name.startswith("@") and not os.path.exists(name):
            with (
                environment(name[1:]),
                open(name[1:], encoding="utf-8", errors="surrogateescape") as lines,
            ):
                yield from expand_lines(lines)
        else:
            yield from _found(name)


def expand_lines(lines: Iterable[str]) -> Iterator[str]:
    """The files that the lines of a list stand for; in a list no name has a second meaning."""
    rest, with_nul = "", False
    for line in lines:
        with_nul = with_nul or "\0" in line
        if with_nul:  # then a name may hold line ends
            *names, rest = (rest + line).split("\0")
        else:
            names = [line.rstrip("\r\n")]
        for name in filter(None, names):
            yield from _found(name)
    if rest.strip():
        yield from _found(rest.rstrip("\r\n"))


def _found(name: str) -> list[str]:
    if os.path.isdir(name):
        return _videos_in(Path(name)) or [name]
    if not os.path.exists(name) and glob.has_magic(name):
        inside = (_found(path) for path in sorted(glob.glob(name, recursive=True)))
        return [path for paths in inside for path in paths] or [name]
    return [name]


def _videos_in(folder: Path) -> list[str]:
    """All of a folder and its folders, hidden ones left out, by name."""
    found = []
    for home, folders, files in os.walk(folder):
        if OF_PAGE in files:
            folders.clear()
            continue
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [
            os.path.join(home, name)
            for name in files
            if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES
        ]
    return sorted(found)
