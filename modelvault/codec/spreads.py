"""Integers whose distributions are as wide as their place asks for: by piece, by row, by column.

The distributions are those of `integers`, by formula. What is told of them is a *width* for each run of words, in half
powers of two, and where it pays a correction for each column: outputs of a layer differ in how far they move, and so do
its inputs. A width is told as its difference from the one before, so the search for widths weighs that difference
against how well they fit.

Everything is counted in integers, so that every encoder finds the same widths.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from modelvault import wire
from modelvault.codec import bits, integers, rans
from modelvault.codec.bits import BitReader, Fields
from modelvault.codec.errors import CodecError
from modelvault.codec.floats import Levels

if TYPE_CHECKING:
    from typing_extensions import Buffer

EXACT = 9
"""The class of residuals whose predictions are integers."""

WIDTHS = integers.SCALES
"""Widths are 1 to 63."""

FIRST_WIDTH = 12
"""What the first width of a chunk is told from."""

LEAST_CORRECTION, CORRECTIONS = -8, 16
"""Columns correct a width by -8 to 7."""

_BIT = 1024
"""Costs are in 1024ths of a bit: where nearly every residual is 0, each takes less than one of them."""

_TOKENS = 33
_CLASSES = 9  # 0 to 7, and EXACT
_BUCKETS = 36  # of residuals beyond the tokens: two an octave

SPREADS = (23, 20, 17, 14)
"""Widths that differences of widths are coded with."""

_SPREAD_BITS = 2
_BY_FORMULA = 3
"""Orders below are those of Exp-Golomb codes."""

_FORMULA_BITS = 40
"""What the coder's state takes, about; other lists may share it."""

_MOST_LANES_LOG = 5

_ROWS_TOGETHER = (1, 4, 16)
"""So many runs may share a width: where nearly all is 0, widths weigh more than how well they fit."""

_SHORTEST_RUN = 32
_RUN_WITHOUT_ROWS = 64
_RUN_BITS = 16
"""What it takes to tell the length of runs, or of rows, about."""

_LEAST_ROWS = 8
"""Columns are corrected where so many rows share what that costs."""

_LEAST_SHARE = 8
"""Below an eighth of a bit a word, columns have little to tell: at eps 0.004 looking for them makes ShuffleNet 0.05 %
and GoogLeNet 0.004 % smaller, in a sixth to a fifth of the time. Below a quarter: 1.4 % of ShuffleNet at 0.0005."""


class Run(NamedTuple):
    """A piece of the words: how many, the words of its rows (0 or 1: none), which word of a row it begins with."""

    words: int
    row: int = 0
    start: int = 0


