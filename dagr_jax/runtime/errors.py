"""The base class of all errors that the user can fix. This module needs only the standard library.

A command prints a `DagrError` as one line. Any other exception is a defect of this package or of a
library, and shows its traceback.
"""

import contextlib
import errno
import os
import traceback
from collections.abc import Iterator

Name = str | os.PathLike[str]

# Remedies for an OSError, by errno. An OSError with another errno, or with none, is a defect.
_REMEDIES = {
    errno.EACCES: "change its permissions, or name another path",
    errno.EDQUOT: "free some of the quota, or name another disk",
    errno.EEXIST: "name another path",
    errno.EFBIG: "raise the limit on the size of files, or name another disk",
    errno.EIO: "check the disk, or name another one",
    errno.EISDIR: "name a file",
    errno.ELOOP: "check its symbolic links",
    errno.ENAMETOOLONG: "name a shorter path",
    errno.ENOENT: "check the path",
    errno.ENOSPC: "free some space, or name another disk",
    errno.ENOTDIR: "check the path",
    errno.EPERM: "change its permissions, or name another path",
    errno.EROFS: "name a path on a disk that can be written",
}

# C++ libraries (TensorStore, ArrayRecord) raise these as other exceptions with the same text.
_IN_WORDS = (errno.EDQUOT, errno.EFBIG, errno.ENOSPC, errno.EROFS)


class DagrError(ValueError):
    """A mistake in the input, the settings or the environment, reported in one line.

    The line names the file or field, the problem and the remedy: ``subject: problem; remedy``.

    Args:
        subject: Name of the file or field; or the complete line, if it is the only argument.
        problem: What is wrong with the file or field.
        remedy: What the user can do about the problem.

    Attributes:
        subject: Name of the file or field; "" if the error was given as a complete line.
        problem: What is wrong; the complete line if the error was given as one.
        remedy: What the user can do; "" if the error was given as a complete line.
    """

    def __init__(self, subject: Name, problem: str = "", remedy: str = ""):
        name = os.fspath(subject)
        # The line is the only argument of the base class, so that the error can be pickled.
        told = f"{name}: {problem}" if problem else name
        super().__init__(f"{told}; {remedy}" if remedy else told)
        self.subject = name if problem else ""
        self.problem = problem or name
        self.remedy = remedy


@contextlib.contextmanager
def environment(
    path: Name, kind: type[DagrError] = DagrError, *, inside: Name | None = None
) -> Iterator[None]:
    """Turns an error that the user can fix, such as a full disk, into a DagrError.

    Args:
        path: Path that the user gave; the error message names it.
        kind: Class of the raised error.
        inside: File or folder that the block writes in place of `path`. An OSError that names a
            file outside it is not changed.

    Raises:
        DagrError: The block raised an error that the user can fix.
    """
    try:
        yield
    except DagrError:
        raise
    except Exception as error:
        number = _number_of(error, inside)
        if number not in _REMEDIES:
            raise
        raise kind(path, os.strerror(number), _REMEDIES[number]) from error


# Set for the command and the processes that it starts, if --debug was given.
_DEBUG = "DAGR_DEBUG"


def show_tracebacks(shown: bool) -> None:
    """Says whether the traceback of an error that `one_file` turns into a line is shown."""
    os.environ[_DEBUG] = "1" if shown else ""


def in_a_line(error: BaseException) -> str:
    """Returns the type and the message of an error in one line."""
    told = str(error).strip().splitlines()
    return f"{type(error).__name__}: {told[0]}" if told else type(error).__name__


@contextlib.contextmanager
def one_file(path: Name, kind: type[DagrError], doing: str) -> Iterator[None]:
    """Turns every error of the work on one file into a DagrError, so that only this file is lost.

    Args:
        path: The file, as the user gave it.
        kind: Class of the raised error.
        doing: What the block does with the file, as in "reading it".

    Raises:
        DagrError: The block raised an error. A DagrError is raised as it is.
    """
    try:
        yield
    except DagrError:
        raise
    except Exception as error:
        raise failed(path, kind, doing, error) from error


def failed(path: Name, kind: type[DagrError], doing: str, error: Exception) -> DagrError:
    """Returns the DagrError of `one_file` for an error; prints the traceback with --debug."""
    if os.environ.get(_DEBUG):
        traceback.print_exception(error)
    remedy = _REMEDIES.get(error.errno or 0) if isinstance(error, OSError) else None
    if remedy is None:
        remedy = "re-encode it, or see more with --debug"
    return kind(path, f"{doing} failed ({in_a_line(error)})", remedy)


def _number_of(error: Exception, inside: Name | None) -> int:
    """Returns the errno of an error; 0 if it has none, or if it names a file outside `inside`."""
    if not isinstance(error, OSError):
        words = str(error)
        return next((number for number in _IN_WORDS if os.strerror(number) in words), 0)
    if inside is not None and isinstance(error.filename, str | bytes | os.PathLike):
        home, named = os.fspath(inside), os.fsdecode(error.filename)
        if named != home and not named.startswith(home + os.sep):
            return 0
    return error.errno or 0
