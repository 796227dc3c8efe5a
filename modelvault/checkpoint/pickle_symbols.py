"""Reads a pickle as data: a tree of symbols instead of objects.

This is the pickle machine without its teeth. Opcodes that would import something push a `Global`, those that
would call something push a `Call`, and nothing is ever looked up, imported or called. What matters for
finding tensors is kept (containers, short strings, integers that fit 64 bits); every other value is `OPAQUE`.

The input is hostile until proven otherwise. There is no recursion, mappings are lists of pairs (hashing or
comparing a deeply nested key would recurse in C), lengths are checked against what is there before anything
is allocated, and every opcode does work in proportion to its own bytes and to what it takes off the stack.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from modelvault.checkpoint.layout import MAX_NAME

MAX_OPCODES = 4_000_000
"""A tensor takes about 35: room for 100,000. The worst pickles of this many opcodes cost 640 MB of memory."""

_U16 = struct.Struct("<H")
_I32 = struct.Struct("<i")
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")


class PickleError(ValueError):
    """Not a pickle, or one beyond the limits."""


class _Opaque:
    """The type of `OPAQUE`."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "OPAQUE"


OPAQUE: Final = _Opaque()
"""A value that is there and of no interest: a float, bytes, a very long string or integer."""


@dataclass(slots=True, eq=False)
class Global:
    """Something the pickle would import.

    The two names are kept apart: joined, a few opcodes that recall long strings would make much longer ones.
    """

    module: str
    attribute: str

    @property
    def name(self) -> str:
        """Both names, joined by a dot."""
        return f"{self.module}.{self.attribute}"


@dataclass(slots=True, eq=False)
class Mapping:
    """A dict, in the order in which it is filled; keys may repeat."""

    pairs: list[tuple[object, object]] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Call:
    """An object that the pickle would make by calling `function`, and what it would then put into it."""

    function: object
    args: object
    items: list[object] | None = None  # appended
    pairs: list[tuple[object, object]] | None = None  # set by key
    state: object = None

    @property
    def function_name(self) -> str:
        """The name of the function if it is a global, or ""."""
        return self.function.name if isinstance(self.function, Global) else ""

    def argument(self, index: int) -> object:
        """Return a positional argument, or None where there is none."""
        return self.args[index] if isinstance(self.args, tuple) and index < len(self.args) else None


@dataclass(slots=True, eq=False)
class PersistentId:
    """A reference to something outside the pickle."""

    value: object


def read_pickle(data: bytes) -> object:
    """Return what the first pickle in `data` describes.

    It is made of None, bool, int, str, tuple, list and the symbols above; sets appear as lists.

    >>> import pickle
    >>> read_pickle(pickle.dumps([1, (None, "a"), 2.5]))
    [1, (None, 'a'), OPAQUE]

    Raises:
        PickleError: the bytes are no pickle, are cut off, or hold more than `MAX_OPCODES`.
    """
    return _Machine(data).run()


def read_pickle_at(data: bytes, start: int) -> tuple[object, int]:
    """Return what the pickle that begins at `start` describes, and where it ends.

    >>> import pickle
    >>> read_pickle_at(b"..." + pickle.dumps("a", 2) + b"...", 3)
    ('a', 14)

    Raises:
        PickleError: as `read_pickle`.
    """
    machine = _Machine(data, start)
    return machine.run(), machine.at


