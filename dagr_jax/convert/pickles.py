"""Reads the weights in PyTorch's .pth files without PyTorch and without running anything in them.

A .pth file is a pickle, and a pickle is a program. `pickle_machine` executes the few instructions
that build plain containers, and knows the few functions that build tensors. It refuses every other
instruction and every other name. PyTorch itself does the same with `weights_only=True`.

A file may hold tensors, parameters, numbers, texts, bytes, the names of types and devices, and
lists, tuples, sets and dicts of these. Quantised, sparse and lazily negated tensors, and objects of
other classes, are refused.

Both containers are read: the zip archive of PyTorch 1.6 and later, and the series of pickles with
the raw storages after them that older versions wrote.
"""

import errno
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from dagr_jax.convert.pickle_machine import (
    DamagedPickle,
    Machine,
    Name,
    StoredTensor,
    UnsafePickle,
)

__all__ = ["DamagedPickle", "UnsafePickle", "read_pickle"]

_MAGIC = 0x1950A86A20F9469CFC6C  # first pickle of the older format
_PROTOCOL = 1001  # second pickle of it


# What damaged bytes raise in the parsers of pickles and archives. A container that contains itself
# is a RecursionError (a RuntimeError), an announced length beyond the memory a MemoryError.
_DAMAGE = (
    zipfile.BadZipFile,
    struct.error,
    EOFError,
    IndexError,
    KeyError,
    MemoryError,
    OverflowError,
    RuntimeError,
    TypeError,
)


def read_pickle(path: Path) -> Any:
    """Reads a .pth file.

    Args:
        path: The file.

    Returns:
        What was saved, with numpy arrays, which cannot be written to, in place of tensors and
        parameters.

    Raises:
        UnsafePickle: The file holds something other than tensors, plain values and containers. The
            message names it.
        DamagedPickle: The file is damaged, or it is no file of PyTorch.
        OSError: The file cannot be read.
    """
    try:
        if zipfile.is_zipfile(path):
            return _read_archive(path)
        with open(path, "rb") as file:
            return _read_series(file)
    except (UnsafePickle, DamagedPickle):
        raise
    except OSError as error:
        if error.errno != errno.EINVAL:  # a damaged archive names a place before its beginning
            raise
        raise DamagedPickle("it is damaged") from error
    except (*_DAMAGE, ValueError) as error:
        raise DamagedPickle(f"it is damaged: {type(error).__name__}") from error


def _read_archive(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        pickles = [n for n in archive.namelist() if n.endswith("/data.pkl") or n == "data.pkl"]
        if len(pickles) != 1:
            raise DamagedPickle("it is an archive without data.pkl")
        entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise DamagedPickle("it is compressed, which PyTorch's files are not")
        if sum(entry.file_size for entry in entries) > path.stat().st_size:
            raise DamagedPickle("its entries overlap")
        home = pickles[0][: -len("data.pkl")]
        names = set(archive.namelist())
        order = f"{home}byteorder"
        if order in names and archive.read(order) != b"little":
            raise DamagedPickle("it was written on a big-endian machine")
        with archive.open(pickles[0]) as file:
            held = Machine().run(file)
        storages: dict[str, np.ndarray] = {}

        def load(tensor: StoredTensor) -> np.ndarray:
            if tensor.key not in storages:
                raw = archive.read(f"{home}data/{tensor.key}")
                storages[tensor.key] = _elements(raw, tensor)
            return tensor.of(storages[tensor.key])

        return _filled(held, load)


def _read_series(file: BinaryIO) -> Any:
    """Reads the older format: magic number, protocol, machine, object, keys, storages."""
    try:
        if Machine().run(file) != _MAGIC:
            raise DamagedPickle("it is no file of PyTorch")
    except UnsafePickle:
        raise
    except ValueError as error:
        raise DamagedPickle("it is no file of PyTorch") from error
    if Machine().run(file) != _PROTOCOL:
        raise DamagedPickle("its version is unknown")
    machine = Machine().run(file)
    if not (isinstance(machine, Mapping) and machine.get("little_endian") is True):
        raise DamagedPickle("it was written on a big-endian machine")
    held = Machine().run(file)
    keys = Machine().run(file)
    needed: dict[str, StoredTensor] = {}
    _filled(held, lambda tensor: needed.setdefault(tensor.key, tensor))
    storages = {}
    for key in keys:
        (count,) = struct.unpack("<q", file.read(8))
        if key not in needed:
            raise DamagedPickle(f"its storage {key} has no tensor")
        tensor = needed[key]
        if count != tensor.numel:
            raise DamagedPickle(f"its storage {key} has another size than announced")
        storages[key] = _elements(file.read(count * np.dtype(tensor.dtype).itemsize), tensor)
    return _filled(held, lambda tensor: tensor.of(storages[tensor.key]))


def _elements(raw: bytes, tensor: StoredTensor) -> np.ndarray:
    if len(raw) != tensor.numel * np.dtype(tensor.dtype).itemsize:
        raise DamagedPickle(f"its storage {tensor.key} is cut")
    return np.frombuffer(raw, tensor.dtype)


def _filled(
    held: Any, load: Callable[[StoredTensor], Any], done: dict[int, Any] | None = None
) -> Any:
    """Returns the object with `load` applied to every tensor.

    An object that is there several times is filled once: a small file can name exponentially many.
    """
    done = {} if done is None else done
    if id(held) in done:
        return done[id(held)]
    if isinstance(held, StoredTensor):
        done[id(held)] = load(held)
    elif isinstance(held, Name):
        raise UnsafePickle(held.name)
    elif isinstance(held, dict):
        filled = type(held)()
        filled.update({key: _filled(value, load, done) for key, value in held.items()})
        done[id(held)] = filled
    elif isinstance(held, list | tuple):
        done[id(held)] = type(held)(_filled(value, load, done) for value in held)
    else:
        return held
    return done[id(held)]
