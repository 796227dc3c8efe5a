"""Codecs 22 and 23, `low-rank` and `low-rank-delta`: a product of two factors, and what it leaves of words.

What is left of weights when their predictions are known is a change of a matrix, and has few directions where an
optimizer took few steps (`factors`). Means of gradients have few themselves. A prediction and the product are what
words are expected to be; how they differ from that is told as `residual-rans` does, and so are the factors.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from modelvault import wire
from modelvault.codec import factors, floats, glance, order, predict, residual_rans, tokens
from modelvault.codec.errors import CodecError
from modelvault.codec.factors import Factors, Integers, Singles
from modelvault.codec.floats import BINARY32, Format
from modelvault.codec.order import Words
from modelvault.codec.parameters import Predictor, Previous

if TYPE_CHECKING:
    from typing_extensions import Buffer

_LEAST_WORDS = 1 << 15
"""Chunks of fewer are not looked at: what does not go with the words takes as long as coding them."""

_LEAST_LIKENESS, _MOST_WEAK = 12, 8
"""Rows are looked at that are more alike than by chance, so many times, and of which not many changed much less than
others. Of 537 chunks of 17 histories that are so alike 447 of the 465 with up to 8 weak rows of 16 gain, 1.9 bits a
word on average, and 27 of the 72 with more, for which it takes as long."""

_MOST_COLUMNS = 1 << 16
"""Of the format."""

_SINGLE = struct.Struct("<f")


class View(NamedTuple):
    """How the words of a chunk lie in rows.

    Attributes:
        columns: words of a row.
        first: which of a row's the first word is.
        words: how many there are.
    """

    columns: int
    first: int
    words: int

    @property
    def rows(self) -> int:
        """Rows that have a word of the chunk."""
        return -(-(self.first + self.words) // self.columns)

    def matrix(self, numbers: Singles) -> Singles:
        """Return numbers, one a word, in rows; 0 where the chunk has no word."""
        padded = np.zeros(self.rows * self.columns, np.float32)
        padded[self.first : self.first + self.words] = numbers
        return padded.reshape(self.rows, self.columns)


def encode(
    words: Words,
    rest: Buffer,
    format_: Format,
    predictors: Sequence[Predictor],
    references: Sequence[Words],
    row: int,
    start: int,
) -> tuple[bool, bytes] | None:
    """Return whether it is a delta, and the body; None where there are no directions that are worth their bytes.

    Args:
        words: of the chunk.
        rest: the bytes after them.
        format_: of the words.
        predictors: the tensor's, one at least.
        references: words of as many references as the predictors need.
        row: words of a row of the tensor, or 0.
        start: which word of the tensor the first one is.
    """
    if words.size < _LEAST_WORDS or row < factors.LEAST_SIDE:
        return None
    view = View(row, start % row, words.size)
    if row > factors.MOST_SIDE or not factors.LEAST_SIDE <= view.rows <= factors.MOST_SIDE:
        return None
    fitted = predict.predicted(predictors[0], references, format_)
    bases: list[tuple[int | None, Words]] = [(0, references[0]), (None, np.zeros_like(words))]
    if not isinstance(predictors[0], Previous):
        bases.append((1, fitted))
    least, chosen = math.inf, None
    for index, base in bases:
        changes = view.matrix(_changes(words, base, format_))
        some = changes[factors.some_rows(view.rows), : factors.SOME_COLUMNS]
        exact = some.astype(np.float64).ravel()
        unit = factors.unit_of(math.sqrt(floats.summed(exact * exact) / exact.size))
        if not unit:
            continue
        likeness = factors.likeness(factors.integers(some, unit))
        left = likeness.squares * unit * unit * (1 - math.sqrt(likeness.cosines))
        if left < least:
            least, chosen = left, (index, base, changes, unit, likeness)
    if chosen is None:
        return None
    index, base, changes, unit, likeness = chosen
    is_alike = likeness.cosines * min(view.columns, factors.SOME_COLUMNS) > _LEAST_LIKENESS
    if not is_alike or likeness.weak > _MOST_WEAK:
        return None
    found = factors.found(factors.integers(changes, unit), unit, words.size)
    if found is None:
        return None
    expected = moved(base, found, view, format_)
    told = _told(found)
    few = glance.few(words)
    saved = _distance(few, glance.few(fitted)) - _distance(few, glance.few(expected))
    if told is None or saved * words.size <= 2 * 8 * len(told) * few.size:
        return None
    body = _of(words, rest, format_, index, found.s, view, found.left.shape[1], told, expected, row, start)
    return None if body is None else (index is not None, body)


def of(
    words: Words,
    rest: Buffer,
    format_: Format,
    index: int | None,
    base: Words,
    found: Factors,
    view: View,
    row: int,
    start: int,
) -> bytes | None:
    """Return a body of words that these factors are known of, None if there is none.

    Args:
        words: of the chunk.
        rest: the bytes after them.
        format_: of the words.
        index: None for a keyframe, 0 for the reference, else which of the tensor's predictors, from 1 on.
        base: what is predicted by that.
        found: the factors.
        view: the rows they are of.
        row: words of a row of the tensor, or 0.
        start: which word of the tensor the first one is.
    """
    told, expected = _told(found), moved(base, found, view, format_)
    if told is None:
        return None
    return _of(words, rest, format_, index, found.s, view, found.left.shape[1], told, expected, row, start)


def decode(
    data: Buffer, size: int, format_: Format, predictors: Sequence[Predictor] | None, references: Sequence[Words]
) -> bytes:
    """Return the chunk.

    Args:
        data: the body.
        size: bytes of the chunk.
        format_: of its words.
        predictors: the tensor's, None for a keyframe.
        references: words of as many references as the predictors need, each of the chunk's length.

    Raises:
        CodecError: not such a body, or not one of `size` bytes.
    """
    count = size // format_.word_bytes
    if not count:
        raise CodecError("factors of no words")
    reader = wire.Reader(data)
    try:
        index = None if predictors is None else reader.fixed(1)[0]
        (s,) = _SINGLE.unpack(reader.fixed(_SINGLE.size))
        columns, first, directions = reader.uint(), reader.uint(), reader.uint()
        told, delta = reader.blob(), reader.rest()
    except wire.WireError as error:
        raise CodecError(f"factors: {error.message}") from None
    if index is not None and predictors is not None and index > len(predictors):
        raise CodecError(f"factors beside predictor {index} of {len(predictors)}")
    if not math.isfinite(s) or not 0 < columns <= min(count, _MOST_COLUMNS) or first >= columns:
        raise CodecError(f"factors by {s}, of rows of {columns} from {first} on, in a chunk of {count} words")
    view = View(columns, first, count)
    if not 0 < directions <= factors.MOST or directions * (view.rows + columns) > count:
        raise CodecError(f"{directions} directions of {view.rows} rows of {columns}, for {count} words")
    numbers = _read(told, directions * (view.rows + columns)).reshape(directions, -1)
    found = Factors(s, numbers[:, : view.rows].T, numbers[:, view.rows :])
    if predictors is None or index is None:
        base = np.zeros(count, f"<u{format_.word_bytes}")
    elif index:
        base = predict.predicted(predictors[index - 1], references, format_)
    else:
        base = references[0]
    expected = moved(base, found, view, format_)
    return residual_rans.decode(delta, size, format_, (Previous(),), [expected])


def _changes(words: Words, base: Words, format_: Format) -> Singles:
    """Return how far words are from others, in binary32; 0 where that is no number."""
    with np.errstate(all="ignore"):
        one, other = (floats.numbers(some, format_).astype(np.float32) for some in (words, base))
        changes = one - other
        return np.where(np.isfinite(changes), changes, np.float32(0))


def moved(base: Words, found: Factors, view: View, format_: Format) -> Words:
    """Return the words nearest to a prediction and the product; the prediction's where that is special."""
    changes = found.numbers()[view.first : view.first + view.words]
    with np.errstate(all="ignore"):
        numbers = floats.numbers(base, format_).astype(np.float32) + changes
        words = floats.rounded(numbers.astype(np.float64), format_)
    return np.where(floats.special(words, format_), base, words)


