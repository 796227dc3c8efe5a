"""The layout of an ONNX model: one protocol buffer message, its tensors somewhere within.

A message is a row of fields, each a key (number and wire type) and a value; fields of wire type 2 have a length and
hold bytes, text, packed numbers or another message. Only `ModelProto` and what leads from it to a `TensorProto` is
followed. A tensor's elements stand in `raw_data`, or packed in a field of their own type; those that the field packs
as numbers of varying length (int32_data and its like) stay in the skeleton. Tensors that are kept in a file of their
own are in that file, of which nothing is known; the model is not asked for it.

The format has no signature: a file counts as ONNX if it begins as a model does and is one row of a model's fields
from first to last byte, with a graph among them.
"""

from __future__ import annotations

from enum import Enum, auto

from modelvault.checkpoint.cursor import Cursor, CursorError
from modelvault.checkpoint.layout import Layout, Segment, Source, opaque
from modelvault.tensors import DType

SIGNATURE = b"\x08"
"""The key of the first field, ir_version."""

MAX_FIELDS = 400_000
"""Fields that are read, in about half a second: the nodes of a large model have 100,000."""
_MIN_MESSAGE = 32  # a shorter message within has no tensor worth a segment
_MAX_DEPTH = 32
_MAX_DIMENSIONS = 64

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types

_MODEL_FIELDS = frozenset({1, 2, 3, 4, 5, 6, 7, 8, 14, 20, 25, 26})
_GRAPH_FIELD = 7


class _Kind(Enum):
    """Messages that are tensors or lead to them."""

    MODEL = auto()
    TRAINING = auto()
    FUNCTION = auto()
    GRAPH = auto()
    NODE = auto()
    ATTRIBUTE = auto()
    SPARSE = auto()
    TENSOR = auto()


_CHILDREN: dict[_Kind, dict[int, _Kind]] = {
    _Kind.MODEL: {_GRAPH_FIELD: _Kind.GRAPH, 20: _Kind.TRAINING, 25: _Kind.FUNCTION},
    _Kind.TRAINING: {1: _Kind.GRAPH, 2: _Kind.GRAPH},
    _Kind.FUNCTION: {7: _Kind.NODE, 11: _Kind.ATTRIBUTE},
    _Kind.GRAPH: {1: _Kind.NODE, 5: _Kind.TENSOR, 15: _Kind.SPARSE},
    _Kind.NODE: {5: _Kind.ATTRIBUTE},
    _Kind.ATTRIBUTE: {
        5: _Kind.TENSOR,
        6: _Kind.GRAPH,
        10: _Kind.TENSOR,
        11: _Kind.GRAPH,
        22: _Kind.SPARSE,
        23: _Kind.SPARSE,
    },
    _Kind.SPARSE: {1: _Kind.TENSOR, 2: _Kind.TENSOR},
}

# TensorProto
_DIMS, _DATA_TYPE, _NAME, _RAW_DATA, _EXTERNAL_DATA = 1, 2, 8, 9, 13
_TYPED_DATA = {4: DType.F32, 10: DType.F64}
_DTYPES = {
    1: DType.F32,
    2: DType.U8,
    3: DType.I8,
    4: DType.U16,
    5: DType.I16,
    6: DType.I32,
    7: DType.I64,
    9: DType.BOOL,
    10: DType.F16,
    11: DType.F64,
    12: DType.U32,
    13: DType.U64,
    14: DType.C64,
    15: DType.C128,
    16: DType.BF16,
    17: DType.F8_E4M3,
    18: DType.F8_E4M3FNUZ,
    19: DType.F8_E5M2,
    20: DType.F8_E5M2FNUZ,
    21: DType.U8,  # two values of four bits, as are 22 and 23; 25 and 26 are four of two bits
    22: DType.U8,
    23: DType.F4X2,
    24: DType.F8_E8M0,
    25: DType.U8,
    26: DType.U8,
}


def onnx_layout(source: Source) -> Layout:
    """Return the layout of an ONNX model, opaque (without a note) if the file is none.

    The layout is what the file claims; `layout.checked` has the last word.
    """
    if not _is_model(source):
        return opaque(source.size)
    walk = _Walk(source)
    walk.run()
    return Layout("onnx", source.size, tuple(walk.segments), notes=tuple(walk.notes()))


def _is_model(source: Source) -> bool:
    """Whether the file is a row of a model's fields, with a graph."""
    cursor = Cursor(source)
    has_graph = False
    try:
        for _ in range(MAX_FIELDS):
            if not cursor.left:
                return has_graph
            number, wire, length = _field(cursor)
            if number not in _MODEL_FIELDS:
                return False
            has_graph |= number == _GRAPH_FIELD and wire == _BYTES
            cursor.skip(length)
    except CursorError:
        return False
    return False


