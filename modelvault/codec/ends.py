"""Where the bits of numbers end, and on which steps numbers stand by that.

A multiple of a power of two has no bit below it, and a number with a short mantissa none far below its highest one. So
all that needs to be known of the words of a tensor is how many have their highest and lowest set bit where.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from modelvault.codec import glance, steps
from modelvault.codec.floats import Levels
from modelvault.codec.lattice import MANTISSA_BITS, values_of
from modelvault.codec.order import Words
from modelvault.codec.steps import Grid
from modelvault.tensors import DType

_STRAY_BITS = 64
"""What a word that stands on no step takes, about: itself, and where it is. Four subnormal numbers among ShuffleNet's
59,358 in small tensors, snapshot 24 within 0.00024 and 0.002, made steps so short that all took 48,374 bytes instead of
25,450."""


NO_LOWEST = 200
"""Where there is no bit."""


class Survey(NamedTuple):
    """Of each piece: columns of what `surveyed` returns.

    Attributes:
        same: whether all words are those of the reference.
        uncut: how many words have all their bits, or nearly.
        present: how many of the others are not 0.
        lowest: of the lowest bits of these the lowest, an exponent; `NO_LOWEST` if there are none.
        longest: from the highest to the lowest bit of a word, the most.
        highest: the exponents of their highest bits in all.
    """

    same: Levels
    uncut: Levels
    present: Levels
    lowest: Levels
    longest: Levels
    highest: Levels


class Ends(NamedTuple):
    """Numbers with the same ends, counted together: exponents of the highest and the lowest bit that is set, how many.

    There are few such pairs, whatever the number of words.
    """

    highest: Levels
    lowest: Levels
    times: Levels


def ends_of(words: Words, dtype: DType) -> tuple[Levels, Levels]:
    """Return the exponents of the highest and of the lowest bit that is set in each number.

    Of 0 the lowest is above the highest; what is no number has all its bits.
    """
    values = values_of(words, dtype)
    finite = np.isfinite(values)
    values[~finite] = 0.0
    mantissas, exponents = np.frexp(values)
    odd = np.abs(np.ldexp(mantissas, 53)).astype(np.int64)
    lowest_of_odd = np.frexp((odd & -odd).astype(np.float64))[1] - 1
    highest = exponents.astype(np.int64) - 1
    lowest = highest - 52 + lowest_of_odd
    highest[odd == 0], lowest[odd == 0] = 0, 1
    lowest[~finite] = -MANTISSA_BITS[dtype]
    return highest, lowest


def count(highest: Levels, lowest: Levels) -> Ends:
    """Return how many numbers have the same ends."""
    if not highest.size:
        return Ends(highest, lowest, highest)
    first, least = int(highest.min()), int(lowest.min())
    columns = int(lowest.max()) - least + 1
    times = np.bincount((highest - first) * columns + (lowest - least))
    keys = np.flatnonzero(times)
    rows, places = np.divmod(keys, columns)
    return Ends(rows + first, places + least, times[keys])


def of_numbers(words: Words, dtype: DType) -> Ends:
    """Return the ends of all words that are not 0."""
    highest, lowest = ends_of(words, dtype)
    some = lowest <= highest
    return count(highest[some], lowest[some])


def step_of(words: Words, dtype: DType) -> int | None:
    """Return the exponent of the step whose lattice holds most of these elements for the fewest bits, or None.

    >>> weights = np.arange(-50, 50, dtype="<f4") * np.float32(2**-9)
    >>> step_of(weights.view("<u4"), DType.F32)
    -9
    >>> step_of(np.random.default_rng(1).normal(size=100).astype("<f4").view("<u4"), DType.F32) is None
    True
    """
    if dtype not in MANTISSA_BITS or words.size < glance.LEAST_WORDS or not glance.may_be_coarse(words, dtype):
        return None
    return equal_step(of_numbers(glance.sample(words), dtype), dtype)


def equal_step(ends: Ends, dtype: DType) -> int | None:
    """Return the exponent of the one step of which most numbers are multiples for the fewest bits, or None."""
    if not ends.times.size:
        return None
    exponents = np.unique(ends.lowest)
    full = MANTISSA_BITS[dtype] + 3
    on = ends.lowest >= exponents[:, None]
    along = np.maximum(ends.highest + 1 - exponents[:, None], 0) + 1.5
    alone = ends.highest - ends.lowest + 4.0  # those bits of a mantissa that are set, and more
    bits = (np.where(on, along, alone) * ends.times).sum(axis=1)
    best = int(bits.argmin())
    return int(exponents[best]) if bits[best] < glance.COARSE_SHARE * full * ends.times.sum() else None


def grid_of(ends: Ends, dtype: DType) -> Grid | None:
    """Return the doubling steps that take least for numbers with these ends, or None.

    >>> cut = np.array([1.25, -0.0, 0.015625, 300.5], "<f4").view("<u4")
    >>> grid_of(of_numbers(cut, DType.F32), DType.F32)
    Grid(exponent=-2, mantissa=1)
    """
    if not ends.times.size:
        return None
    # By how many have their highest bit where and no lowest one below: whatever is on some steps is so many of those.
    powers, row = np.unique(ends.highest, return_inverse=True)
    first = int(ends.lowest.min())
    exponents = np.append(np.unique(ends.lowest), powers[-1] + 1)
    times = np.zeros((powers.size, int(exponents[-1]) - first + 1), np.int64)
    np.add.at(times, (row, ends.lowest - first), ends.times)
    above = times[:, ::-1].cumsum(axis=1)[:, ::-1]
    kept = np.unique(np.clip(ends.highest - ends.lowest, 1, MANTISSA_BITS[dtype]))
    on = np.minimum(exponents[:, None, None], powers - kept[:, None])  # (exponents, mantissas, powers)
    bits = np.maximum(kept[:, None], powers - exponents[:, None, None])
    saved = above[np.arange(powers.size), np.maximum(on - first, 0)] * (_STRAY_BITS - bits)
    for place in np.argsort(-saved.sum(axis=2).ravel(), kind="stable").tolist():
        grid = Grid(int(exponents[place // kept.size]), int(kept[place % kept.size]))
        if steps.is_grid(dtype, grid):  # beyond the dtype's numbers are no steps
            return grid
    return None


def surveyed(words: Words, reference: Words | None, dtype: DType, sizes: Levels) -> npt.NDArray[np.int64]:
    """Return what tells how the words of pieces may be counted, (pieces, 6), of words that are cut where not said else.

    The columns are `Survey`'s. Of a piece whose words are the reference's nothing else is told.

    Args:
        words: of all pieces.
        reference: as many, or None.
        dtype: with a float format.
        sizes: words of each piece, none of them 0.
    """
    starts = np.cumsum(sizes) - sizes
    same = np.zeros(sizes.size, np.bool_)
    if reference is not None:
        same = np.logical_and.reduceat(words == reference, starts)
    highest, lowest = ends_of(words, dtype)
    lengths = highest - lowest
    cut = lengths < MANTISSA_BITS[dtype] - glance.SHORT + 1
    present = cut & (lengths >= 0)
    found = np.stack(
        [
            same,
            np.add.reduceat(~cut, starts, dtype=np.int64),
            np.add.reduceat(present, starts, dtype=np.int64),
            np.minimum.reduceat(np.where(present, lowest, NO_LOWEST), starts),
            np.maximum.reduceat(np.where(present, lengths, 0), starts),
            np.add.reduceat(np.where(present, highest, 0), starts),
        ],
        axis=1,
    ).astype(np.int64)
    found[same, 1:] = 0, 0, NO_LOWEST, 0, 0
    return found