@dataclass(frozen=True, slots=True)
class Layout:
    """Which width each word of a piece has.

    Attributes:
        words: how many there are.
        length: words that share a width.
        first: how many of those the first width has not, because they lie before the piece.
        widths: one for each such run.
        row: words of a row, 0 where columns correct nothing.
        column: neighbouring words of a row that share a correction.
        at: which word of a row the piece begins with.
        corrections: one for each column.
    """

    words: int
    length: int
    first: int
    widths: Levels
    row: int = 0
    column: int = 1
    at: int = 0
    corrections: Levels | None = None

    def of_words(self) -> Levels:
        """Return the width of each word."""
        places = np.arange(self.words, dtype=np.int64)
        found: Levels = self.widths[(places + self.first) // self.length]
        if self.corrections is not None:
            found = np.clip(found + self.corrections[(places + self.at) % self.row // self.column], 1, WIDTHS - 1)
        return found


def write(residuals: Levels, classes: Levels, runs: Sequence[Run]) -> bytes:
    """Return the bytes that `read` reads.

    Args:
        residuals: of magnitude below `integers.LIMIT`.
        classes: 0 to 7, or `EXACT`.
        runs: the pieces, which have as many words together; each at least one.
    """
    if not residuals.size:
        return b""
    places = _places(residuals, classes)
    head = list[Fields]()
    widths = np.empty(residuals.size, np.int64)
    steps, spreads = list[Levels](), list[Levels]()
    before, start, cost = FIRST_WIDTH, 0, 0

    def tell(some: Levels) -> None:
        order = _order_of(some)
        head.append(bits.fields(min(order, _BY_FORMULA), 2))
        if order < _BY_FORMULA:
            head.append(bits.golomb(_zigzag(some), order))
        else:
            head.append(bits.fields(order - _BY_FORMULA, _SPREAD_BITS))
            steps.append(some)
            spreads.append(np.full(some.size, SPREADS[order - _BY_FORMULA]))

    for run in runs:
        stop = start + run.words
        layout, taken = _laid_out(places[start:stop], run, before)
        cost += taken
        widths[start:stop] = layout.of_words()
        is_single = layout.length >= layout.words and not layout.first
        head.append(bits.fields(0 if is_single else 1, 1))
        if is_single:
            head.append(bits.golomb(_zigzag(layout.widths - before), 1))
        else:
            head += [bits.golomb(layout.length - 1, 5), bits.golomb(layout.first, 0)]
            tell(np.diff(layout.widths, prepend=before))
        head.append(bits.fields(0 if layout.corrections is None else 1, 1))
        if layout.corrections is not None:
            head += [bits.golomb(layout.row - 1, 5), bits.golomb(layout.column - 1, 0), bits.golomb(layout.at, 0)]
            tell(np.diff(layout.corrections, prepend=0))
        before, start = int(layout.widths[-1]), stop
    out = wire.Writer()
    lanes_log = _lanes_log_of(cost)
    out.fixed(bits.join([bits.fields(lanes_log, 3), *head]))
    if steps:
        told = np.concatenate(steps)
        out.blob(_coded(told, np.concatenate(spreads), np.full(told.size, EXACT), 0))
    out.fixed(_coded(residuals, widths, classes, lanes_log))
    return out.getvalue()


def _coded(residuals: Levels, widths: Levels, classes: Levels, lanes_log: int) -> bytes:
    tokens, kinds, low = integers.tokens(residuals, widths, classes)
    kind_of, order = np.unique(kinds, return_inverse=True)
    coded = rans.encode(tokens, order.astype(np.int64), integers.distributions(kind_of), 1 << lanes_log)
    assert coded is not None  # their frequencies add up
    states, stream = coded
    out = wire.Writer()
    out.fixed(states.astype("<u4").tobytes())
    out.uint(stream.size)
    out.fixed(stream.tobytes())
    escaped = residuals[tokens == integers.ESCAPE] >> low[tokens == integers.ESCAPE]
    out.fixed(bits.join([bits.golomb(_zigzag(escaped), integers.ESCAPE_K)]))
    out.fixed(bits.join([bits.fields(residuals & (1 << low) - 1, low)]))
    return out.getvalue()


def read(data: Buffer, classes: Levels, lengths: Sequence[int]) -> Levels:
    """Return the residuals.

    Args:
        data: what `write` returned.
        classes: the same.
        lengths: words of each piece.

    Raises:
        CodecError: not such bytes.
    """
    rest = memoryview(data)
    if not classes.size:
        if len(rest):
            raise CodecError(f"{len(rest)} bytes of no integers")
        return np.zeros(0, np.int64)
    head = BitReader(rest)
    lanes_log, shapes = _read_head(head, lengths)
    rest = rest[head.end() :]
    told = [some for shape in shapes for some in (shape.widths, shape.corrections) if some.spread]
    if told:
        reader = wire.Reader(rest)
        try:
            inside, rest = reader.blob(), memoryview(reader.rest())
        except wire.WireError as error:
            raise CodecError(f"integers: {error.message}") from None
        kinds, low = integers.kinds(
            np.repeat([some.spread for some in told], [some.count for some in told]),
            np.full(sum(some.count for some in told), EXACT),
        )
        steps, start = _decoded(inside, kinds, low, 0), 0
        for some in told:
            some.steps = steps[start : start + some.count]
            start += some.count
    before, widths = FIRST_WIDTH, []
    for shape in shapes:
        layout = shape.layout(before)
        before = int(layout.widths[-1])
        widths.append(layout.of_words())
    return _decoded(rest, *integers.kinds(np.concatenate(widths), classes), lanes_log)


def rows_of(data: Buffer, lengths: Sequence[int]) -> list[Run]:
    """Return what `write` was told of the rows of the pieces, as far as its bytes tell.

    Raises:
        CodecError: not such bytes.
    """
    shapes = _read_head(BitReader(data), lengths)[1] if lengths else []
    found = []
    for shape in shapes:
        row, start = (shape.row, shape.at) if shape.row else (shape.length, shape.first)
        found.append(Run(shape.words, row, start) if row < shape.words else Run(shape.words))
    return found


def _read_head(head: BitReader, lengths: Sequence[int]) -> tuple[int, list[_Shape]]:
    """Return the logarithm of the lanes, and the layouts."""
    lanes_log = head.uint(3)
    if lanes_log > _MOST_LANES_LOG:
        raise CodecError(f"2^{lanes_log} lanes")
    return lanes_log, [_read_shape(head, words) for words in lengths]


def _decoded(data: Buffer, kinds: Levels, low: Levels, lanes_log: int) -> Levels:
    reader = wire.Reader(data)
    try:
        states = np.frombuffer(reader.fixed(4 << lanes_log), "<u4")
        stream = np.frombuffer(reader.fixed(2 * reader.uint(kinds.size)), "<u2")
    except wire.WireError as error:
        raise CodecError(f"integers: {error.message}") from None
    return integers.restored(states, stream, reader.rest(), kinds, low)


def _lanes_log_of(cost: int) -> int:
    """Return the logarithm of how many lanes to take for what so much is estimated for.

    Each takes four bytes, half of which tell nothing: together 0.1 to 0.3 % of lossy ShuffleNet and GoogLeNet,
    which are decoded in 0.73 to 0.97 of the time that half to a quarter as many lanes take.
    """
    nbytes = cost // (8 * _BIT)
    if nbytes >= 1 << 14:
        return 5 if nbytes >= 1 << 15 else 4
    return 3 if nbytes >= 1 << 12 else 2 if nbytes >= 1 << 10 else int(nbytes >= 1 << 8)


# How wide


def _zigzag(values: Levels) -> Levels:
    found: Levels = np.where(values < 0, -2 * values - 1, 2 * values)
    return found


def _log2(value: int) -> int:
    """Return 1024 times the binary logarithm, rounded down, by squaring."""
    exponent = value.bit_length() - 1
    x, found = value << 30 - exponent, 0
    for _ in range(10):
        x = x * x >> 30
        found *= 2
        if x >> 31:
            x >>= 1
            found += 1
    return 1024 * exponent + found


@functools.cache
def _costs() -> npt.NDArray[np.int64]:
    """Return what a residual takes: one row for each class and token, and for each bucket beyond; a column a width."""
    table = np.zeros((_CLASSES * _TOKENS + _BUCKETS, WIDTHS), np.int64)
    for width in range(1, WIDTHS):
        low = max(0, width - 22) >> 1
        for class_ in range(_CLASSES):
            for token in range(_TOKENS):
                table[class_ * _TOKENS + token, width] = _cost(token - 16, width - 2 * low, low, class_)
        for bucket in range(_BUCKETS):
            value = (5 + 2 * (bucket & 1)) << (bucket >> 1) + 2  # in the middle
            table[_CLASSES * _TOKENS + bucket, width] = _cost(value, width - 2 * low, low, 0)
    return table


def _cost(value: int, scale: int, low: int, class_: int) -> int:
    kind = integers.kind(scale, EXACT if class_ == _CLASSES - 1 else class_, low)
    (some,) = integers.distributions([kind])
    at = (value >> low) + 16
    if some.low <= at < some.high and at < integers.ESCAPE and some.found[at - some.low]:
        return _BIT * (11 + low) - _log2(int(some.found[at - some.low]))
    code = _zigzag(np.array([value >> low]))
    return _BIT * (11 + low + bits.golomb_bits(code, integers.ESCAPE_K)) - _log2(int(some.found[-1]))


def _places(residuals: Levels, classes: Levels) -> Levels:
    """Return the row of `_costs` for each word."""
    magnitudes = np.maximum(np.abs(residuals), 1)
    octaves = np.frexp(magnitudes.astype(np.float64))[1].astype(np.int64) - 1
    far = _CLASSES * _TOKENS + 2 * (octaves - 4) + ((magnitudes << 1 >> octaves) & 1)
    near = np.minimum(classes, _CLASSES - 1) * _TOKENS + residuals + 16
    found: Levels = np.where(np.abs(residuals) > 16, far, near)
    return found


@functools.cache
def _prices() -> npt.NDArray[np.int64]:
    """Return what it takes to tell no difference, and each further one about: (spreads, 3), from 0, to 1, beyond."""
    costs = _costs()[(_CLASSES - 1) * _TOKENS + 16 :][:3, list(SPREADS)].T
    more = costs[:, 2] - costs[:, 1]
    return np.stack([costs[:, 0], costs[:, 1] - more, more], axis=1)


def _path(costs: Levels, before: int) -> tuple[Levels, int]:
    """Return the widths, or corrections, that take least with what it takes to tell them, and how much that is.

    Args:
        costs: what each run takes with each, (runs, widths).
        before: what the first is told from.
    """
    count = costs.shape[1]
    same, other, more = (column[:, None] for column in _prices().T)  # (spreads, 1) each
    places = np.arange(count, dtype=np.int64)
    climb = more * places
    total = np.where(places == before, same, other + more * np.abs(places - before)) + costs[0]
    came = np.empty((len(costs), *total.shape), np.int64)
    for at in range(1, len(costs)):
        # From below and from above, the place kept in the lowest bits; the price of a difference grows evenly.
        below = np.minimum.accumulate((total - climb) << 6 | places, axis=1) + (climb << 6)
        above = np.minimum.accumulate(((total + climb) << 6 | places)[:, ::-1], axis=1)[:, ::-1] - (climb << 6)
        way = np.minimum(np.minimum(below, above) + (other << 6), (total + same) << 6 | places)
        came[at] = way & 63
        total = (way >> 6) + costs[at]
    best = total.min(axis=1)
    spread = int(best.argmin())
    found = np.empty(len(costs), np.int64)
    found[-1] = int(total[spread].argmin())
    for at in range(len(costs) - 1, 0, -1):
        found[at - 1] = came[at, spread, found[at]]
    return found, int(best[spread])


_NEVER = 1 << 40


def _summed(places: Levels, keys: Levels, count: int) -> Levels:
    """Return what each run takes with each width, (count, WIDTHS): words of one key are a run."""
    rows = len(_costs())
    counts = np.bincount(keys * rows + places, minlength=count * rows).reshape(count, rows)
    found: Levels = (counts.astype(np.float64) @ _costs().astype(np.float64)).astype(np.int64)  # whole numbers: exact
    return found


def _summed_corrected(places: Levels, keys: Levels, count: int, corrections: Levels, widest: int) -> Levels:
    """Return the same up to a width, each word's corrected."""
    found = np.zeros((count, widest + 1), np.int64)
    for width in range(1, widest + 1):
        some = _costs()[places, np.clip(width + corrections, 1, WIDTHS - 1)]
        found[:, width] = np.bincount(keys, some, count).astype(np.int64)
    return found


def _best_runs(fine: Levels, run: Run, length: int, before: int) -> tuple[Layout, int]:
    """Return the widths that take least, of runs of `length` words or of several of these, and how much."""
    best_of_runs = fine[:, 1:].argmin(axis=1) + 1
    narrowest, widest = int(best_of_runs.min()), int(best_of_runs.max())  # no run would take another
    fine = fine[:, : widest + 1]
    first = run.start % length
    best: tuple[Layout, int] | None = None
    for together in (*_ROWS_TOGETHER, 0):
        if together and length * together >= run.words:
            continue
        span = length * together if together else run.words
        lead = run.start % span if together else 0
        sums = fine
        if not together:
            sums = fine.sum(axis=0, keepdims=True)
        elif together > 1:
            # The first fine run begins `first` words before the piece, the first of several `lead`.
            sums = np.zeros(((lead + run.words - 1) // span + 1, fine.shape[1]), np.int64)
            np.add.at(sums, (np.arange(len(fine)) + (lead - first) // length) // together, fine)
        sums[:, :narrowest] = _NEVER
        found, total = _path(sums, before)
        total += _BIT * (_RUN_BITS if together else 1)
        if best is None or total < best[1]:
            best = Layout(run.words, span, lead, found), total
    assert best is not None
    return best


def _laid_out(places: Levels, run: Run, before: int) -> tuple[Layout, int]:
    """Return the layout that takes least, and how much."""
    words, row = run.words, run.row
    length = row * -(-_SHORTEST_RUN // row) if row > 1 else _RUN_WITHOUT_ROWS
    order = np.arange(words, dtype=np.int64)
    keys = (order + run.start % length) // length
    count = int(keys[-1]) + 1
    plain, least = _best_runs(_summed(places, keys, count), run, length, before)
    if row < 2 or words < _LEAST_ROWS * row or _LEAST_SHARE * least < _BIT * words:
        return plain, least
    column = 9 if row > 9 and row % 9 == 0 else 1
    at = run.start % row
    of_word = (order + at) % row // column
    base = plain.of_words()
    sums = np.zeros((-(-row // column), CORRECTIONS), np.int64)
    for step in range(CORRECTIONS):
        some = _costs()[places, np.clip(base + step + LEAST_CORRECTION, 1, WIDTHS - 1)]
        sums[:, step] = np.bincount(of_word, some, len(sums)).astype(np.int64)
    corrections = _path(sums, -LEAST_CORRECTION)[0] + LEAST_CORRECTION
    if not corrections.any():
        return plain, least
    widest = min(WIDTHS - 1, int(plain.widths.max()) - LEAST_CORRECTION)
    fine = _summed_corrected(places, keys, count, corrections[of_word], widest)
    again, total = _best_runs(fine, run, length, before)
    total += _BIT * (_RUN_BITS + bits.golomb_bits(_zigzag(np.diff(corrections, prepend=0)), 0))
    if total >= least:
        return plain, least
    return Layout(words, again.length, again.first, again.widths, row, column, at, corrections), total


# Told


def _order_of(steps: Levels) -> int:
    """Return how differences take fewest bits: by an order of Exp-Golomb codes, or from `_BY_FORMULA` on a spread."""
    codes = _zigzag(steps)
    lengths = [bits.golomb_bits(codes, order) * _BIT for order in range(_BY_FORMULA)]
    costs = _costs()[_places(steps, np.full(steps.size, EXACT))].sum(axis=0)
    lengths += [int(costs[spread]) + _BIT * _FORMULA_BITS for spread in SPREADS]
    return lengths.index(min(lengths))


@dataclass(slots=True)
class _Told:
    """Differences, told or still to be decoded: a spread other than 0."""

    count: int
    spread: int
    steps: Levels

    def summed(self, before: int, least: int, most: int) -> Levels:
        found: Levels = before + np.cumsum(self.steps)
        if found.size and not least <= int(found.min()) <= int(found.max()) <= most:
            raise CodecError(f"widths from {found.min()} to {found.max()}, expected {least} to {most}")
        return found


_NOTHING = _Told(0, 0, np.zeros(0, np.int64))


class _Shape(NamedTuple):
    """A layout whose differences may still have to be decoded."""

    words: int
    length: int
    first: int
    widths: _Told
    row: int
    column: int
    at: int
    corrections: _Told

    def layout(self, before: int) -> Layout:
        widths = self.widths.summed(before, 1, WIDTHS - 1)
        some = None
        if self.row:
            some = self.corrections.summed(0, LEAST_CORRECTION, LEAST_CORRECTION + CORRECTIONS - 1)
        return Layout(self.words, self.length, self.first, widths, self.row, self.column, self.at, some)


def _read_shape(head: BitReader, words: int) -> _Shape:
    length, first = words, 0
    if head.uint(1):
        length, first = head.golomb(5) + 1, head.golomb(0)
        if first >= length:
            raise CodecError(f"a run of {length} words, {first} of them before the piece")
        widths = _read_told(head, (first + words - 1) // length + 1)
    else:
        widths = _Told(1, 0, np.array([_unzigzag(head.golomb(1))]))
    if not head.uint(1):
        return _Shape(words, length, first, widths, 0, 1, 0, _NOTHING)
    row, column, at = head.golomb(5) + 1, head.golomb(0) + 1, head.golomb(0)
    if row > words or at >= row:
        raise CodecError(f"rows of {row} words from {at} on in a piece of {words}")
    return _Shape(words, length, first, widths, row, column, at, _read_told(head, -(-row // column)))


def _read_told(head: BitReader, count: int) -> _Told:
    order = head.uint(2)
    if order == _BY_FORMULA:
        spread = head.uint(_SPREAD_BITS)
        return _Told(count, SPREADS[spread], np.zeros(0, np.int64))
    if head.remaining < count:
        raise CodecError("bits of the head run out")
    return _Told(count, 0, np.array([_unzigzag(head.golomb(order)) for _ in range(count)]))


def _unzigzag(code: int) -> int:
    return code >> 1 if code & 1 == 0 else -(code + 1 >> 1)
