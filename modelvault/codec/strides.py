"""By how many whole strides words moved, but for decay and rounding: what an optimizer of signs leaves.

Lion adds the learning rate to each weight or takes it away, at every step ("Symbolic Discovery of Optimization
Algorithms", 2023, algorithm 2), and so does SGD by signs. While the rate stays, weights are `a * reference + s * q` in
the end, q being whole numbers. Words that were nearly the same decayed alike, so the *stride* shows in how much further
one moved than the other; with it decay shows in small words, where it is less than a stride, and then in larger ones.

Everything is binary64 or said to be binary32, and sums are `floats.summed`: compiled loops find the same.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from modelvault.codec import floats, order
from modelvault.codec.floats import BINARY32, Levels, Numbers
from modelvault.codec.order import Words

WIDEST = 8
"""Bits of the number of strides by which a word moved, at most."""

_MOST = 127
"""Strides and decay are fitted to words that moved by no more."""

_MOVED_SHARE = 1 / 4
"""Fewer words that moved are told as well without strides."""

_LOW = 3
_MOST_LOOKED_AT, _LEAST_LOOKED_AT = 64, 32
"""Words so many powers of two below the largest are small, and so many of them are looked at."""

_EVERY = 4
"""A quarter of few words tells how large the largest are, well enough."""

_NEAREST, _CANDIDATES, _PARTS = 16, 8, 3
"""Of neighbours, those that are least apart tell the stride: some are by one, two or three."""

_FARTHEST = 1 / 256
"""A stride is at least this part of how far any two neighbours are apart: less tells nothing."""

_LEAST_ULPS = 16
"""Of the largest word, in a stride: all words are multiples of some units, and nothing is gained by those."""

_NEAR = 24.5  # strides
_LEAST_NEAR = 8
_ON = 1 / 8
_ON_SHARE = 7 / 8
"""So many of those near enough must be whole strides apart, give or take an eighth: a quarter is by chance. And so many
of all words must have moved by whole ones in the end. Of 4,246 chunks after other optimizers 63 seem to have moved so
(all MiniLM's), and none is found to have; of ShuffleNet's 30 steps of Lion apart all 64, and of those 60, 90 and 120
steps apart all 32 each."""

_BETWEEN, _SOME = 1 / 4, 1 / 4

_FEW_STRIDES = 8
"""Neighbours that are so far apart at most tell the stride together: how far off it is counts once a stride."""

_FIRST_BELOW, _LEAST_FITTED = 8, 16
"""Decay is fitted to words so many powers of two below the largest first, if they are enough, then to larger ones."""

_UNEVEN = 5 / 4
"""Counts are even as long as two of them are the same at most so many times as often as if all numbers of their width
were equally frequent. That loses log2 of it at most, 0.32 bits: of ShuffleNet after Lion 0.08 of 12.0 where there are
30 steps between, and 0.11 where it is 60 or 120; where it is 90, 0.55 would be lost. It takes 0.5 ns a number less to
encode and to decode."""

_INFINITY = 0x7F800000
_TO_INTEGERS = 1.5 * 2.0**52


class Strides(NamedTuple):
    """How words moved.

    Attributes:
        a: what the reference is multiplied with.
        s: the stride.
        odd: whether all moved by half a stride besides, as after an odd number of steps: these are two apart then.
    """

    a: float
    s: float
    odd: bool = False

    def numbers(self, counts: npt.NDArray[np.int8]) -> Numbers:
        """Return how many strides that is, halves too."""
        return counts.astype(np.float64) + self.odd / 2


def stride_among(words: Words, reference: Words) -> float:
    """Return the stride by which the small ones of a few words seem to have moved, 0 if there is none.

    Args:
        words: of F32.
        reference: as many.
    """
    magnitudes = _magnitudes(reference)
    finite = np.maximum(_magnitudes(words), magnitudes) < _INFINITY
    some = magnitudes[::_EVERY]
    top = int(some[some < _INFINITY].max(initial=0))
    low = np.flatnonzero(finite & (magnitudes + (_LOW << BINARY32.mantissa) <= top))[:_MOST_LOOKED_AT]
    if low.size < _LEAST_LOOKED_AT:
        return 0.0
    x = reference[low].view("<f4")
    moved = words[low].view("<f4").astype(np.float64) - x
    apart = np.abs(np.diff(moved[np.argsort(x, kind="stable")]))
    s = _candidate(apart, _least(top))
    if not s > 0:
        return 0.0
    q = _nearest(apart * (1 / s))
    q[~(q <= _FEW_STRIDES)] = 0.0
    squares = floats.summed(q * q)
    return floats.summed(q * apart) / squares if squares > 0 else 0.0


def _candidate(apart: Numbers, least: float) -> float:
    """Return of what many of some distances are nearly multiples, 0 if of nothing; roughly, as binary32 has it."""
    best, most = 0.0, 0
    with np.errstate(all="ignore"):
        distances = apart.astype("<f4")
        least = max(float(distances.max()) * _FARTHEST, least)
        nearest = np.sort(distances[distances >= least])[:_NEAREST]
        for distance in nearest[:_CANDIDATES]:
            for stride in distance / np.arange(1, _PARTS + 1, dtype="<f4"):
                strides = nearest * (np.float32(1) / stride)
                near = strides <= _NEAR
                count = int(np.count_nonzero(near))
                on = int(np.count_nonzero(near & (np.abs(strides - np.rint(strides)) <= _ON)))
                if stride >= least and count >= _LEAST_NEAR and on >= _ON_SHARE * count and on > most:
                    best, most = float(stride), on
    return best


def fitted(words: Words, reference: Words) -> Strides | None:
    """Return by which strides a few words moved, None if they did not.

    Args:
        words: of F32.
        reference: as many.
    """
    s = stride_among(words, reference)
    if not s > 0:
        return None
    with np.errstate(all="ignore"):  # of what is fitted badly, and left out
        return _fitted(words, reference, s)


def _fitted(words: Words, reference: Words, s: float) -> Strides | None:
    finite = np.maximum(_magnitudes(words), _magnitudes(reference)) < _INFINITY
    magnitudes = np.where(finite, _magnitudes(reference), 0)
    x = np.where(finite, floats.numbers(reference, BINARY32), 0.0)
    d = np.where(finite, floats.numbers(words, BINARY32) - x, 0.0)
    top, decay = int(magnitudes.max()), 0.0
    belows = [magnitudes + (below << BINARY32.mantissa) <= top for below in range(_FIRST_BELOW, -1, -2)]
    belows = [some for some in belows if np.count_nonzero(some) >= _LEAST_FITTED]
    if not belows:
        return None
    between = np.abs(_off(d * (1 / s))) > _BETWEEN
    odd = 2 * int(np.count_nonzero(between & belows[0])) > int(np.count_nonzero(belows[0]))
    half = odd / 2
    for some in belows:
        refined = _refined(x[some], d[some], half, decay, s)
        if refined is None or not refined[1] > 0:
            return None
        decay, s = refined
    moved = (d - decay * x) * (1 / s)
    on = np.abs(_off(moved - half)) <= _ON
    if not s >= _least(top) or int(np.count_nonzero(on)) < _ON_SHARE * on.size:
        return None
    if int(np.count_nonzero(np.abs(moved) > _SOME)) < _MOVED_SHARE * on.size:
        return None
    return Strides(1 + decay, s, odd)


def counted(words: Words, reference: Words, strides: Strides, width: int = WIDEST) -> npt.NDArray[np.int8]:
    """Return by how many strides each word moved; 0 where signed numbers of `width` bits do not tell, or it is none.

    In binary32: a stride has many units.
    """
    limit = 2.0 ** (width - 1)
    with np.errstate(all="ignore"):
        moved = words.view("<f4") - np.float32(strides.a) * reference.view("<f4")
        found = np.rint(moved * np.float32(1 / strides.s) - np.float32(strides.odd / 2))
        return np.where(np.abs(found + np.float32(0.5)) < limit, found, np.float32(0)).astype(np.int8)


def even_width(counts: npt.NDArray[np.int8]) -> int:
    """Return how many bits a few counts take if each takes as many, 0 if they are too uneven for that.

    What coding them by how often each is there would save at most is told by how often two are the same.
    """
    tokens = order.zigzag(counts.astype(np.uint8))
    times = np.bincount(tokens, minlength=1 << WIDEST)
    width = max(1, int(tokens.max(initial=0)).bit_length())
    same, pairs = int((times * (times - 1)).sum()), counts.size * (counts.size - 1)
    return width if same << width <= _UNEVEN * pairs else 0


def expected(counts: npt.NDArray[np.int8], reference: Words, strides: Strides) -> Words:
    """Return what words are expected to be that moved by so many strides: the reference's where that is special.

    In binary64, rounded at the end.
    """
    with np.errstate(all="ignore"):
        moved = strides.a * floats.numbers(reference, BINARY32) + strides.s * strides.numbers(counts)
    found = floats.rounded(moved, BINARY32)
    unfit = floats.special(reference, BINARY32) | floats.special(found, BINARY32)
    return np.where(unfit, reference, found)


def _refined(x: Numbers, d: Numbers, half: float, decay: float, s: float) -> tuple[float, float] | None:
    """Return decay and stride that leave the least of d, by least squares, given what they are roughly."""
    q = _nearest((d - decay * x) * (1 / s) - half) + half
    far = ~(np.abs(q) <= _MOST)  # a word of 3e38 would leave no digits to fit decay by
    x, d, q = (np.where(far, 0.0, some) for some in (x, d, q))
    xx, xq, qq = floats.summed(x * x), floats.summed(x * q), floats.summed(q * q)
    xd, qd = floats.summed(x * d), floats.summed(q * d)
    determinant = xx * qq - xq * xq
    if not determinant > 0:
        return None
    return (xd * qq - qd * xq) / determinant, (xx * qd - xq * xd) / determinant


def _nearest(values: Numbers) -> Numbers:
    """Return whole numbers: the nearest, ties to even, up to 2^51."""
    found: Numbers = values + _TO_INTEGERS - _TO_INTEGERS
    return found


def _off(values: Numbers) -> Numbers:
    """Return how far numbers are from the nearest whole ones."""
    found: Numbers = values - _nearest(values)
    return found


def _least(top: int) -> float:
    """Return the least stride that is looked for, given the largest word without its sign."""
    return math.ldexp(_LEAST_ULPS, (top >> BINARY32.mantissa) - 150)


def _magnitudes(words: Words) -> Levels:
    found: Levels = (words & 0x7FFFFFFF).astype(np.int64)
    return found
