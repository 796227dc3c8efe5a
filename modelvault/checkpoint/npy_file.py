"""The layout of a .npy file: one array of numpy's.

6 bytes   \\x93NUMPY
2 bytes   version: 1.0, 2.0 or 3.0
2 bytes   length of the header, little-endian; 4 bytes from version 2 on
header    {'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }
rest      the elements

The header is a Python literal. What numpy writes of it is matched by a pattern, not evaluated.
"""

from __future__ import annotations

import re
from math import prod

from modelvault.checkpoint.cursor import Cursor, CursorError
from modelvault.checkpoint.layout import Layout, Segment, Source, opaque
from modelvault.tensors import DType

SIGNATURE = b"\x93NUMPY"
MAX_HEADER_BYTES = 64 << 10
"""numpy itself refuses to load a header of more than 10,000 characters."""

_HEADER = re.compile(
    rb"\{'descr': (?P<descr>'[^'\\]{1,32}'|\[.*\]), "
    rb"'fortran_order': (?P<fortran>True|False), "
    rb"'shape': \((?P<shape>(?:\d{1,19}, ?){0,64}(?:\d{1,19})?)\), \} *\n?",
    re.DOTALL,
)
_SIMPLE = re.compile(rb"'([<>|=])([a-zA-Z])(\d{0,4})'")
_DTYPES = {
    b"b1": DType.BOOL,
    b"i1": DType.I8,
    b"i2": DType.I16,
    b"i4": DType.I32,
    b"i8": DType.I64,
    b"u1": DType.U8,
    b"u2": DType.U16,
    b"u4": DType.U32,
    b"u8": DType.U64,
    b"f2": DType.F16,
    b"f4": DType.F32,
    b"f8": DType.F64,
    b"c8": DType.C64,
    b"c16": DType.C128,
    b"V1": DType.U8,  # how ml_dtypes' 8-bit floats are saved
    b"V2": DType.BF16,  # and its bfloat16: nothing else has elements of two bytes without a name
}


def npy_layout(source: Source, name: str = "array") -> Layout:
    """Return the layout of a .npy file whose array is to be called `name`, opaque if the header cannot be read.

    The layout is what the file claims; `layout.checked` has the last word.
    """
    cursor = Cursor(source)
    try:
        cursor.skip(len(SIGNATURE))
        version = cursor.u16()
        if version not in (1, 2, 3):  # the major number comes first, the minor is 0
            return opaque(source.size, f"npy header of unknown version {version & 0xFF}.{version >> 8}")
        length = cursor.u16() if version == 1 else cursor.u32()
        if length > MAX_HEADER_BYTES:
            return opaque(source.size, f"npy header of {length} bytes is too long to read")
        header = _HEADER.fullmatch(cursor.take(length))
    except CursorError as error:
        return opaque(source.size, f"npy header not read: {error}")
    if header is None:
        return opaque(source.size, "npy header not understood")

    shape = tuple(int(size) for size in header["shape"].split(b",") if size.strip())
    simple = _SIMPLE.fullmatch(header["descr"])
    if simple is not None and simple[2] == b"O":
        return opaque(source.size, "npy file of Python objects, which are not read")
    if simple is None or not simple[3]:
        records = Segment(cursor.at, cursor.left, DType.BYTES, (cursor.left,), name)
        return Layout("npy", source.size, (records,) if cursor.left else (), notes=("records kept as bytes",))
    order, kind, digits = simple.groups()
    # A unicode character takes four bytes.
    width = int(digits) * (4 if kind == b"U" else 1)
    length = prod(shape) * width
    if length > cursor.left:
        return opaque(source.size, f"npy header announces {length} bytes, {cursor.left} are there")
    if not length:
        return Layout("npy", source.size)
    if order == b">" and width > 1:
        swapped = Segment(cursor.at, length, DType.BYTES, (length,), name)
        return Layout("npy (big-endian)", source.size, (swapped,), notes=("big-endian elements kept as bytes",))
    dtype = _DTYPES.get(kind + digits, DType.BYTES)
    if header["fortran"] == b"True":
        shape = shape[::-1]  # as the elements stand in the file
    return Layout("npy", source.size, (Segment(cursor.at, length, dtype, shape, name),))