class _Machine:
    """The state of one reading: a position, a stack, the stacks set aside by MARK, and the memo."""

    __slots__ = ("at", "data", "memo", "outer", "stack")

    def __init__(self, data: bytes, at: int = 0) -> None:
        self.data = data
        self.at = at
        self.stack: list[object] = []
        self.outer: list[list[object]] = []
        self.memo: dict[int, object] = {}

    def run(self) -> object:
        """Run to STOP and return the value on top of the stack."""
        data = self.data
        opcodes = _OPCODES
        try:
            for _ in range(MAX_OPCODES):
                code = data[self.at]
                self.at += 1
                if code == _STOP:
                    return self.stack.pop()
                opcodes[code](self)
        except (IndexError, KeyError, struct.error):
            # An empty stack, an unknown opcode or memo entry, an argument cut off.
            raise PickleError(f"damaged pickle near byte {self.at}") from None
        raise PickleError(f"pickle of more than {MAX_OPCODES} opcodes")

    # Arguments

    def line(self) -> bytes:
        """Take the bytes up to the next newline."""
        end = self.data.find(b"\n", self.at)
        if end < 0:
            raise PickleError(f"unterminated line at byte {self.at}")
        line = self.data[self.at : end]
        self.at = end + 1
        return line

    def number(self, layout: struct.Struct) -> int:
        """Take a fixed-width integer."""
        value: int = layout.unpack_from(self.data, self.at)[0]
        self.at += layout.size
        return value

    def byte(self) -> int:
        """Take one byte."""
        value = self.data[self.at]
        self.at += 1
        return value

    def skip(self, length: int) -> None:
        """Pass over bytes that must be there."""
        if not 0 <= length <= len(self.data) - self.at:
            raise PickleError(f"argument at byte {self.at} leaves the pickle")
        self.at += length

    def text(self, length: int) -> None:
        """Push a string of `length` bytes of UTF-8."""
        start = self.at
        self.skip(length)
        # A character has up to four bytes. Longer strings are no names, and decoding them could quadruple
        # memory.
        if length > 4 * MAX_NAME:
            self.stack.append(OPAQUE)
        else:
            self.stack.append(self.data[start : self.at].decode("utf-8", "replace"))

    def integer(self, length: int) -> None:
        """Push a little-endian two's complement integer of `length` bytes."""
        start = self.at
        self.skip(length)
        self.stack.append(int.from_bytes(self.data[start : self.at], "little", signed=True) if length <= 9 else OPAQUE)

    def opaque(self, length: int) -> None:
        """Push a value of `length` bytes that is of no interest."""
        self.skip(length)
        self.stack.append(OPAQUE)

    def decimal(self) -> int | None:
        """Take a line holding a decimal integer; None if it holds something else or does not fit 64 bits."""
        line = self.line()
        digits = line[1:] if line.startswith(b"-") else line
        return int(line) if digits.isdigit() and len(digits) <= 20 else None

    # The stack

    def push(self, value: object) -> None:
        """Push a value."""
        self.stack.append(value)

    def take(self, count: int) -> tuple[object, ...]:
        """Take the topmost values off the stack, the deepest first."""
        if count > len(self.stack):
            raise IndexError
        values = tuple(self.stack[-count:])
        del self.stack[-count:]
        return values

    def mark(self) -> None:
        """Set the stack aside and begin a new one: what a later opcode takes "up to the mark"."""
        self.outer.append(self.stack)
        self.stack = []

    def to_mark(self) -> list[object]:
        """Take everything up to the mark off the stack."""
        values = self.stack
        self.stack = self.outer.pop()
        return values

    def pop(self) -> None:
        """Drop the topmost value, or the mark if that is on top."""
        if self.stack:
            self.stack.pop()
        else:
            self.to_mark()

    # Containers

    def extend(self, values: list[object]) -> None:
        """Append values to the list, or to the object standing for one, on top of the stack."""
        target = self.stack[-1]
        if isinstance(target, list):
            target.extend(values)
        elif isinstance(target, Call):
            if target.items is None:
                target.items = []
            target.items.extend(values)

    def update(self, values: list[object]) -> None:
        """Set keys, which alternate with their values, in the mapping on top of the stack."""
        target = self.stack[-1]
        pairs = zip(values[::2], values[1::2], strict=False)
        if isinstance(target, Mapping):
            target.pairs.extend(pairs)
        elif isinstance(target, Call):
            if target.pairs is None:
                target.pairs = []
            target.pairs.extend(pairs)

    def mapping(self) -> None:
        """Push a mapping of what stands above the mark."""
        values = self.to_mark()
        self.stack.append(Mapping())
        self.update(values)

    # Objects

    def call(self, count: int) -> None:
        """Push the call of a function that stands below its arguments (and, of three, keyword arguments)."""
        function, *args = self.take(count)
        self.stack.append(Call(function, args[0]))

    def global_by_line(self) -> Global:
        """Take two lines, a module and a name."""
        return Global(self.line().decode("utf-8", "replace"), self.line().decode("utf-8", "replace"))

    def global_by_stack(self) -> None:
        """Push the global whose module and name stand on the stack."""
        self.stack.append(_global(*self.take(2)))

    def instance(self) -> None:
        """Push the call of a class named by two lines with what stands above the mark."""
        function = self.global_by_line()
        self.push(Call(function, tuple(self.to_mark())))

    def instance_by_stack(self) -> None:
        """Push the call of the first value above the mark with the others."""
        function, *args = self.to_mark() or [None]
        self.push(Call(function, tuple(args)))

    def build(self) -> None:
        """Give the state on top of the stack to the object below it."""
        state = self.stack.pop()
        if isinstance(target := self.stack[-1], Call):
            target.state = state

    # The memo

    def remember(self, key: int | None) -> None:
        """Keep the topmost value under a number."""
        if key is None:
            raise KeyError
        self.memo[key] = self.stack[-1]

    def recall(self, key: int | None) -> None:
        """Push what is kept under a number."""
        if key is None:
            raise KeyError
        self.stack.append(self.memo[key])


