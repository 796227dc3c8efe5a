"""Words that are IEEE floats, taken apart: sign, level and mantissa; and numbers rounded to them.

The *level* of a word is its exponent field. Words of level 0 (zeros, subnormals) and of the highest level (infinities,
NaNs) are *special*: nothing is computed with them. Arithmetic is binary64, each operation rounded by itself to the
nearest, ties to even, which every machine does alike; roundings to shorter formats go through binary32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from modelvault.codec.order import Words
from modelvault.tensors import DType

Numbers: TypeAlias = npt.NDArray[np.float64]
"""One dimension."""

Levels: TypeAlias = npt.NDArray[np.int64]
"""One dimension, or any integer array that tells where a word belongs."""

Mask: TypeAlias = npt.NDArray[np.bool_]
"""One dimension."""

_LANES = 8


@dataclass(frozen=True, slots=True)
class Format:
    """A float format.

    Attributes:
        bits: of a word.
        mantissa: bits of the mantissa field.
    """

    bits: int
    mantissa: int

    @property
    def word_bytes(self) -> int:
        """Bytes of a word."""
        return self.bits // 8

    @property
    def top_level(self) -> int:
        """The level of infinities and NaNs: all ones."""
        return (1 << (self.bits - 1 - self.mantissa)) - 1


BINARY32 = Format(32, 23)
BFLOAT16 = Format(16, 7)
BINARY16 = Format(16, 10)

FORMATS = {
    DType.F32: BINARY32,
    DType.C64: BINARY32,
    DType.BF16: BFLOAT16,
    DType.F16: BINARY16,
    DType.C32: BINARY16,
}
"""The format of words, for each dtype that has one."""


def levels(words: Words, format_: Format) -> Levels:
    """Return the exponent fields.

    >>> levels(np.array([0x3F80, 0x8001, 0xFF80], "<u2"), BFLOAT16).tolist()
    [127, 0, 255]
    """
    found: Levels = ((words >> format_.mantissa) & format_.top_level).astype(np.int64)
    return found


def special(words: Words, format_: Format) -> Mask:
    """Return where words are zeros, subnormals, infinities or NaNs."""
    found: Mask = ((words >> format_.mantissa) + 1) & format_.top_level <= 1
    return found


def numbers(words: Words, format_: Format) -> Numbers:
    """Return the values, exactly; what a NaN becomes is not said."""
    with np.errstate(invalid="ignore"):
        if format_ is BFLOAT16:
            return (words.astype("<u4") << 16).view("<f4").astype(np.float64)
        return words.view(f"<f{format_.word_bytes}").astype(np.float64)


def rounded(values: Numbers, format_: Format) -> Words:
    """Return the words nearest to `values`; for a NaN, a word of the highest level.

    >>> [hex(word) for word in rounded(np.array([1.0, 1.00390625, 1e39, 1.0118]), BFLOAT16)]
    ['0x3f80', '0x3f80', '0x7f80', '0x3f82']
    """
    found: Words
    with np.errstate(all="ignore"):
        single = values.astype("<f4")
        if format_ is BINARY32:
            found = single.view("<u4")
        elif format_ is BINARY16:
            found = single.astype("<f2").view("<u2")
        else:
            bits = single.view("<u4")
            found = ((bits + (0x7FFF + ((bits >> 16) & 1)).astype("<u4")) >> 16).astype("<u2")
            found[np.isnan(single)] = 0x7FC0  # the carry could have made it anything
    return found


def summed(numbers: Numbers) -> float:
    """Return the sum, in the order of compiled loops: eight lanes take terms in turn, and are added up.

    >>> summed(np.arange(20.0))
    190.0
    """
    padded = np.zeros((-(-numbers.size // _LANES), _LANES))
    padded.reshape(-1)[: numbers.size] = numbers
    lanes: Numbers = np.add.accumulate(padded, axis=0)[-1]
    return float(np.add.accumulate(lanes)[-1])
