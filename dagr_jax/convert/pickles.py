"""Reads the weights in PyTorch's .pth files without PyTorch and without running anything in them.

A .pth file is a pickle, and a pickle is a program. `_Machine` executes the few instructions that
build plain containers, and knows the few functions that build tensors. It refuses every other
instruction and every other name. PyTorch itself does the same with `weights_only=True`.

Both containers are read: the zip archive of PyTorch 1.6 and later, and the series of pickles with
the raw storages after them that older versions wrote.
"""

import collections
import dataclasses
import errno
import math
import pickletools
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

# Name of a storage class in `torch` → type of its elements.
_TYPES: dict[str, Any] = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}
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


class UnsafePickle(ValueError):
    """The pickle contains something other than weights and plain values."""


class DamagedPickle(ValueError):
    """The file is not a pickle of PyTorch, or a part of it is missing."""


@dataclasses.dataclass(frozen=True)
class _Name:
    """A name that the pickle imports. It is never looked up, only compared."""

    name: str


@dataclasses.dataclass(frozen=True)
class _StoredTensor:
    """A tensor whose storage is elsewhere in the file.

    Attributes:
        key: Key of the storage.
        dtype: Type of the elements of the storage.
        numel: Number of elements of the storage.
        offset: First element of the tensor in the storage.
        shape: Shape of the tensor.
        strides: Steps along the axes, in elements.
    """

    key: str
    dtype: Any
    numel: int
    offset: int = 0
    shape: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()

    def of(self, storage: np.ndarray) -> np.ndarray:
        """Returns a copy of the tensor, given its storage (numel,)."""
        return np.lib.stride_tricks.as_strided(
            storage[self.offset :],
            self.shape,
            [step * storage.itemsize for step in self.strides],
            writeable=False,
        ).copy()


def read_pickle(path: Path) -> Any:
    """Reads a .pth file.

    Args:
        path: The file.

    Returns:
        What was saved, with numpy arrays in place of tensors. Parameters are arrays too.

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
    except OSError as error:
        if error.errno != errno.EINVAL:  # a damaged archive names a place before its beginning
            raise
        raise DamagedPickle("it is damaged") from error
    except _DAMAGE as error:
        raise DamagedPickle(f"it is damaged: {type(error).__name__}") from error


def _read_archive(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        pickles = [n for n in archive.namelist() if n.endswith("/data.pkl") or n == "data.pkl"]
        if len(pickles) != 1:
            raise DamagedPickle("it is an archive without data.pkl")
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            raise DamagedPickle("it is compressed, which PyTorch's files are not")
        home = pickles[0][: -len("data.pkl")]
        names = set(archive.namelist())
        order = f"{home}byteorder"
        if order in names and archive.read(order) != b"little":
            raise DamagedPickle("it was written on a big-endian machine")
        with archive.open(pickles[0]) as file:
            held = _Machine().run(file)
        storages: dict[str, np.ndarray] = {}

        def load(tensor: _StoredTensor) -> np.ndarray:
            if tensor.key not in storages:
                raw = archive.read(f"{home}data/{tensor.key}")
                storages[tensor.key] = _elements(raw, tensor)
            return tensor.of(storages[tensor.key])

        return _filled(held, load)


def _read_series(file: BinaryIO) -> Any:
    """Reads the older format: magic number, protocol, machine, object, keys, storages."""
    try:
        if _Machine().run(file) != _MAGIC:
            raise DamagedPickle("it is no file of PyTorch")
    except UnsafePickle:
        raise
    except ValueError as error:
        raise DamagedPickle("it is no file of PyTorch") from error
    if _Machine().run(file) != _PROTOCOL:
        raise DamagedPickle("its version is unknown")
    machine = _Machine().run(file)
    if not (isinstance(machine, Mapping) and machine.get("little_endian") is True):
        raise DamagedPickle("it was written on a big-endian machine")
    held = _Machine().run(file)
    keys = _Machine().run(file)
    needed: dict[str, _StoredTensor] = {}
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


def _elements(raw: bytes, tensor: _StoredTensor) -> np.ndarray:
    if len(raw) != tensor.numel * np.dtype(tensor.dtype).itemsize:
        raise DamagedPickle(f"its storage {tensor.key} is cut")
    return np.frombuffer(raw, tensor.dtype)


def _filled(held: Any, load: Callable[[_StoredTensor], Any]) -> Any:
    """Returns the object with `load` applied to every tensor."""
    if isinstance(held, _StoredTensor):
        return load(held)
    if isinstance(held, _Name):
        raise UnsafePickle(held.name)
    if isinstance(held, dict):
        return type(held)((_filled(k, load), _filled(v, load)) for k, v in held.items())
    if isinstance(held, list | tuple | set | frozenset):
        return type(held)(_filled(value, load) for value in held)
    return held


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> _StoredTensor:
    """PyTorch's `_rebuild_tensor_v2`; the remaining arguments are gradients and hooks."""
    numbers = (offset, *shape, *strides)
    if not isinstance(storage, _StoredTensor) or not all(type(n) is int for n in numbers):
        raise DamagedPickle("a tensor in it has no storage")
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    size = math.prod(shape)
    # Every element must lie in the storage, and no tensor may be larger than its storage.
    inside = min(numbers) >= 0 and size <= storage.numel and (size == 0 or last < storage.numel)
    if not inside or offset > storage.numel:
        raise DamagedPickle("a tensor in it is larger than its storage")
    return dataclasses.replace(storage, offset=offset, shape=tuple(shape), strides=tuple(strides))


