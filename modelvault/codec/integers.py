"""Small integers around predictions that lie between two of them: distributions by formula, not by table.

A *residual* counts from the nearest integer to a prediction, towards the side on which the next one is nearer; its
*class* tells how near to the middle the prediction lies. Given the class, what is left to know of a distribution is how
wide it is, and a block of integers has one *scale* for that, in half powers of two. So a chunk of two hundred integers,
as norms and biases are, pays for its own statistics with a bit or two a block; tables would cost more than it has.

The distribution is the logistic one, which fitted better than the Laplace and no worse than the normal distribution on
ShuffleNet's and MobileNetV2's deltas (within 1 % of each other but for vectors, where tails decide). It is computed in
integers, so that every machine has the same frequencies.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from modelvault import wire
from modelvault.codec import bits, frequencies, rans
from modelvault.codec.bits import BitReader
from modelvault.codec.blocks import Blocks
from modelvault.codec.errors import CodecError
from modelvault.codec.floats import Levels

if TYPE_CHECKING:
    from typing_extensions import Buffer

MIDDLES = (16, 48, 80, 104, 116, 122, 125, 127)
"""The middle of each class's predictions, in 256ths from the nearest integer towards the middle between two."""

_WITHOUT_LOW = len(MIDDLES)
"""The class of residuals without their low bits."""

_MIDDLES = (*MIDDLES, -128, 0)
"""With those of such residuals, and of residuals whose predictions are integers: `spreads` has them."""

SCALES = 64
"""Scale s is of the half-life 2^((s - 22) / 2)."""

LIMIT = 1 << 22
"""Residuals are smaller than this."""

_WIDE = 24
"""From this scale on the low bits of residuals are plain, so that a distribution never has many more tokens than 32."""

_REACH = 16
"""Tokens are -16 to 16; anything beyond escapes."""

ESCAPE = 2 * _REACH + 1
"""The token of what is beyond."""

ESCAPE_K = 4
"""Order of its code."""

_HALVES = (8192, 5793)  # 2^13 and 2^12.5

_POWERS = tuple(round(65536 * 2 ** (-i / 32)) for i in range(32))
"""65536 * 2^(-i/32). No entry is nearer to a half than 0.006."""

_MAX_K = 7
_MAX_LANES_LOG = 8
_MANY = 1 << 15
"""From here on lanes pay: fewer integers are coded about as fast singly, and each lane takes four bytes."""

_GROUPS = (1, 4, 16)
"""Blocks of a row, and of some: where nearly all is 0, scales weigh more than how well they fit."""


@dataclass(frozen=True, slots=True)
class _Distribution:
    """Frequencies of the tokens from `low` on."""

    low: int
    found: npt.NDArray[np.uint32]

    @property
    def high(self) -> int:
        """One more than the last token."""
        return self.low + self.found.size

    def frequencies(self) -> npt.NDArray[np.uint32]:
        """Return them; they add up to the scale of the coder."""
        return self.found


class _Layout(NamedTuple):
    blocks: Blocks
    scales: Levels  # of each block: 1 to SCALES - 1, or 0 for a blank one


@functools.cache
def _distribution(scale: int, class_: int) -> _Distribution:
    """Return the distribution of a scale below `_WIDE` + 2."""
    middle = _MIDDLES[class_]
    edges = 256 * np.arange(-_REACH - 1, _REACH + 1, dtype=np.int64) + 128 - middle  # 256ths
    far = (np.abs(edges) * (_HALVES[scale & 1] << 11 >> (scale >> 1))) >> 16  # 32nds of a half-life
    tail = np.array(_POWERS, np.int64)[far & 31] >> np.minimum(far >> 5, 32)
    below = (1 << 32) // (65536 + tail)
    below = np.where(edges < 0, 65536 - below, below) + 16 >> 5
    found = np.append(np.diff(below), frequencies.SCALE - (below[-1] - below[0]))
    if not found[-1]:
        found[int(np.argmax(found))] -= 1
        found[-1] = 1
    first = int(np.flatnonzero(found)[0])
    return _Distribution(first, found[first:].astype(np.uint32))


@functools.cache
def _lengths() -> npt.NDArray[np.int64]:
    """Return 256ths of a bit that each (class, token) takes, one row a scale below `_WIDE`."""
    table = np.full((_WIDE, len(MIDDLES), ESCAPE + 1), 256 * 24, np.int64)
    for scale in range(1, _WIDE):
        for class_ in range(len(MIDDLES)):
            some = _distribution(scale, class_)
            present = some.found > 0
            taken = 256 * frequencies.SCALE_BITS - frequencies.log2(np.maximum(some.found, 1).astype(np.int64))
            table[scale, class_, some.low : some.high][present] = taken[present]
            table[scale, class_, ESCAPE] += 256 * 8
    return table.reshape(_WIDE, -1)


