"""Files and folders that are there whole or not at all."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from dagr_jax.runtime.errors import environment


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A new path beside the given one, which takes its place once the block ends without an error.

    It has the same suffix; after an error nothing is left of it.

    Raises:
        DagrError: The file cannot be written.
    """
    path = Path(path)
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    with environment(path, inside=partial):
        try:
            yield partial
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """An empty folder to fill, which takes its name when it is full and is gone when that fails.

    Several processes fill it together.

    Raises:
        DagrError: The folder cannot be made or written.
    """
    from dagr_jax.runtime import distributed  # here: it loads JAX, which files do without

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
