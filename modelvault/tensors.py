"""What a tensor's bytes hold: dtype tags and shapes.

A dtype here is a hint for compression. It never enters an id and a wrong one costs ratio, not bytes. The table is
literal, codes are part of the format and never reused. No numpy: records that name a dtype are read by light commands.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Literal

Kind = Literal["float", "int", "uint", "bool", "complex", "bytes"]


@dataclass(frozen=True, slots=True)
class DTypeInfo:
    """One row of the dtype table: its code on the wire, bytes per element and what the bits mean."""

    code: int
    size: int
    kind: Kind


class DType(enum.Enum):
    """A dtype tag; the value is its row of the table. Names follow safetensors where it has one."""

    BYTES = DTypeInfo(0, 1, "bytes")  # opaque: no meaning known
    BOOL = DTypeInfo(1, 1, "bool")
    U8 = DTypeInfo(2, 1, "uint")
    I8 = DTypeInfo(3, 1, "int")
    U16 = DTypeInfo(4, 2, "uint")
    I16 = DTypeInfo(5, 2, "int")
    U32 = DTypeInfo(6, 4, "uint")
    I32 = DTypeInfo(7, 4, "int")
    U64 = DTypeInfo(8, 8, "uint")
    I64 = DTypeInfo(9, 8, "int")
    F16 = DTypeInfo(10, 2, "float")
    BF16 = DTypeInfo(11, 2, "float")
    F32 = DTypeInfo(12, 4, "float")
    F64 = DTypeInfo(13, 8, "float")
    F8_E4M3 = DTypeInfo(14, 1, "float")  # torch float8_e4m3fn
    F8_E5M2 = DTypeInfo(15, 1, "float")
    F8_E4M3FNUZ = DTypeInfo(16, 1, "float")
    F8_E5M2FNUZ = DTypeInfo(17, 1, "float")
    F8_E8M0 = DTypeInfo(18, 1, "uint")  # an exponent: its order is that of the unsigned byte
    F4X2 = DTypeInfo(19, 1, "bytes")  # two packed 4-bit floats
    C32 = DTypeInfo(20, 4, "complex")  # pairs of F16
    C64 = DTypeInfo(21, 8, "complex")  # pairs of F32
    C128 = DTypeInfo(22, 16, "complex")  # pairs of F64

    code: int
    """The number that stands for this dtype on the wire."""

    size: int
    """Bytes per element."""

    kind: Kind
    """What the bits mean."""

    # Asked for with every chunk: by way of the value, and by the hash of the name, each takes five times as long.
    def __init__(self, info: DTypeInfo) -> None:
        self.code, self.size, self.kind = info.code, info.size, info.kind

    __hash__ = object.__hash__


BY_CODE: dict[int, DType] = {dtype.code: dtype for dtype in DType}
"""Every dtype by its code on the wire."""

CHUNK_BYTES = 1 << 20
"""Raw bytes of a full chunk: a multiple of every element size; LMDB values of this size waste 0.4 % of their pages."""


def chunk_sizes(nbytes: int) -> list[int]:
    """Return the raw sizes of a tensor's chunks: full ones, then what is left.

    >>> chunk_sizes(2 * CHUNK_BYTES + 3)
    [1048576, 1048576, 3]
    """
    full, rest = divmod(nbytes, CHUNK_BYTES)
    return [CHUNK_BYTES] * full + ([rest] if rest else [])
