"""What a glance at a chunk tells of it, before anything is coded: which ways to code it are worth looking into.

Weights as training left them show none of these signs, nearly always, and are coded the plain way at once. Each sign
is told by few words, or by the first that differs; `kernels` offers the same in compiled code.
"""

from __future__ import annotations

from enum import IntFlag

import numpy as np

from modelvault.codec import floats
from modelvault.codec.floats import FORMATS
from modelvault.codec.lattice import MANTISSA_BITS
from modelvault.codec.order import Words
from modelvault.tensors import DType

LEAST_WORDS = 64
"""Fewer elements than this on a lattice do not pay for the frames within a frame."""

COARSE_SHARE = 0.75
"""Steps are taken when words are estimated to take less than this share of the bits of numbers along them: rounded
weights take about a third, weights as training leaves them more than all."""

SHORT = 3
"""A mantissa that misses fewer bits was not cut: bits are 0 by chance."""

_SHORT_SHARE = 1 / 4
"""Of words that training made an eighth end in so many zeros."""

_DOUBTFUL_SHARE = 3 / 16
"""Up to here few words tell that it is not so: of 1,024 one chunk in two hundred million has more by chance.
With an eighth, which half of all chunks have, 4,096 were looked at, in as many places of memory."""

_FEW_WORDS = 64
_FEW_MARGIN = 0.3
"""So many elements tell nearly always whether it is worth looking closer: those that training made have all their
mantissa, give or take 0.2 bits where that is the mean of 64."""

_SAMPLE = 4096

_PLACES, _AT_EACH = 64, 16
"""A few words from each of many places tell nearly always. 4,096 words of a chunk of 1 MiB come from as many places of
memory, which took 140 us, a seventh of what coding the chunk takes."""

_LEAST_EQUAL = 256
"""One of so many words did not move, where steps from the reference are looked for: 20 us a chunk instead of 200."""

LEAST_MOVED = 8
"""Fewer words that moved tell no step."""

LEAST_ULPS = 4
"""A step from the reference has at least so many units in the last place: numbers of 16 bits are whole units apart."""

_NEAR_SHARE = 4
"""One in so many of the words that moved may be nearer than half such a step. Of weights in bf16 that training moved it
is two in three, and to look for their step in vain took a fifth of the time of encoding them."""

_MOST_BELOW = 40  # levels: no two words are as many units apart

_WELL_BELOW, _LEAST_DISTANCE = 3, 3
_LEAST_WELL_BELOW = 16
_PARTS, _ON_STEP, _ON_STEPS_SHARE = 3, 1 / 16, 5 / 8
"""Words whose level is so far below the typical one tell steps well: their units are an eighth of it at most, and steps
four of its. Of those that moved by more than noise, as many at least, the nearest moved by one step, two or three; so
many must have moved by whole ones, give or take a sixteenth. Weights in bf16 of ten networks and optimizers that had
shown the sign: 0.47 of them at most; rounded within steps from the reference (0.1 to 3 %): 0.80 at least. To look for
steps in vain took three quarters of the time of encoding ShuffleNet in bf16 after RMSprop."""


_PROBED_BYTES = 1 << 13
"""From the middle of a chunk, to see whether byte planes do better: constants, masks, words that were another dtype
before. Less than a hundredth of a chunk."""

_FEW_PROBED, _MANY, _SIGN = 256, 150, 0x80
"""Bytes of mantissas that have so many values in so few words are as good as random (162 if they are). Byte planes gain
nothing by them, unless all signs are the same, as of means of squares (2 %), or rows are of different sizes (some of
GPT's moments, 3 %). So such chunks are not probed where they may be deltas: that takes 40 us, as much as a keyframe of
100 KB. Checkpoints of ShuffleNet after SGD with Nesterov's momentum, of which half become keyframes, take 0.88 of the
time, and six histories of checkpoints 0.005 % more at most."""


class Signs(IntFlag):
    """What was seen.

    Attributes:
        EQUAL: the chunk is the reference. Nothing else is told then.
        SHORT: more words end in zeros than of those that training made.
        ANCHORED: words may be multiples of a step away from the reference.
        COARSE: so many of the lowest bits are zero that elements may gain by one kind of steps.
        LONG: no glance tells this: a delta is longer than it should be, and byte planes may do better.
    """

    EQUAL = 1
    SHORT = 2
    ANCHORED = 4
    COARSE = 8
    LONG = 16


def signs(words: Words, reference: Words | None, dtype: DType, *, alone: bool) -> Signs:
    """Return the signs of words that are not equal to the reference.

    Args:
        words: of a chunk.
        reference: as many, or None.
        dtype: one with a float format.
        alone: whether the words are of one tensor, of much the same size therefore.
    """
    found = Signs(0)
    if are_short(words):
        found |= Signs.SHORT
    if (
        reference is not None
        and may_be_anchored(words, reference)
        and not (alone and move_by_no_step(words, reference, dtype))
    ):
        found |= Signs.ANCHORED
    if words.size >= LEAST_WORDS and may_be_coarse(words, dtype):
        found |= Signs.COARSE
    return found


