"""Streams of bits, the lowest bit of a byte first, and Exp-Golomb codes for numbers that are mostly small.

What is written is gathered as fields, a value and a width each, and joined at once. The code EG(k) of a number is z
zero bits, a one, z bits u and k bits l, where the number is ((2^z + u - 1) << k) + l.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from modelvault.codec.errors import CodecError
from modelvault.codec.floats import Levels

if TYPE_CHECKING:
    from typing_extensions import Buffer

Fields = tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]
"""Values and their widths in bits, at most 64; a value has no bits beyond its width."""

MAX_ZEROS = 24
"""Zero bits that an Exp-Golomb code begins with at most."""


def fields(values: npt.ArrayLike, width: int | npt.ArrayLike) -> Fields:
    """Return numbers of one width, or of a width each, as fields."""
    found = np.atleast_1d(np.asarray(values)).astype(np.uint64)
    return found, np.broadcast_to(np.asarray(width, np.int64), found.shape)


def golomb(values: npt.ArrayLike, k: int) -> Fields:
    """Return the codes EG(k) of numbers below 2^(24 + k) - 1.

    >>> join([golomb([0, 1, 2], 0)]).hex()
    '65'
    """
    numbers = np.atleast_1d(np.asarray(values)).astype(np.int64)
    zeros = _zeros(numbers, k)
    high = (numbers >> k) + 1 - (1 << zeros)  # u
    low = numbers & ((1 << k) - 1)
    codes = (1 << zeros) | high << (zeros + 1) | low << (2 * zeros + 1)
    return codes.astype(np.uint64), 2 * zeros + 1 + k


def golomb_bits(values: Levels, k: int) -> int:
    """Return how many bits `golomb` takes."""
    return int((2 * _zeros(values, k) + 1 + k).sum())


def _zeros(values: Levels, k: int) -> Levels:
    exponents: Levels = np.frexp(((values >> k) + 1).astype(np.float64))[1].astype(np.int64) - 1
    return exponents


def join(parts: list[Fields]) -> bytes:
    """Return all fields, one behind the other, filled up with zero bits to a whole byte."""
    values = np.concatenate([part[0] for part in parts]) if parts else np.empty(0, np.uint64)
    widths = np.concatenate([part[1] for part in parts]) if parts else np.empty(0, np.int64)
    present = widths > 0
    if not present.all():
        values, widths = values[present], widths[present]
    ends = np.cumsum(widths)
    total = int(ends[-1]) if ends.size else 0
    out = np.zeros((total + 63) // 64 + 1, "<u8")
    if total:
        starts = ends - widths
        places, offsets = starts >> 6, (starts & 63).astype(np.uint64)
        # Fields share no bit, so those that begin in the same 64 bits add up; at most one of them reaches beyond.
        first = np.flatnonzero(np.diff(places, prepend=-1))
        out[places[first]] = np.add.reduceat(values << offsets, first)
        over = np.flatnonzero((starts & 63) + widths > 64)
        out[places[over] + 1] |= values[over] >> (np.uint64(64) - offsets[over])
    return out.tobytes()[: (total + 7) // 8]


def split(data: Buffer, widths: Levels) -> npt.NDArray[np.uint64]:
    """Return the values of fields of the given widths, 0 to 57 bits, that `data` holds and nothing but zero bits after.

    Raises:
        CodecError: `data` is shorter or longer, or what fills up the last byte is not zero.
    """
    data = memoryview(data)
    ends = np.cumsum(widths)
    total = int(ends[-1]) if ends.size else 0
    if len(data) != (total + 7) // 8:
        raise CodecError(f"{len(data)} bytes of tails, expected {(total + 7) // 8}")
    if total & 7 and data[-1] >> (total & 7):
        raise CodecError("bits after the last tail are not zero")
    padded = np.zeros(len(data) + 16, np.uint8)
    padded[: len(data)] = data
    # Every eight bytes in a row, at every place; 57 bits are in the eight that begin where the field begins.
    windows = np.ndarray(len(data) + 8, "<u8", padded.data, strides=(1,))
    starts = ends - widths
    found: npt.NDArray[np.uint64] = windows[starts >> 3] >> (starts & 7).astype(np.uint64)
    found &= (np.uint64(1) << widths.astype(np.uint64)) - np.uint64(1)
    return found


class BitWriter:
    """Writes fields one by one, where they are few."""

    __slots__ = ("_count", "_held", "_out")

    _MOST_HELD = 512
    """Bits: shifting more at once takes longer than giving them away."""

    def __init__(self) -> None:
        self._out = bytearray()
        self._held, self._count = 0, 0

    def uint(self, value: int, width: int) -> None:
        """Write a number of `width` bits."""
        self._held |= value << self._count
        self._count += width
        if self._count > self._MOST_HELD:
            whole = self._count >> 3
            self._out += (self._held & (1 << 8 * whole) - 1).to_bytes(whole, "little")
            self._held >>= 8 * whole
            self._count &= 7

    def golomb(self, value: int, k: int) -> None:
        """Write a number as EG(k)."""
        high = (value >> k) + 1
        zeros = high.bit_length() - 1
        code = 1 << zeros | (high - (1 << zeros)) << zeros + 1 | (value & (1 << k) - 1) << 2 * zeros + 1
        self.uint(code, 2 * zeros + 1 + k)

    def getvalue(self) -> bytes:
        """Return all that was written, filled up with zero bits to a whole byte."""
        return bytes(self._out) + self._held.to_bytes((self._count + 7) >> 3, "little")


class BitReader:
    """Reads fields one by one, from the first bit of some bytes on."""

    __slots__ = ("_bits", "_data", "_position")

    def __init__(self, data: Buffer) -> None:
        self._data = bytes(data)
        self._bits = 8 * len(self._data)
        self._position = 0

    @property
    def remaining(self) -> int:
        """How many bits are left."""
        return self._bits - self._position

    def uint(self, width: int) -> int:
        """Read a number of at most 57 bits.

        Raises:
            CodecError: the bits run out.
        """
        value = self._peek() & ((1 << width) - 1)
        self._skip(width)
        return value

    def golomb(self, k: int) -> int:
        """Read a number coded as EG(k), k at most 7.

        Raises:
            CodecError: the bits run out, or the code begins with too many zeros.
        """
        window = self._peek()
        zeros = (window & -window).bit_length() - 1
        if not 0 <= zeros <= MAX_ZEROS:
            if self.remaining <= MAX_ZEROS:
                raise CodecError("bits of the head run out")
            raise CodecError(f"Exp-Golomb code begins with more than {MAX_ZEROS} zeros")
        self._skip(2 * zeros + 1 + k)
        window >>= zeros
        return ((window >> 1 & ((1 << zeros) - 1)) + (1 << zeros) - 1 << k) + (window >> zeros + 1 & ((1 << k) - 1))

    def end(self) -> int:
        """Return how many whole bytes were begun.

        Raises:
            CodecError: the bits that fill up the last of them are not zero.
        """
        if self._position & 7 and self._data[self._position >> 3] >> (self._position & 7):
            raise CodecError("bits after the head are not zero")
        return (self._position + 7) >> 3

    def _peek(self) -> int:
        """Return the next 57 bits or more, zeros after the end."""
        place = self._position >> 3
        return int.from_bytes(self._data[place : place + 8], "little") >> (self._position & 7)

    def _skip(self, width: int) -> None:
        if width > self.remaining:
            raise CodecError("bits of the head run out")
        self._position += width
