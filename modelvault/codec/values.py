"""Elements as the numbers they stand for, whatever dtype they have.

numpy knows no bfloat16 and no 8-bit floats: the first is the upper half of a float32, the others have tables of 256
values. Everything becomes float64, which holds every value of every float dtype exactly, and integers up to 2^53.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from modelvault.tensors import DType

if TYPE_CHECKING:
    from typing_extensions import Buffer

Values: TypeAlias = npt.NDArray[np.float64]
"""float64, one dimension."""

_NUMPY = {
    DType.BOOL: "u1",
    DType.U8: "u1",
    DType.I8: "i1",
    DType.U16: "<u2",
    DType.I16: "<i2",
    DType.U32: "<u4",
    DType.I32: "<i4",
    DType.U64: "<u8",
    DType.I64: "<i8",
    DType.F16: "<f2",
    DType.F32: "<f4",
    DType.F64: "<f8",
    DType.C32: "<f2",
    DType.C64: "<f4",
    DType.C128: "<f8",
}

# Exponent bits, mantissa bits, bias.
_SMALL_FLOATS = {
    DType.F8_E4M3: (4, 3, 7),
    DType.F8_E5M2: (5, 2, 15),
    DType.F8_E4M3FNUZ: (4, 3, 8),
    DType.F8_E5M2FNUZ: (5, 2, 16),
}

NPY_DTYPES = {
    DType.BYTES: "|u1",
    DType.BOOL: "|b1",
    DType.U8: "|u1",
    DType.I8: "|i1",
    DType.U16: "<u2",
    DType.I16: "<i2",
    DType.U32: "<u4",
    DType.I32: "<i4",
    DType.U64: "<u8",
    DType.I64: "<i8",
    DType.F16: "<f2",
    DType.BF16: "<f4",
    DType.F32: "<f4",
    DType.F64: "<f8",
    DType.F8_E4M3: "<f4",
    DType.F8_E5M2: "<f4",
    DType.F8_E4M3FNUZ: "<f4",
    DType.F8_E5M2FNUZ: "<f4",
    DType.F8_E8M0: "<f4",
    DType.F4X2: "|u1",
    DType.C32: "<c8",
    DType.C64: "<c8",
    DType.C128: "<c16",
}
"""What each dtype is in an npy file: itself, or the smallest dtype of numpy's that holds its every value."""


def has_values(dtype: DType) -> bool:
    """Return whether elements of a dtype are numbers: opaque bytes and packed 4-bit floats are not.

    >>> has_values(DType.BF16), has_values(DType.BYTES)
    (True, False)
    """
    return dtype.kind != "bytes"


def values(raw: Buffer, dtype: DType) -> Values:
    """Return elements as float64; a complex one gives its real part, then its imaginary part.

    Raises:
        ValueError: the dtype has no values, or the bytes end inside an element.

    >>> values(bytes.fromhex("803f 00c0"), DType.BF16).tolist()
    [1.0, -2.0]
    """
    data = np.frombuffer(memoryview(raw), np.uint8)
    if not has_values(dtype):
        raise ValueError(f"{dtype.name} has no values")
    with np.errstate(invalid="ignore"):  # a signalling NaN becomes a quiet one
        if dtype in _NUMPY:
            return data.view(_NUMPY[dtype]).astype(np.float64)
        if dtype is DType.BF16:
            return _bf16(data).astype(np.float64)
    found: Values = _table(dtype)[data]
    return found


def npy_bytes(raw: Buffer, dtype: DType) -> bytes:
    """Return elements as `NPY_DTYPES` says they stand in an npy file."""
    data = np.frombuffer(memoryview(raw), np.uint8)
    if dtype is DType.BF16:
        return _bf16(data).tobytes()
    if dtype in _SMALL_FLOATS or dtype is DType.F8_E8M0:
        return _table(dtype).astype("<f4")[data].tobytes()
    if dtype is DType.C32:
        with np.errstate(invalid="ignore"):
            return data.view("<f2").astype("<f4").tobytes()
    return data.tobytes()


def plain_numbers(raw: Buffer, dtype: DType) -> list[int] | list[float] | list[bool]:
    """Return elements as Python's own numbers: integers stay integers, a complex one gives its two parts."""
    data = np.frombuffer(memoryview(raw), np.uint8)
    found: list[int] | list[float] | list[bool]
    if dtype is DType.BOOL:
        found = (data != 0).tolist()
    elif not has_values(dtype):
        found = data.tolist()
    elif dtype.kind in ("int", "uint") and dtype in _NUMPY:
        found = data.view(_NUMPY[dtype]).tolist()
    else:
        found = values(raw, dtype).tolist()
    return found


def _bf16(data: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    words = data.view("<u2").astype("<u4")
    words <<= np.uint32(16)
    found: npt.NDArray[np.float32] = words.view("<f4")
    return found


@functools.cache
def _table(dtype: DType) -> Values:
    if dtype is DType.F8_E8M0:
        return np.array([math.ldexp(1.0, code - 127) for code in range(255)] + [math.nan])
    return np.array([_small_float(code, dtype) for code in range(256)])


def _small_float(code: int, dtype: DType) -> float:
    """Return the value of an 8-bit float.

    >>> [_small_float(code, DType.F8_E4M3) for code in (0x38, 0x7E, 0x01)]
    [1.0, 448.0, 0.001953125]
    """
    exponent_bits, mantissa_bits, bias = _SMALL_FLOATS[dtype]
    sign = -1.0 if code & 0x80 else 1.0
    exponent, mantissa = (code & 0x7F) >> mantissa_bits, code & ((1 << mantissa_bits) - 1)
    top = (1 << exponent_bits) - 1
    if dtype in (DType.F8_E4M3FNUZ, DType.F8_E5M2FNUZ):
        if code == 0x80:  # where negative zero would be; there are no infinities
            return math.nan
    elif dtype is DType.F8_E4M3:
        if code & 0x7F == 0x7F:
            return math.nan
    elif exponent == top:
        return math.nan if mantissa else sign * math.inf
    if exponent == 0:
        return sign * math.ldexp(mantissa, 1 - bias - mantissa_bits)
    return sign * math.ldexp((1 << mantissa_bits) + mantissa, exponent - bias - mantissa_bits)