def _field(cursor: Cursor) -> tuple[int, int, int]:
    """Take the key of a field and, of one with a length, the length.

    Returns:
        number, wire type, and how many bytes the value takes from here: none of a number, which was passed over.
    """
    key = cursor.varint()
    wire = key & 7
    if wire == _BYTES:
        return key >> 3, wire, cursor.varint()
    if wire == _VARINT:
        cursor.varint()
        return key >> 3, wire, 0
    if wire in (_FIXED32, _FIXED64):
        return key >> 3, wire, 4 if wire == _FIXED32 else 8
    raise CursorError(f"field of unknown type {wire} at byte {cursor.at}")


class _Walk:
    """The state of one reading: what was found, and how many fields may still be read."""

    __slots__ = ("_cursor", "_external", "_left", "_problem", "segments")

    def __init__(self, source: Source) -> None:
        self._cursor = Cursor(source)
        self._left = MAX_FIELDS
        self._external = 0
        self._problem = ""
        self.segments: list[Segment] = []

    def notes(self) -> list[str]:
        """Return what is worth saying about the file."""
        notes = []
        if self._external:
            notes.append(f"{self._external} tensors are in files of their own, which are kept as bytes")
        if self._problem:
            notes.append(f"model not read to its end: {self._problem}")
        return notes

    def run(self) -> None:
        """Find the tensors; what is damaged ends the reading, and what was found before it stays."""
        cursor = self._cursor
        open_messages = [(_Kind.MODEL, cursor.end)]
        try:
            while open_messages:
                kind, end = open_messages[-1]
                if cursor.at >= end:
                    open_messages.pop()
                    continue
                cursor.end = end
                number, wire, length = self._next()
                child = _CHILDREN[kind].get(number) if wire == _BYTES else None
                if child is None or length < _MIN_MESSAGE:
                    cursor.skip(length)
                elif length > cursor.left or len(open_messages) >= _MAX_DEPTH:
                    raise CursorError(f"message of {length} bytes at byte {cursor.at}")
                elif child is _Kind.TENSOR:
                    cursor.end = cursor.at + length
                    self._tensor()
                else:
                    open_messages.append((child, cursor.at + length))
        except CursorError as error:
            self._problem = str(error)

    def _next(self) -> tuple[int, int, int]:
        """Take the next field's key and length."""
        if not self._left:
            raise CursorError(f"more than {MAX_FIELDS} fields")
        self._left -= 1
        return _field(self._cursor)

    def _tensor(self) -> None:
        """Read a tensor, which takes the cursor's whole stretch."""
        cursor = self._cursor
        dims: list[int] = []
        dtype = DType.BYTES
        name = ""
        data: tuple[int, int, DType | None] | None = None
        is_external = False
        while cursor.left:
            start = cursor.at
            number, wire, length = self._next()
            if number in (_DIMS, _DATA_TYPE) and wire == _VARINT:
                value = self._number(start)
                if number == _DATA_TYPE:
                    dtype = _DTYPES.get(value, DType.BYTES)
                else:
                    dims.append(value)
            elif number == _DIMS and wire == _BYTES:
                dims += self._packed(length)
            elif number == _NAME and wire == _BYTES and length <= 1 << 16:
                name = cursor.take(length).decode("utf-8", "replace")
            else:
                if wire == _BYTES and number in (_RAW_DATA, *_TYPED_DATA) and length:
                    data = (cursor.at, length, _TYPED_DATA.get(number))
                is_external |= number == _EXTERNAL_DATA
                cursor.skip(length)
        self._external += is_external
        if data is not None:
            at, length, typed = data
            if typed is not None and dtype.kind != "complex":  # whose pairs stand in these fields too
                dtype = typed
            self.segments.append(Segment(at, length, dtype, tuple(dims), name))

    def _number(self, start: int) -> int:
        """Return the number of the field that begins at `start`, and stand behind it."""
        cursor = self._cursor
        cursor.at = start
        cursor.varint()
        return cursor.varint()

    def _packed(self, length: int) -> list[int]:
        """Take a row of numbers of `length` bytes."""
        cursor = self._cursor
        if length > 10 * _MAX_DIMENSIONS:
            raise CursorError(f"{length} bytes of dimensions at byte {cursor.at}")
        end = cursor.at + length
        numbers = []
        while cursor.at < end:
            numbers.append(cursor.varint())
        return numbers
