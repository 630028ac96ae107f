"""The machine that executes the pickle of a .pth file (see `pickles`), and nothing else in it.

It executes the few instructions that build plain containers. Names are never imported: they are
compared with those of `_CALLS`, for which functions of this module stand in.
"""

import collections
import dataclasses
import math
import pickletools
from collections.abc import Callable
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


class UnsafePickle(ValueError):
    """The pickle contains something other than weights and plain values."""


class DamagedPickle(ValueError):
    """The file is not a pickle of PyTorch, or a part of it is missing."""


@dataclasses.dataclass(frozen=True)
class Name:
    """A name that the pickle imports. It is never looked up, only compared."""

    name: str


@dataclasses.dataclass(frozen=True)
class StoredTensor:
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
        """Returns the tensor as a view of its storage (numel,).

        It is no copy, because a small file can name many large tensors of one storage.
        """
        assert len(storage) == self.numel and storage.dtype == self.dtype  # `Machine._storage`
        return np.lib.stride_tricks.as_strided(
            storage[self.offset :],
            self.shape,
            [step * storage.itemsize for step in self.strides],
            writeable=False,
        )


def _tensor(
    storage: Any,
    offset: Any,
    shape: Any,
    strides: Any,
    gradient: Any = False,
    hooks: Any = None,
    view: Any = None,
) -> StoredTensor:
    """PyTorch's `_rebuild_tensor_v2`. `view` says that the values are negated or conjugated."""
    if view:
        raise UnsafePickle("a negated or conjugated tensor")
    numbers = (offset, *shape, *strides)
    if not isinstance(storage, StoredTensor) or not all(type(n) is int for n in numbers):
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


def _keys(found: Any) -> Any:
    """Returns keys of a dict, or items of a set; refuses what needs more than a plain hash."""
    for key in found:
        if not isinstance(key, str | int | float | bytes | None):
            raise UnsafePickle(f"a key of the type {type(key).__name__}")
    return found


def _ordered(items: Any = ()) -> Any:
    """`collections.OrderedDict` of pairs."""
    pairs = [(key, value) for key, value in items]
    _keys(key for key, _ in pairs)
    return collections.OrderedDict(pairs)


def _counter(counts: Any = None) -> Any:
    """`collections.Counter` of a dict."""
    if not isinstance(counts, dict | None):
        raise UnsafePickle("a Counter of something other than a dict")
    return collections.Counter(counts)


def _device(*words: Any) -> str:
    """`torch.device`, as text."""
    if not all(isinstance(word, str | int) for word in words):
        raise UnsafePickle("a device with another name than text")
    return ":".join(map(str, words))


def _encoded(text: Any, encoding: Any) -> bytes:
    """`_codecs.encode`, with which protocol 2 writes bytes."""
    if not isinstance(text, str) or encoding != "latin1":
        raise UnsafePickle("a text in another encoding than latin1")
    return text.encode("latin1")


# Name in a pickle → function that is called in its place.
_CALLS: dict[str, Callable[..., Any]] = {
    "torch._utils _rebuild_tensor_v2": _tensor,
    "torch._utils _rebuild_tensor": _tensor,
    "torch._utils _rebuild_parameter": _parameter,
    "collections OrderedDict": _ordered,
    "collections Counter": _counter,
    "torch Size": tuple,
    "torch device": _device,
    "builtins set": lambda items=(): set(_keys(items)),
    "__builtin__ set": lambda items=(): set(_keys(items)),
    "_codecs encode": _encoded,
}
# Types, which become their names.
_WORDS = {
    f"torch {word}" for word in ("float16", "bfloat16", "float32", "float64", "int64", "bool")
}
_MARK = object()
# Instructions that push their argument.
_PUSHED = {
    *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "INT", "LONG", "BINFLOAT", "FLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "UNICODE"),
    *("BINSTRING", "SHORT_BINSTRING", "STRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
}


class Machine:
    """Executes one pickle."""

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._storages: dict[str, StoredTensor] = {}

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
            case _ if name in _PUSHED:
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
                stack.append(dict(zip(_keys(items[::2]), items[1::2], strict=True)))
            case "APPEND" | "APPENDS":
                items = [stack.pop()] if name == "APPEND" else self._since_mark()
                self._container(list).extend(items)
            case "SETITEM" | "SETITEMS":
                items = stack[-2:] if name == "SETITEM" else self._since_mark()
                if name == "SETITEM":
                    del stack[-2:]
                pairs = zip(_keys(items[::2]), items[1::2], strict=True)
                self._container(dict).update(dict(pairs))
            case "ADDITEMS":
                items = self._since_mark()
                self._container(set).update(_keys(items))
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
                word, module = stack.pop(), stack.pop()
                if not (isinstance(word, str) and isinstance(module, str)):
                    raise DamagedPickle("a name in it is no text")
                stack.append(self._known(f"{module} {word}"))
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

    def _known(self, name: str) -> Name | str:
        if name in _WORDS:
            return name.partition(" ")[2]
        module, _, word = name.partition(" ")
        if name not in _CALLS and not (module == "torch" and word in _TYPES):
            raise UnsafePickle(f"{module}.{word}")
        return Name(name)

    def _call(self, function: Any, arguments: Any) -> Any:
        if not isinstance(function, Name) or function.name not in _CALLS:
            raise UnsafePickle(f"a call of {getattr(function, 'name', type(function).__name__)}")
        if not isinstance(arguments, tuple):
            raise DamagedPickle("a call in it has no arguments")
        return _CALLS[function.name](*arguments)

    def _storage(self, told: Any) -> StoredTensor:
        """Returns the storage of a persistent id ('storage', class, key, device, numel)."""
        tag, kind, key, _, numel, *view = told
        word = kind.name.partition(" ")[2] if isinstance(kind, Name) else ""
        if tag != "storage" or word not in _TYPES or any(one is not None for one in view):
            raise UnsafePickle(f"the storage {word or kind!r}")
        if type(numel) is not int or numel < 0:
            raise DamagedPickle("a storage in it has no size")
        if not isinstance(key, str | int):
            raise DamagedPickle("a storage in it has no name")
        found = StoredTensor(str(key), _TYPES[word], numel)
        # Tensors of one storage share its elements, so they must agree on their type and number.
        if self._storages.setdefault(found.key, found) != found:
            raise DamagedPickle(f"its storage {key} has two types or sizes")
        return found
