"""Residuals as tokens and tails: about how large, in few symbols to be entropy coded, and which one, in plain bits.

Residuals below 4 are tokens by themselves. Of any other, the token tells the highest bit h and the bit below it, and
the h - 1 bits below those are its tail.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from modelvault.codec.floats import Levels
from modelvault.codec.order import Words

Tokens = npt.NDArray[np.uint8]
"""One dimension."""


def alphabet(bits: int) -> int:
    """Return how many tokens residuals of this many bits have."""
    return 2 * bits


def tokens(residuals: Words) -> Tokens:
    """Return the tokens of residuals of at most 32 bits.

    >>> tokens(np.array([0, 1, 3, 4, 6, 2**32 - 1], "<u4")).tolist()
    [0, 1, 3, 4, 5, 63]
    """
    # Sign, exponent and first mantissa bit of a binary64 are at once 2 * h and the bit below the highest.
    found = (residuals.astype(np.float64).view(np.int64) >> 51) - 2 * 1023
    return np.where(residuals < 2, residuals, found).astype(np.uint8)


def tail_widths(found: Tokens) -> Levels:
    """Return how many bits of tail go with each token."""
    widths: Levels = np.maximum(found.astype(np.int64) // 2 - 1, 0)
    return widths


def tails(residuals: Words, widths: Levels) -> npt.NDArray[np.uint64]:
    """Return the tails of residuals whose tokens have these widths of tails."""
    found: npt.NDArray[np.uint64] = residuals.astype(np.uint64) & ((1 << widths) - 1).astype(np.uint64)
    return found


def residuals(found: Tokens, tails_: npt.NDArray[np.uint64], bits: int) -> Words:
    """Return the residuals, of 16 or 32 bits, that tokens and tails stand for."""
    high = np.where(found < 2, found, 2 | (found & 1)).astype(np.uint64) << tail_widths(found).astype(np.uint64)
    words: Words = (high | tails_).astype(f"<u{bits // 8}")
    return words