def _parameter(data: Any, *_: Any) -> Any:
    """PyTorch's `_rebuild_parameter`: a tensor that is trained."""
    return data


# Name in a pickle → function that is called in its place.
_CALLS: dict[str, Callable[..., Any]] = {
    "torch._utils _rebuild_tensor_v2": _tensor,
    "torch._utils _rebuild_tensor": _tensor,
    "torch._utils _rebuild_parameter": _parameter,
    "collections OrderedDict": collections.OrderedDict,
    "collections Counter": collections.Counter,
    "torch Size": tuple,
    "torch device": lambda *words: ":".join(map(str, words)),
    "builtins set": set,
    "__builtin__ set": set,
}
_MARK = object()


class _Machine:
    """Executes one pickle."""

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def run(self, file: BinaryIO | Any) -> Any:
        """Executes the pickle that begins at the position of the file, up to its end.

        Raises:
            UnsafePickle: It contains an instruction or a name that is not allowed.
            ValueError: It is no pickle.
        """
        for instruction, argument, _ in pickletools.genops(file):
            if instruction.name == "STOP":
                return self._stack.pop()
            self._execute(instruction.name, argument)
        raise EOFError

    def _execute(self, name: str, argument: Any) -> None:
        stack = self._stack
        match name:
            case "PROTO" | "FRAME":
                pass
            case "MARK":
                stack.append(_MARK)
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[name])
            case (
                "BININT" | "BININT1" | "BININT2" | "LONG1" | "LONG4" | "INT" | "LONG"
                | "BINFLOAT" | "FLOAT" | "BINUNICODE" | "SHORT_BINUNICODE" | "BINUNICODE8"
                | "UNICODE" | "BINSTRING" | "SHORT_BINSTRING" | "STRING" | "BINBYTES"
                | "SHORT_BINBYTES" | "BINBYTES8"
            ):  # fmt: skip
                stack.append(argument)
            case "EMPTY_TUPLE":
                stack.append(())
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_SET":
                stack.append(set())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(name[-1])
                stack[-count:] = [tuple(stack[-count:])]
            case "TUPLE":
                stack.append(tuple(self._since_mark()))
            case "LIST":
                stack.append(self._since_mark())
            case "DICT":
                items = self._since_mark()
                stack.append(dict(zip(items[::2], items[1::2], strict=True)))
            case "APPEND" | "APPENDS":
                items = [stack.pop()] if name == "APPEND" else self._since_mark()
                self._container(list).extend(items)
            case "SETITEM" | "SETITEMS":
                items = stack[-2:] if name == "SETITEM" else self._since_mark()
                if name == "SETITEM":
                    del stack[-2:]
                self._container(dict).update(zip(items[::2], items[1::2], strict=True))
            case "ADDITEMS":
                items = self._since_mark()
                self._container(set).update(items)
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                self._memo[int(argument)] = stack[-1]
            case "MEMOIZE":
                self._memo[len(self._memo)] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(self._memo[int(argument)])
            case "POP":
                stack.pop()
            case "POP_MARK":
                self._since_mark()
            case "DUP":
                stack.append(stack[-1])
            case "GLOBAL":
                stack.append(self._known(argument))
            case "STACK_GLOBAL":
                word = stack.pop()
                stack.append(self._known(f"{stack.pop()} {word}"))
            case "BINPERSID":
                stack.append(self._storage(stack.pop()))
            case "REDUCE" | "NEWOBJ":
                arguments = stack.pop()
                stack.append(self._call(stack.pop(), arguments))
            case "BUILD":
                # The attributes of an OrderedDict, as of a state_dict (`_metadata`), are dropped.
                stack.pop()
                self._container(collections.OrderedDict)
            case _:
                raise UnsafePickle(f"the instruction {name}")

    def _since_mark(self) -> list[Any]:
        """Takes what is on the stack since the last mark."""
        stack = self._stack
        at = len(stack) - 1
        while stack[at] is not _MARK:
            at -= 1
            if at < 0:
                raise IndexError
        items = stack[at + 1 :]
        del stack[at:]
        return items

    def _container(self, kind: type) -> Any:
        """Returns the container on top of the stack."""
        if not isinstance(self._stack[-1], kind):
            raise UnsafePickle(f"the state of a {type(self._stack[-1]).__name__}")
        return self._stack[-1]

    def _known(self, name: str) -> _Name:
        module, _, word = name.partition(" ")
        if name not in _CALLS and not (module == "torch" and word in _TYPES):
            raise UnsafePickle(f"{module}.{word}")
        return _Name(name)

    def _call(self, function: Any, arguments: Any) -> Any:
        if not isinstance(function, _Name) or function.name not in _CALLS:
            raise UnsafePickle(f"a call of {getattr(function, 'name', type(function).__name__)}")
        return _CALLS[function.name](*arguments)

    def _storage(self, told: Any) -> _StoredTensor:
        """Returns the storage of a persistent id ('storage', class, key, device, numel)."""
        tag, kind, key, _, numel, *view = told
        word = kind.name.partition(" ")[2] if isinstance(kind, _Name) else ""
        if tag != "storage" or word not in _TYPES or any(one is not None for one in view):
            raise UnsafePickle(f"the storage {word or kind!r}")
        if type(numel) is not int or numel < 0:
            raise DamagedPickle("a storage in it has no size")
        return _StoredTensor(str(key), _TYPES[word], numel)
