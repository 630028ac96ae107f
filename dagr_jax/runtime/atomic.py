"""Atomic writing of files and folders: each is either complete or absent."""

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from dagr_jax.runtime.errors import environment

LONGEST_NAME = 255  # bytes, on all common file systems


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a temporary path that replaces `path` when the block ends without an error.

    After an error the temporary file is deleted and `path` is unchanged.

    Args:
        path: File to write.

    Yields:
        A path in the same folder, with the same suffix.

    Raises:
        DagrError: The file cannot be written.
    """
    path = Path(path)
    partial = path.with_name(short_name(f".{path.stem}", f".partial{path.suffix}"))
    with environment(path, inside=partial):
        try:
            yield partial
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)


def short_name(stem: str, suffix: str) -> str:
    """Returns stem + suffix as a name that file systems allow: at most 255 bytes."""
    name = os.fsencode(stem + suffix)
    if len(name) <= LONGEST_NAME:
        return stem + suffix
    # The digest keeps names apart that begin alike.
    mark = f"~{hashlib.blake2b(name, digest_size=4).hexdigest()}{suffix}"
    return os.fsdecode(os.fsencode(stem)[: LONGEST_NAME - len(os.fsencode(mark))]) + mark


@contextlib.contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Yields an empty temporary folder that is renamed to `folder` when the block ends.

    After an error the temporary folder is deleted. All processes of a distributed run fill the
    same folder; process 0 creates and renames it.

    Args:
        folder: Folder to create.

    Yields:
        The temporary folder, next to `folder`.

    Raises:
        DagrError: The folder cannot be created or written.
    """
    # Imported here because it loads JAX, which `atomic_file` does not need.
    from dagr_jax.runtime import distributed

    partial = folder.with_name(f".{folder.name}.partial")

    def begin() -> None:
        shutil.rmtree(partial, ignore_errors=True)
        with environment(folder):
            partial.mkdir(parents=True)

    distributed.first(begin, makes=partial)
    with environment(folder, inside=partial):
        try:
            yield partial
            distributed.meet()
            distributed.first(lambda: os.replace(partial, folder), makes=folder)
        finally:
            if distributed.is_first():
                shutil.rmtree(partial, ignore_errors=True)
