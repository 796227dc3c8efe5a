"""Where the bits of numbers end, and on which steps numbers stand by that.

A multiple of a power of two has no bit below it, and a number with a short mantissa none far below its highest one. So
all that needs to be known of the words of a tensor is how many have their highest and lowest set bit where.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

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
    highest, lowest, times = ends
    best, least = None, 0
    lengths = highest - lowest
    most = np.unique(np.maximum(lengths, 1))
    most = most[most <= MANTISSA_BITS[dtype]]
    for exponent in [*np.unique(lowest).tolist(), int(highest.max()) + 1]:
        below = lowest < exponent
        kept = most[: int(np.searchsorted(most, int(lengths[below].max(initial=1)), side="right"))]
        on = ~below | (lengths <= kept[:, None])  # the others are told as they are
        taken = np.where(on, np.maximum(kept[:, None], highest - exponent), _STRAY_BITS) @ times
        for place in np.argsort(taken, kind="stable").tolist():
            grid = Grid(exponent, int(kept[place]))
            if best is not None and taken[place] >= least:
                break
            if steps.is_grid(dtype, grid):  # beyond the dtype's numbers are no steps
                best, least = grid, int(taken[place])
                break
    return best
