"""Video files on the command line: files, folders, patterns and lists."""

import glob
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TextIO

from dagr_jax.runtime.errors import environment

# Suffixes of videos in a folder. A file that is named explicitly may have any name.
SUFFIXES = frozenset(
    f".{suffix}"
    for suffix in (
        *("3gp", "asf", "avi", "flv", "h264", "h265", "hevc", "ivf", "m2ts", "m4v", "mjpeg"),
        *("mkv", "mov", "mp4", "mpeg", "mpg", "mts", "mxf", "obu", "ogv", "ts", "vob", "webm"),
        *("wmv", "y4m"),
    )
)


# Marks a folder with the video copies of an HTML page. Such a folder is not searched for videos.
OF_PAGE = ".of-a-page"


def expand(names: Iterable[str], stdin: TextIO | None = None) -> Iterator[str]:
    """Expands names from the command line to files, in the same order.

    Args:
        names: Each name is one of these: a file; a folder (all videos in it and its subfolders,
            sorted by name); a pattern with *, ? or [ ], unless a file has this name; @FILE (the
            names in a list file); - (the names on stdin, as they arrive). Lists have one name per
            line, or names that end with NUL, as in `find -print0`.
        stdin: Stream to use instead of `sys.stdin`.

    Yields:
        Paths. A name without a match is yielded unchanged, so that reading it reports the error.

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
    """Expands the names in a list; @ and - have no special meaning here.

    Args:
        lines: Lines of the list.

    Yields:
        Paths.
    """
    rest, with_nul = "", False
    for line in lines:
        with_nul = with_nul or "\0" in line
        if with_nul:  # names may then contain line breaks
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
    """Lists the videos in a folder and its subfolders, without hidden ones, sorted by name."""
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
