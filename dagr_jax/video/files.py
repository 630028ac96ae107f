"""Video files on the command line: files, folders, patterns and lists."""

import contextlib
import functools
import glob
import io
import mimetypes
import os
import sys
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TextIO

import av
from av.format import ContainerFormat

from dagr_jax.runtime import texts
from dagr_jax.runtime.errors import DagrError, environment

# Marks a folder with the video copies of an HTML page. Such a folder is not searched for videos.
OF_PAGE = ".of-a-page"


# Formats of FFmpeg that carry pictures but are not videos: single or animated pictures, playlists,
# raw frames; and suffixes of sound, pictures, subtitles and scripts in formats that carry videos.
_NO_VIDEO = frozenset(
    (
        *("apng", "avif", "fits", "gif", "ico", "image2", "webp"),
        *("dash", "hls", "rawvideo", "swf"),
    )
)
_OTHERS = frozenset(
    (
        *("isma", "m4a", "m4b", "mka", "ogg", "ra", "wma"),
        *("avif", "heic", "heif", "mpo", "mks", "avs"),
    )
)


@functools.cache
def suffixes() -> frozenset[str]:
    """Returns the suffixes of videos in a folder, with their dots: those that FFmpeg knows.

    They are those of the formats that have a default video codec. A file that is named explicitly
    may have any name.
    """
    found: set[str] = set()
    for name in av.formats_available - _NO_VIDEO:
        with contextlib.suppress(ValueError):  # it cannot be written, or not to memory
            known = ContainerFormat(name, "w").extensions
            if known and _default_codec(name) not in ("none", "png"):  # png: covers of sound files
                found |= known
                found |= ContainerFormat(name, "r").extensions
    # Python's own table, not that of the machine, so that every machine finds the same files.
    types = mimetypes.MimeTypes(filenames=()).types_map[True]
    found |= {suffix[1:] for suffix, kind in types.items() if kind.startswith("video/")}
    return frozenset(f".{suffix.strip().lower()}" for suffix in found - _OTHERS)


def _default_codec(name: str) -> str:
    with av.open(io.BytesIO(), "w", format=name) as container:
        return container.default_video_codec


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
            yield from expand_lines(_listed(name[1:]))
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
    for number, line in enumerate(lines):
        if not number:
            line = line.removeprefix("\ufeff")  # a byte order mark on stdin
        with_nul = with_nul or "\0" in line
        if with_nul:  # names may then contain line breaks
            *names, rest = (rest + line).split("\0")
        else:
            names = [line.rstrip("\r\n")]
        for name in filter(None, names):
            yield from _found(name)
    if rest.strip():
        yield from _found(rest.rstrip("\r\n"))


def _listed(path: str) -> list[str]:
    """Returns the lines of a list file.

    Names of files are bytes, which UTF-8 with lone surrogates keeps. The list is in another
    encoding if it begins with a byte order mark. A line that is not UTF-8 is in another encoding if
    its file then exists.
    """
    with environment(path):
        raw = Path(path).read_bytes()
    if texts.marked(raw):
        return _lines(texts.decode(raw, path))
    lines = _lines(os.fsdecode(raw))
    odd = [
        i
        for i, line in enumerate(lines)
        if "\0" not in line and not texts.is_utf8(os.fsencode(line))
    ]
    missing = [i for i in odd if not os.path.exists(lines[i].rstrip("\r\n"))]
    if missing:
        guessed = b"".join(os.fsencode(lines[i]) for i in missing)
        with contextlib.suppress(DagrError):
            for i, line in zip(missing, _lines(texts.decode(guessed, path)), strict=False):
                if os.path.exists(_existing(line.rstrip("\r\n"))):
                    lines[i] = line
    return lines


def _lines(text: str) -> list[str]:
    """Splits text as files are read: names may hold what str.splitlines splits at."""
    return list(io.StringIO(text, newline=""))


def _found(name: str) -> list[str]:
    name = _existing(name)
    if os.path.isdir(name):
        return _videos_in(name) or [name]
    if not os.path.exists(name) and glob.has_magic(name):
        # Brackets may also be part of the name of a folder, as in "show [2020]/*.mp4".
        slashes = name.replace("\\", "/")
        for pattern in (name, slashes, *(one.replace("[", "[[]") for one in (name, slashes))):
            if matched := sorted(glob.glob(pattern, recursive=True)):
                return [path for one in matched for path in _found(one)]
    return [name]


def _existing(name: str) -> str:
    """Returns the form of a name that exists: as it is, in another Unicode form, with slashes.

    macOS stores accents apart from their letters, and lists from Windows have backslashes.
    """
    if os.path.exists(name):
        return name
    plain = name.strip().strip('"')  # as Explorer copies a path
    for one in (name, plain, plain.replace("\\", "/")):
        for form in ("NFC", "NFD"):
            with contextlib.suppress(ValueError):
                other = unicodedata.normalize(form, one)
                if other and os.path.exists(other):
                    return other
    return name


def _videos_in(folder: str) -> list[str]:
    """Lists the videos in a folder and its subfolders, without hidden ones, sorted by name."""
    found = []
    for home, names in walk(folder):
        if OF_PAGE in names:
            continue
        found += [
            os.path.join(home, name)
            for name in names
            if not name.startswith(".") and Path(name).suffix.lower() in suffixes()
        ]
    return sorted(found)


def walk(folder: str | os.PathLike[str]) -> Iterator[tuple[str, list[str]]]:
    """Yields each folder below a folder with the names of its files, sorted.

    Links to folders are followed, but no folder is visited twice. Hidden folders are left out, and
    so are those below a folder with the copies of an HTML page.

    Args:
        folder: The folder; it is the first one.
    """
    seen = set()
    for home, folders, names in os.walk(folder, followlinks=True):
        where = os.stat(home)
        if (where.st_dev, where.st_ino) in seen:
            folders.clear()
            continue
        seen.add((where.st_dev, where.st_ino))
        yield home, sorted(names)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if OF_PAGE in names:
            folders.clear()