def _global(module: object, name: object) -> Global:
    """Return the symbol of a global, an empty one if its names are no strings."""
    return Global(module, name) if isinstance(module, str) and isinstance(name, str) else Global("", "")


def _int_line(machine: _Machine) -> None:
    """INT also spells the booleans of protocols 0 and 1, as 00 and 01."""
    data = machine.data[machine.at : machine.at + 3]
    value = machine.decimal()
    machine.push(data == b"01\n" if data in (b"00\n", b"01\n") else OPAQUE if value is None else value)


def _long_line(machine: _Machine) -> None:
    """LONG ends its digits with an L."""
    line = machine.line().removesuffix(b"L")
    machine.push(int(line) if len(line) <= 20 and line.removeprefix(b"-").isdigit() else OPAQUE)


def _unicode_line(machine: _Machine) -> None:
    """UNICODE escapes what is not Latin-1."""
    line = machine.line()
    try:
        machine.push(line.decode("raw-unicode-escape") if len(line) <= 4 * MAX_NAME else OPAQUE)
    except UnicodeDecodeError:
        machine.push(OPAQUE)


def _string_line(machine: _Machine) -> None:
    """STRING is quoted; escapes within it are left as they stand, since no key of a checkpoint needs them."""
    line = machine.line()
    machine.push(line[1:-1].decode("utf-8", "replace") if len(line) <= 4 * MAX_NAME else OPAQUE)


def _opaque_line(machine: _Machine) -> None:
    """FLOAT."""
    machine.line()
    machine.push(OPAQUE)


def _nothing(machine: _Machine) -> None:
    """An opcode without consequence here."""