def _distance(words: Words, expected: Words) -> int:
    """Return the sum of tokens: twice the bits, about, that tell how far words are from others."""
    return int(tokens.tokens(order.zigzag(order.places(words) - order.places(expected))).sum(dtype=np.int64))


def _told(found: Factors) -> bytes | None:
    """Return the factors as a body of `residual-rans` against zeros, of signs and magnitudes."""
    numbers = np.concatenate((found.left.T, found.right), axis=1).ravel()
    words = (np.abs(numbers) | np.where(numbers < 0, 1 << 31, 0)).astype("<u4")
    return residual_rans.encode(words, b"", BINARY32, (Previous(),), [np.zeros_like(words)], 0, 0, words.nbytes)


def _read(told: Buffer, count: int) -> Integers:
    """Return what `_told` was given.

    Raises:
        CodecError: it is damaged, or a number is too large.
    """
    zeros = np.zeros(count, "<u4")
    words = np.frombuffer(residual_rans.decode(told, 4 * count, BINARY32, (Previous(),), [zeros]), "<u4")
    numbers = (words & 0x7FFFFFFF).astype(np.int64)
    if numbers.max() > factors.MOST_FACTOR:
        raise CodecError(f"a factor has {int(numbers.max())}, at most {factors.MOST_FACTOR} is known")
    return np.where(words >> 31, -numbers, numbers)


def _of(
    words: Words,
    rest: Buffer,
    format_: Format,
    index: int | None,
    s: float,
    view: View,
    directions: int,
    told: bytes,
    expected: Words,
    row: int,
    start: int,
) -> bytes | None:
    delta = residual_rans.encode(words, rest, format_, (Previous(),), [expected], row, start, words.nbytes)
    if delta is None:
        return None
    out = wire.Writer()
    if index is not None:
        out.fixed(bytes((index,)))
    out.fixed(_SINGLE.pack(s))
    out.uint(view.columns)
    out.uint(view.first)
    out.uint(directions)
    out.blob(told)
    out.fixed(delta)
    return out.getvalue()
