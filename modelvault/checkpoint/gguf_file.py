"""The layout of a GGUF file: metadata, a table of tensors, and their data, aligned.

4 bytes   GGUF
4 bytes   version: 2 or 3, little-endian; 1 had counts of 32 bits
8 bytes   number of tensors
8 bytes   number of metadata entries
entries   key, type of value, value
table     name, number of dimensions, dimensions (innermost first), type, offset
data      begins at the next multiple of `general.alignment`, which offsets count from

A quantised type packs a block of values into so many bytes, scale and all: there is no element to predict, so its
tensors are a row of bytes.
"""

from __future__ import annotations

from math import prod

from modelvault.checkpoint.cursor import Cursor, CursorError
from modelvault.checkpoint.layout import MAX_SEGMENTS, Layout, Segment, Source, opaque
from modelvault.tensors import DType

SIGNATURE = b"GGUF"
MAX_VALUES = 1_500_000
"""Metadata values that are walked one by one, in about half a second. A vocabulary has some 300,000 words and as many
merges; arrays of numbers are passed over whole."""

_MAX_DIMENSIONS = 4
_DEFAULT_ALIGNMENT = 32
_ALIGNMENT_KEY = b"general.alignment"

# Metadata types: bytes of a fixed-width value.
_WIDTHS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_UINT32, _STRING, _ARRAY = 4, 8, 9
_MAX_NESTING = 4  # of arrays in arrays, which no writer makes

_PLAIN = {
    0: DType.F32,
    1: DType.F16,
    24: DType.I8,
    25: DType.I16,
    26: DType.I32,
    27: DType.I64,
    28: DType.F64,
    30: DType.BF16,
}
# Quantised types: values in a block, bytes of a block. Ids that are missing were taken back.
_BLOCKS = {
    2: (32, 18),  # Q4_0
    3: (32, 20),  # Q4_1
    6: (32, 22),  # Q5_0
    7: (32, 24),  # Q5_1
    8: (32, 34),  # Q8_0
    9: (32, 40),  # Q8_1
    10: (256, 84),  # Q2_K
    11: (256, 110),  # Q3_K
    12: (256, 144),  # Q4_K
    13: (256, 176),  # Q5_K
    14: (256, 210),  # Q6_K
    15: (256, 292),  # Q8_K
    16: (256, 66),  # IQ2_XXS
    17: (256, 74),  # IQ2_XS
    18: (256, 98),  # IQ3_XXS
    19: (256, 50),  # IQ1_S
    20: (32, 18),  # IQ4_NL
    21: (256, 110),  # IQ3_S
    22: (256, 82),  # IQ2_S
    23: (256, 136),  # IQ4_XS
    29: (256, 56),  # IQ1_M
    34: (256, 54),  # TQ1_0
    35: (256, 66),  # TQ2_0
    39: (32, 17),  # MXFP4
    40: (64, 36),  # NVFP4
    41: (128, 18),  # Q1_0
}


def gguf_layout(source: Source) -> Layout:
    """Return the layout of a GGUF file, opaque if its tables cannot be read.

    The layout is what the file claims; `layout.checked` has the last word.
    """
    cursor = Cursor(source, len(SIGNATURE))
    try:
        version = cursor.u32()
        if version and not version & 0xFFFF:
            return Layout("gguf (big-endian)", source.size, notes=("big-endian file kept as bytes",))
        if version not in (2, 3):
            return opaque(source.size, f"GGUF file of unknown version {version}")
        tensors, entries = cursor.u64(), cursor.u64()
        if tensors > MAX_SEGMENTS or entries > MAX_VALUES:
            return opaque(source.size, f"GGUF file of {tensors} tensors and {entries} entries is beyond the limits")
        alignment = _read_metadata(cursor, entries)
        table = [_read_tensor(cursor) for _ in range(tensors)]
    except CursorError as error:
        return opaque(source.size, f"GGUF header not read: {error}")
    if not alignment:
        return opaque(source.size, "GGUF file with an alignment of 0")

    data = -(-cursor.at // alignment) * alignment
    segments: list[Segment] = []
    notes: list[str] = []
    for name, shape, kind, offset in table:
        segment = _segment(name, shape, kind, data + offset)
        if segment is None:
            notes.append(f"{name}: unknown type {kind}, left as it is")
        elif segment.length:
            segments.append(segment)
    return Layout("gguf", source.size, tuple(segments), notes=tuple(notes))


def _read_metadata(cursor: Cursor, entries: int) -> int:
    """Pass over the metadata and return the alignment it sets."""
    alignment = _DEFAULT_ALIGNMENT
    budget = MAX_VALUES
    for _ in range(entries):
        length = cursor.u64()
        key = cursor.take(length) if length == len(_ALIGNMENT_KEY) else b""
        if not key:
            cursor.skip(length)
        kind = cursor.u32()
        if key == _ALIGNMENT_KEY and kind == _UINT32:
            alignment = cursor.u32()
        else:
            budget = _skip_value(cursor, kind, budget)
    return alignment


def _skip_value(cursor: Cursor, kind: int, budget: int, nesting: int = 0) -> int:
    """Pass over a value of the metadata; return how many more may be walked."""
    if kind in _WIDTHS:
        cursor.skip(_WIDTHS[kind])
    elif kind == _STRING:
        cursor.skip(cursor.u64())
    elif kind == _ARRAY and nesting < _MAX_NESTING:
        kind, count = cursor.u32(), cursor.u64()
        if kind in _WIDTHS:
            cursor.skip(_WIDTHS[kind] * count)
        elif kind == _STRING:
            if count > budget:
                raise CursorError(f"array of {count} strings at byte {cursor.at}")
            for _ in range(count):
                cursor.skip(cursor.u64())
            budget -= count
        else:
            for _ in range(min(count, budget + 1)):
                budget = _skip_value(cursor, kind, budget, nesting + 1)
    else:
        raise CursorError(f"metadata of unknown type {kind} at byte {cursor.at}")
    if budget <= 0:
        raise CursorError(f"more than {MAX_VALUES} values of metadata")
    return budget - 1


def _read_tensor(cursor: Cursor) -> tuple[str, tuple[int, ...], int, int]:
    """Return name, shape (outermost first), type and offset of a tensor."""
    length = cursor.u64()
    if length > cursor.left or length > 1 << 16:
        raise CursorError(f"name of {length} bytes at byte {cursor.at}")
    name = cursor.take(length).decode("utf-8", "replace")
    count = cursor.u32()
    if count > _MAX_DIMENSIONS:
        raise CursorError(f"tensor of {count} dimensions at byte {cursor.at}")
    dimensions = [cursor.u64() for _ in range(count)]
    return name, tuple(reversed(dimensions)), cursor.u32(), cursor.u64()


def _segment(name: str, shape: tuple[int, ...], kind: int, offset: int) -> Segment | None:
    """Return the segment of a tensor, None if its type is not known."""
    values = prod(shape)
    if kind in _PLAIN:
        dtype = _PLAIN[kind]
        return Segment(offset, values * dtype.size, dtype, shape, name)
    if kind in _BLOCKS:
        block, size = _BLOCKS[kind]
        length = values // block * size
        return Segment(offset, length, DType.U8, (length,), name)
    return None