_STOP = ord(".")
# By Python's names of the opcodes (`pickletools.opcodes`), which a test compares with this table.
_OPCODES: dict[int, Callable[[_Machine], None]] = {
    ord(code): action
    for code, action in {
        # Numbers and strings
        "N": lambda m: m.push(None),  # NONE
        "\x88": lambda m: m.push(True),  # NEWTRUE
        "\x89": lambda m: m.push(False),  # NEWFALSE
        "I": _int_line,  # INT
        "J": lambda m: m.push(m.number(_I32)),  # BININT
        "K": lambda m: m.push(m.byte()),  # BININT1
        "M": lambda m: m.push(m.number(_U16)),  # BININT2
        "L": _long_line,  # LONG
        "\x8a": lambda m: m.integer(m.byte()),  # LONG1
        "\x8b": lambda m: m.integer(m.number(_I32)),  # LONG4
        "F": _opaque_line,  # FLOAT
        "G": lambda m: m.opaque(8),  # BINFLOAT
        "S": _string_line,  # STRING
        "U": lambda m: m.text(m.byte()),  # SHORT_BINSTRING
        "T": lambda m: m.text(m.number(_I32)),  # BINSTRING
        "V": _unicode_line,  # UNICODE
        "\x8c": lambda m: m.text(m.byte()),  # SHORT_BINUNICODE
        "X": lambda m: m.text(m.number(_U32)),  # BINUNICODE
        "\x8d": lambda m: m.text(m.number(_U64)),  # BINUNICODE8
        "C": lambda m: m.opaque(m.byte()),  # SHORT_BINBYTES
        "B": lambda m: m.opaque(m.number(_U32)),  # BINBYTES
        "\x8e": lambda m: m.opaque(m.number(_U64)),  # BINBYTES8
        "\x96": lambda m: m.opaque(m.number(_U64)),  # BYTEARRAY8
        "\x97": lambda m: m.push(OPAQUE),  # NEXT_BUFFER
        "\x98": _nothing,  # READONLY_BUFFER
        # Containers
        ")": lambda m: m.push(()),  # EMPTY_TUPLE
        "\x85": lambda m: m.push(m.take(1)),  # TUPLE1
        "\x86": lambda m: m.push(m.take(2)),  # TUPLE2
        "\x87": lambda m: m.push(m.take(3)),  # TUPLE3
        "t": lambda m: m.push(tuple(m.to_mark())),  # TUPLE
        "]": lambda m: m.push([]),  # EMPTY_LIST
        "\x8f": lambda m: m.push([]),  # EMPTY_SET
        "l": lambda m: m.push(m.to_mark()),  # LIST
        "\x91": lambda m: m.push(m.to_mark()),  # FROZENSET
        "a": lambda m: m.extend([m.stack.pop()]),  # APPEND
        "e": lambda m: m.extend(m.to_mark()),  # APPENDS
        "\x90": lambda m: m.extend(m.to_mark()),  # ADDITEMS
        "}": lambda m: m.push(Mapping()),  # EMPTY_DICT
        "d": lambda m: m.mapping(),  # DICT
        "s": lambda m: m.update(list(m.take(2))),  # SETITEM
        "u": lambda m: m.update(m.to_mark()),  # SETITEMS
        # The stack and the memo
        "0": lambda m: m.pop(),  # POP
        "1": lambda m: _discard(m.to_mark()),  # POP_MARK
        "2": lambda m: m.push(m.stack[-1]),  # DUP
        "(": lambda m: m.mark(),  # MARK
        "p": lambda m: m.remember(m.decimal()),  # PUT
        "q": lambda m: m.remember(m.byte()),  # BINPUT
        "r": lambda m: m.remember(m.number(_U32)),  # LONG_BINPUT
        "\x94": lambda m: m.remember(len(m.memo)),  # MEMOIZE
        "g": lambda m: m.recall(m.decimal()),  # GET
        "h": lambda m: m.recall(m.byte()),  # BINGET
        "j": lambda m: m.recall(m.number(_U32)),  # LONG_BINGET
        # Objects
        "c": lambda m: m.push(m.global_by_line()),  # GLOBAL
        "\x93": lambda m: m.global_by_stack(),  # STACK_GLOBAL
        "R": lambda m: m.call(2),  # REDUCE
        "\x81": lambda m: m.call(2),  # NEWOBJ
        "\x92": lambda m: m.call(3),  # NEWOBJ_EX
        "i": lambda m: m.instance(),  # INST
        "o": lambda m: m.instance_by_stack(),  # OBJ
        "b": lambda m: m.build(),  # BUILD
        "P": lambda m: m.push(PersistentId(m.line()[: 4 * MAX_NAME].decode("utf-8", "replace"))),  # PERSID
        "Q": lambda m: m.push(PersistentId(m.stack.pop())),  # BINPERSID
        "\x82": lambda m: m.push(Global("copyreg", str(m.byte()))),  # EXT1
        "\x83": lambda m: m.push(Global("copyreg", str(m.number(_U16)))),  # EXT2
        "\x84": lambda m: m.push(Global("copyreg", str(m.number(_I32)))),  # EXT4
        # Framing
        "\x80": lambda m: m.skip(1),  # PROTO
        "\x95": lambda m: m.skip(8),  # FRAME
    }.items()
}


def _discard(values: list[object]) -> None:
    """Drop values."""
