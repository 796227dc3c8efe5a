"""Whether a bound holds for each of some elements, and what was measured of all.

What becomes of elements is computed as it will be read, and compared with them in binary64, where the difference is
exact. Where a bound does not hold the element stays.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from modelvault.codec import order
from modelvault.codec.lattice import values_of, words_of
from modelvault.codec.order import Words
from modelvault.tensors import DType


class Bound(enum.IntEnum):
    """What the bound of an element is measured by; the value is its code on the wire."""

    ABS = 1  # log(1 + eps), the same for all
    REL = 2  # eps times the element's magnitude
    PAPER = 3  # log(1 + eps), by multiples of the paper's exact step


class Rounded(NamedTuple):
    """Rounded elements.

    Attributes:
        raw: their bytes, as many as were given.
        max_abs: largest difference from the original.
        max_rel: largest difference as a share of the original's magnitude; 0 counts for no difference.
        changed: how many words differ from the original.
        kept: how many words were left as they are because the bound could not be promised for them.
    """

    raw: bytes
    max_abs: float
    max_rel: float
    changed: int
    kept: int


def on_lattice(words: Words, dtype: DType, exponent: int) -> Words:
    """Return the words of the nearest multiples of a power of two, ties to the even one; 0 is positive.

    Args:
        words: any; what is no number gives words that `checked` does not take.
        dtype: what they are.
        exponent: of the power of two.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        multiples = np.rint(np.ldexp(values_of(words, dtype), -exponent))
        multiples += 0.0  # no negative zeros
        return words_of(np.ldexp(multiples, exponent), dtype)


def checked(
    data: npt.NDArray[np.uint8],
    words: Words,
    new: Words,
    dtype: DType,
    bounds: Mapping[Bound, float],
    limits: npt.NDArray[np.float64] | float | None = None,
) -> Rounded:
    """Return the new words with the old one wherever a bound or a limit does not hold, and what was measured.

    Args:
        data: the bytes, of which all that is no whole word stays.
        words: the words that they hold.
        new: as many; they are changed in place.
        dtype: what they are.
        bounds: the eps of each bound.
        limits: how far each may be off, or all of them.
    """
    before, after = values_of(words, dtype), values_of(new, dtype)
    with np.errstate(invalid="ignore", over="ignore"):
        error = np.abs(after - before)
        magnitude = np.abs(before)
        good = np.isfinite(before) & np.isfinite(after) & (before != 0)
        for bound, eps in bounds.items():
            good &= error <= (eps * magnitude if bound is Bound.REL else math.log1p(eps))
        if limits is not None:
            good &= error <= limits
    bad = ~good
    new[bad] = words[bad]
    error[bad] = 0.0
    with np.errstate(over="ignore"):
        shares = np.divide(error, magnitude, out=np.zeros_like(error), where=error > 0)
    out = bytearray(data)
    order.words(np.frombuffer(out, np.uint8), dtype)[:] = new
    changed = int(np.count_nonzero(new != words))
    return Rounded(bytes(out), _largest(error), _largest(shares), changed, int(bad.sum()))


def _largest(values: npt.NDArray[np.float64]) -> float:
    return float(values.max()) if values.size else 0.0