def write(residuals: Levels, classes: Levels, row: int, start: int) -> bytes:
    """Return the bytes that `read` reads.

    Args:
        residuals: at least one, of magnitude below `LIMIT`.
        classes: 0 to 7.
        row: integers of a row, 0 or 1 if there are no rows.
        start: which integer of the tensor the first is.
    """
    layout = _laid_out(residuals, classes, row, start)
    blocks, scales = layout
    of_words = blocks.spread(scales)
    coded = of_words > 0
    some, numbers, low = tokens(residuals[coded], of_words[coded], classes[coded])
    out = wire.Writer()
    lanes_log = _MAX_LANES_LOG if some.size >= _MANY else 0
    out.fixed(bytes((lanes_log,)))
    out.uint(blocks.length)
    out.uint(blocks.first)
    steps = np.diff(scales[scales > 0], prepend=_WIDE // 2)
    codes = np.zeros(scales.size, np.int64)
    codes[scales > 0] = 1 + np.where(steps < 0, -2 * steps - 1, 2 * steps)
    k = min(range(_MAX_K + 1), key=lambda k: bits.golomb_bits(codes, k))
    out.fixed(bits.join([bits.fields(k, 3), bits.golomb(codes, k)]))
    if some.size:
        kind_of, order = np.unique(numbers, return_inverse=True)
        coded_ = rans.encode(some, order.astype(np.int64), distributions(kind_of), 1 << lanes_log)
        assert coded_ is not None  # their frequencies add up
        states, stream = coded_
        out.fixed(states.astype("<u4").tobytes())
        out.uint(stream.size)
        out.fixed(stream.tobytes())
        escaped = residuals[coded][some == ESCAPE] >> low[some == ESCAPE]
        out.fixed(bits.join([bits.golomb(np.where(escaped < 0, -2 * escaped - 1, 2 * escaped), ESCAPE_K)]))
        out.fixed(bits.join([bits.fields(residuals[coded] & (1 << low) - 1, low)]))
    return out.getvalue()


def read(data: Buffer, classes: Levels) -> Levels:
    """Return the residuals.

    Args:
        data: what `write` returned.
        classes: the same.

    Raises:
        CodecError: not such bytes.
    """
    reader = wire.Reader(data)
    try:
        lanes_log = reader.uint(_MAX_LANES_LOG)
        length = reader.uint(max(classes.size, 1))
        first = reader.uint(length)
    except wire.WireError as error:
        raise CodecError(f"integers: {error.message}") from None
    if not first:
        raise CodecError("integers in blocks of none")
    blocks = Blocks(classes.size, length, first)
    rest = reader.rest()
    head = BitReader(rest)
    scales = _read_scales(head, blocks)
    rest = rest[head.end() :]
    of_words = blocks.spread(scales)
    coded = of_words > 0
    residuals = np.zeros(classes.size, np.int64)
    if not coded.any():
        if rest:
            raise CodecError(f"{len(rest)} bytes after integers that are all 0")
        return residuals
    reader = wire.Reader(rest)
    try:
        states = np.frombuffer(reader.fixed(4 << lanes_log), "<u4")
        stream = np.frombuffer(reader.fixed(2 * reader.uint(int(coded.sum()))), "<u2")
    except wire.WireError as error:
        raise CodecError(f"integers: {error.message}") from None
    residuals[coded] = restored(states, stream, reader.rest(), *kinds(of_words[coded], classes[coded]))
    return residuals


def restored(states: rans.States, stream: rans.Stream, rest: Buffer, numbers: Levels, low: Levels) -> Levels:
    """Return residuals from their tokens, escapes and low bits.

    Args:
        states: of the coder's lanes.
        stream: its words.
        rest: escapes, then low bits.
        numbers: which distribution each residual has.
        low: how many low bits each has.

    Raises:
        CodecError: they are none.
    """
    if (states < rans.LOW).any() or (states >= rans.HIGH).any():
        raise CodecError("a state of the coder of integers is out of range")
    kind_of, order = np.unique(numbers, return_inverse=True)
    read = rans.decode(states, stream, order.astype(np.int64), distributions(kind_of)).astype(np.int64)
    found = read - _REACH
    escapes = BitReader(rest)
    for place in np.flatnonzero(read == ESCAPE).tolist():
        value = escapes.golomb(ESCAPE_K)
        found[place] = value >> 1 if value & 1 == 0 else -(value + 1 >> 1)
    found <<= low
    found += bits.split(memoryview(rest)[escapes.end() :], low).astype(np.int64)
    if int(np.abs(found).max()) >= LIMIT:
        raise CodecError("a residual is out of range")
    return found


def kind(scale: int, class_: int, low: int) -> int:
    """Return the number of a distribution."""
    return scale * len(_MIDDLES) + (_WITHOUT_LOW if low else class_)


def kinds(scales: Levels, classes: Levels) -> tuple[Levels, Levels]:
    """Return which distribution each residual has, and how many low bits it keeps plain."""
    low: Levels = np.maximum(scales - _WIDE + 2, 0) >> 1
    class_ = np.where(low > 0, _WITHOUT_LOW, classes)
    return (scales - 2 * low) * len(_MIDDLES) + class_, low


def distributions(numbers: Iterable[int]) -> list[_Distribution]:
    """Return the distributions of these kinds."""
    return [_distribution(*divmod(int(number), len(_MIDDLES))) for number in numbers]


def tokens(residuals: Levels, scales: Levels, classes: Levels) -> tuple[Levels, Levels, Levels]:
    """Return tokens, their distributions, and how many low bits stay plain."""
    of_words, low = kinds(scales, classes)
    found = (residuals >> low) + _REACH
    found[(found < 0) | (found >= ESCAPE)] = ESCAPE
    numbers, order = np.unique(of_words, return_inverse=True)
    possible = np.zeros((numbers.size, ESCAPE + 1), np.bool_)
    for row, some in zip(possible, distributions(numbers), strict=True):
        row[some.low : some.high] = some.found > 0
    found[~possible[order, found]] = ESCAPE
    return found, of_words, low


def _laid_out(residuals: Levels, classes: Levels, row: int, start: int) -> _Layout:
    """Return blocks and scales that take few bits."""
    fine = Blocks.along_rows(residuals.size, row, start)
    best, least = None, 0
    tokens = np.clip(residuals + _REACH, -1, ESCAPE)
    tokens[tokens < 0] = ESCAPE
    width = len(MIDDLES) * (ESCAPE + 1)
    places = classes * (ESCAPE + 1) + tokens
    for group in (*_GROUPS, 0):
        length = min(fine.length * group, residuals.size) if group else residuals.size
        first = (fine.first - 1) % length + 1 if group < 2 else min(length - start % length, residuals.size)
        blocks = Blocks(residuals.size, length, first if group else length)
        number = np.repeat(np.arange(blocks.count), np.diff(blocks.starts(), append=residuals.size))
        counts = np.bincount(number * width + places, minlength=blocks.count * width).reshape(-1, width)
        taken = counts.astype(np.float64) @ _lengths().T.astype(np.float64)  # whole numbers below 2^53: exact
        scales = np.argmin(taken[:, 1:], axis=1) + 1
        cost = np.take_along_axis(taken, scales[:, None], 1)[:, 0]
        sums = blocks.sums(np.abs(residuals))
        sizes = np.diff(blocks.starts(), append=residuals.size)
        wide = sums > 3 * sizes
        means = np.maximum(sums // np.maximum(sizes, 1), 1)
        scales[wide] = np.minimum(SCALES - 1, 20 + frequencies.log2(means)[wide] // 128)
        cost[wide] = (sizes * (640 + frequencies.log2(means)))[wide]
        blank = sums == 0
        scales[blank], cost[blank] = 0, 0
        total = int(cost.sum()) + int((256 * np.where(blank, 1, 3)).sum())
        if best is None or total < least:
            best, least = _Layout(blocks, scales.astype(np.int64)), total
        if length >= residuals.size:
            break
    assert best is not None
    return best


def _read_scales(head: BitReader, blocks: Blocks) -> Levels:
    k = head.uint(3)
    if head.remaining < blocks.count:
        raise CodecError("bits of the head run out")
    scales = np.zeros(blocks.count, np.int64)
    scale = _WIDE // 2
    for place in range(blocks.count):
        code = head.golomb(k)
        if code:
            step = code - 1
            scale += step >> 1 if step & 1 == 0 else -(step + 1 >> 1)
            if not 0 < scale < SCALES:
                raise CodecError(f"scale {scale}, expected 1 to {SCALES - 1}")
            scales[place] = scale
    return scales
