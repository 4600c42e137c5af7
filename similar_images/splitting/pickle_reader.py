"""Reads pickles of plain values and uint8 arrays; nothing that they hold is executed.

pickle.Unpickler, even with restricted names, hashes, compares and calls what a file asks for.
Here pickletools parses the file, and its opcodes build numbers, text, lists, tuples and
dictionaries only. A pickle that needs more is refused.
"""

import pickletools
from dataclasses import dataclass
from typing import Any

import numpy as np

MAX_OPCODES = 500_000  # a published batch of CIFAR-10 has about 30,000
MAX_REPEATED = 100  # characters; longer texts can't be referred to again
# What pickles of arrays name: NumPy 1 and 2, and Python 3 for bytes in protocols up to 2.
ENCODE = "_codecs encode"
RECONSTRUCT = ("numpy.core.multiarray _reconstruct", "numpy._core.multiarray _reconstruct")
DTYPE = "numpy dtype"
NAMES = (ENCODE, *RECONSTRUCT, DTYPE, "numpy ndarray")
UINT8 = ("u1", b"u1")
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}


class _Name(str):
    """The name of a function or class, as "module name"; it is never looked up."""


@dataclass(eq=False, repr=False)
class _Call:
    """A call that a pickle asks for, and the state for its result; neither is carried out."""

    name: str
    arguments: tuple[Any, ...]
    state: Any = None


def read_pickle(data: bytes) -> dict[str, Any]:
    """Return the dictionary that data holds: keys as str, Python 2's strings as bytes.

    Anything else raises an exception, usually but not always a ValueError.
    """
    machine = _StackMachine()
    for count, (opcode, argument, _position) in enumerate(pickletools.genops(data)):
        if count == MAX_OPCODES:
            raise ValueError(f"it has more than {MAX_OPCODES:,} pickle opcodes")
        machine.step(opcode.name, argument)
    content = machine.stack.pop()
    if not isinstance(content, dict):
        raise ValueError("it is not a dictionary")
    return {key.decode() if isinstance(key, bytes) else key: content[key] for key in content}


def to_array(value: Any, columns: int) -> np.ndarray:
    """Return a value that is an array of shape (N, columns), uint8; ValueError for any other."""
    if not (isinstance(value, _Call) and value.name in RECONSTRUCT and value.state):
        raise ValueError("data is not an array")
    _version, shape, dtype, column_order, data = value.state
    if not (isinstance(dtype, _Call) and dtype.name == DTYPE and dtype.arguments[0] in UINT8):
        raise ValueError("data is not of dtype uint8")
    if column_order or not isinstance(data, bytes) or shape != (len(data) // columns, columns):
        raise ValueError(f"data is not of shape (N, {columns})")
    return np.frombuffer(data, np.uint8).reshape(-1, columns)


class _StackMachine:
    """The machine that a pickle is a program for, with the opcodes of plain values and arrays.

    It builds a tree no larger than the file: only names and short texts can be referred to
    again. Only text is hashed. So no file makes it grow without bounds, or recurse.
    """

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self._marks: list[int] = []  # positions in the stack
        self._memo: dict[int, Any] = {}

    def step(self, opcode: str, argument: Any) -> None:
        """Carry out an opcode with its argument, as pickletools names and decodes them."""
        push = self.stack.append
        match opcode:
            case "PROTO" | "FRAME" | "STOP":
                pass
            case "INT" | "BININT" | "BININT1" | "BININT2" | "LONG" | "LONG1":
                push(argument)
            case "BINUNICODE" | "SHORT_BINUNICODE" | "BINBYTES" | "SHORT_BINBYTES":
                push(argument)
            case "STRING" | "BINSTRING" | "SHORT_BINSTRING":
                push(argument.encode("latin1"))  # bytes, which pickletools decodes as Latin-1
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                push(CONSTANTS[opcode])
            case "PUT" | "BINPUT" | "LONG_BINPUT" | "MEMOIZE":
                self._memoise(argument)
            case "GET" | "BINGET" | "LONG_BINGET":
                push(_repeatable(self._memo[argument]))
            case "MARK":
                self._marks.append(len(self.stack))
            case "EMPTY_TUPLE":
                push(())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                push(tuple(self._pop(int(opcode[-1]))))
            case "TUPLE":
                push(tuple(self._pop_marked()))
            case "EMPTY_LIST":
                push([])
            case "LIST":
                push(self._pop_marked())
            case "APPEND":
                _append(self._pop(1), self.stack[-1])
            case "APPENDS":
                _append(self._pop_marked(), self.stack[-1])
            case "EMPTY_DICT":
                push({})
            case "DICT":
                push(_set_items(self._pop_marked(), {}))
            case "SETITEM":
                _set_items(self._pop(2), self.stack[-1])
            case "SETITEMS":
                _set_items(self._pop_marked(), self.stack[-1])
            case "GLOBAL":
                push(_admitted(argument))
            case "STACK_GLOBAL":
                push(_admitted(" ".join(self._pop(2))))
            case "REDUCE":
                push(_called(*self._pop(2)))
            case "BUILD":
                _set_state(self._pop(1)[0], self.stack[-1])
            case _:
                raise ValueError(f"it holds the pickle opcode {opcode}")

    def _pop(self, count: int) -> list[Any]:
        return self._pop_from(len(self.stack) - count)

    def _pop_marked(self) -> list[Any]:
        return self._pop_from(self._marks.pop())

    def _pop_from(self, start: int) -> list[Any]:
        if not 0 <= start <= len(self.stack):
            raise ValueError("its stack has too few values")
        values = self.stack[start:]
        del self.stack[start:]
        return values

    def _memoise(self, index: int | None) -> None:
        index = len(self._memo) if index is None else index
        if index > MAX_OPCODES:
            raise ValueError("its memo is too large")
        self._memo[index] = self.stack[-1]


def _repeatable(value: Any) -> Any:
    if isinstance(value, str | bytes) and len(value) <= MAX_REPEATED:
        return value
    raise ValueError("it refers again to what is neither a name nor a short text")


def _append(values: list[Any], target: Any) -> None:
    if not isinstance(target, list):
        raise ValueError("it appends to what is not a list")
    target.extend(values)


def _set_items(values: list[Any], target: Any) -> dict[str | bytes, Any]:
    if not isinstance(target, dict):
        raise ValueError("it sets items of what is not a dictionary")
    for key, value in zip(values[::2], values[1::2], strict=True):
        if not isinstance(key, str | bytes):
            raise ValueError("it has a key that is not text")
        target[key] = value
    return target


def _admitted(name: str) -> _Name:
    if name not in NAMES:
        raise ValueError(f"it names {name.replace(' ', '.')}")
    return _Name(name)


def _called(name: Any, arguments: Any) -> _Call | bytes:
    if not isinstance(name, _Name) or not isinstance(arguments, tuple):
        raise ValueError("it calls what is not a function")
    if name == ENCODE:  # of bytes that were decoded as Latin-1
        return bytes(arguments[0].encode("latin1"))
    return _Call(name, arguments)


def _set_state(state: Any, target: Any) -> None:
    if not isinstance(target, _Call):
        raise ValueError("it sets the state of what is not an array")
    target.state = state