def sample(words: Words) -> Words:
    """Return some of the words, from all over."""
    return words[:: words.size // _SAMPLE | 1] if words.size > _SAMPLE else words


def are_short(words: Words) -> bool:
    """Return whether more of the words end in zeros than of those that training made: few tell where most do."""
    share = _share_short(few(words))
    return share > 2 * _SHORT_SHARE or (share > _DOUBTFUL_SHARE and _share_short(sample(words)) > _SHORT_SHARE)


def may_be_anchored(words: Words, reference: Words) -> bool:
    """Return whether words may be multiples of a step of `LEAST_ULPS` away from the reference.

    Some must be the reference's then. Where 0 is the likeliest multiple and has the share p, half of the others are
    beyond (1 - p) / 4p steps. Half of all numbers have larger units in the last place than the typical one.
    """
    new, old = few(words), few(reference)
    moved = new != old
    count = int(np.count_nonzero(moved))
    if (new.size - count) * _LEAST_EQUAL < new.size or count < LEAST_MOVED:
        return False
    # In units in the last place; where the sign changed it is any large number.
    distances = np.abs(new[moved].astype(np.int64) - old[moved].astype(np.int64))
    least = LEAST_ULPS / 2 * max(1.0, count / (4 * max(1, new.size - count)))
    return 2 * int(np.count_nonzero(distances < least)) <= count


def move_by_no_step(words: Words, reference: Words, dtype: DType) -> bool:
    """Return whether words have moved as training moves them, rather than by multiples of a step of `LEAST_ULPS`.

    Those are units of the typical word; training moves small words by their own, which are small.
    """
    format_ = FORMATS[dtype]
    new, old = few(words), few(reference)
    levels, before = floats.levels(new, format_), floats.levels(old, format_)
    typical = int(np.sort(levels)[levels.size // 2])
    lower = typical - np.maximum(levels, before)
    near = np.left_shift(LEAST_ULPS // 2, np.clip(lower, 0, _MOST_BELOW))
    distances = np.abs(new.astype(np.int64) - old.astype(np.int64))
    count = int(np.count_nonzero((distances > 0) & (distances < near) & (lower >= 0)))
    if _NEAR_SHARE * count > int(np.count_nonzero(distances)):
        return True
    below = lower >= _WELL_BELOW
    unit = 2.0 ** (typical - (format_.top_level >> 1) - format_.mantissa)
    moved = np.abs(floats.numbers(new[below], format_) - floats.numbers(old[below], format_)) / unit
    moved = moved[moved >= _LEAST_DISTANCE]
    if moved.size < _LEAST_WELL_BELOW:
        return False
    steps = moved * np.arange(1, _PARTS + 1)[:, None] / moved.min()
    on_steps = np.count_nonzero(np.abs(steps - np.rint(steps)) <= _ON_STEP, axis=1)
    return bool(on_steps.max() < _ON_STEPS_SHARE * moved.size)


def may_be_coarse(words: Words, dtype: DType) -> bool:
    """Return whether a few elements leave so many of their lowest bits zero that a lattice could gain by it."""
    some = words[:: words.size // _FEW_WORDS | 1]
    mantissa = MANTISSA_BITS[dtype]
    # Bits that are set, the one before the mantissa among them, and the 1.5 that an element costs on any lattice, must
    # come to less than a share of all: there must be so many zeros an element.
    enough = mantissa + 1 + 1.5 - _FEW_MARGIN - COARSE_SHARE * (mantissa + 3)
    lowest = (some & np.negative(some)).astype(np.float64).view(np.int64)  # of a power of two the exponent, and 0 of 0
    zeros = np.minimum((lowest >> 52) - 1023, mantissa)[lowest != 0]
    return bool(int(zeros.sum()) > enough * zeros.size)


def middle(words: Words) -> Words:
    """Return so many words from the middle as tell whether byte planes do well."""
    count = _PROBED_BYTES // words.itemsize
    first = max(0, words.size - count) // 2
    return words[first : first + count]


def are_noise(words: Words) -> bool:
    """Return whether mantissas are as good as random, and signs of both kinds: byte planes gain nothing then."""
    some = middle(words)
    few_bytes = some[:: _PROBED_BYTES // words.itemsize // _FEW_PROBED].copy().view(np.uint8)
    highest = few_bytes[words.itemsize - 1 :: words.itemsize]
    mantissas = (few_bytes[place :: words.itemsize] for place in range(words.itemsize // 2))
    return (
        bool(highest.min(initial=_SIGN) < _SIGN <= highest.max(initial=0))
        and min(int(np.count_nonzero(np.bincount(some))) for some in mantissas) >= _MANY
    )


def few(words: Words) -> Words:
    """Return a few words from each of many places."""
    if words.size <= _PLACES * _AT_EACH:
        return words
    found: Words = words[: words.size // _PLACES * _PLACES].reshape(_PLACES, -1)[:, :_AT_EACH].ravel()
    return found


def _share_short(words: Words) -> float:
    """Return which share of the words that are not 0 end in zeros."""
    present = int(np.count_nonzero(words))
    cut = present - int(np.count_nonzero(words & words.dtype.type((1 << SHORT) - 1)))
    return cut / max(1, present)
