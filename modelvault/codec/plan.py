"""How the words of each piece of a chunk are counted: along which steps, from what.

A *piece* is a run of a chunk's words, such as one of the small tensors that share a chunk. Its words may be counted
along steps (`steps`: all the same, or doubling), along steps of any length from the reference (the Delta-DNN paper's
form), be those of the reference, or be left to another frame. What is counted becomes residuals and classes, which
`spreads` codes.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from modelvault.codec import floats, glance, integers, lattice, steps
from modelvault.codec.errors import CodecError
from modelvault.codec.floats import Levels, Mask
from modelvault.codec.lattice import values_of, words_of
from modelvault.codec.order import Words
from modelvault.codec.spreads import EXACT, Run
from modelvault.codec.steps import Grid
from modelvault.tensors import DType


class Kind(enum.IntEnum):
    """What a piece's words are."""

    APART = 0  # in another frame
    SAME = 1  # those of the reference
    EQUAL = 2  # multiples of one step, a power of two
    DOUBLING = 3  # numbers with short mantissas
    ANCHORED = 4  # at multiples of a step from the reference


class Piece(NamedTuple):
    """One piece.

    Attributes:
        run: its words, and how they lie in rows.
        kind: what they are.
        exponent: of the step; of the largest where they double.
        mantissa: bits of mantissa that are kept, where steps double.
        value: what the reference is multiplied with, where steps are equal; the step, where anchored.
    """

    run: Run
    kind: Kind
    exponent: int = 0
    mantissa: int = 0
    value: float = 1.0

    @property
    def is_counted(self) -> bool:
        """Whether its words become residuals."""
        return self.kind >= Kind.EQUAL

    @property
    def grid(self) -> Grid:
        """The steps, where they are powers of two."""
        return Grid(self.exponent, self.mantissa)


MAX_EXPONENT = 200
"""No word of 16 or 32 bits needs a step beyond 2^-200 or 2^200."""

FACTOR = 1 << 16
"""What a reference is multiplied with is told in 65536ths from 1."""

_LEAST_FIT = 64
"""A factor takes two bytes, about. From 256 words on only: ShuffleNet's small tensors, snapshot 7, 33,907 bytes instead
of 32,592."""

_LIMIT = 1 << 22

Pieces: TypeAlias = npt.NDArray[np.void]
"""Records of `RECORD`, one for each piece, as kernels take them."""

RECORD = np.dtype(
    [
        ("words", "<u4"),
        ("row", "<u4"),
        ("start", "<u4"),
        ("kind", "u1"),
        ("mantissa", "u1"),
        ("exponent", "<i2"),
        ("value", "<f8"),
    ]
)
"""The fields of a piece and of its run."""


def records(pieces: Sequence[Piece]) -> Pieces:
    """Return pieces as records."""
    fields = [(*piece.run, piece.kind, piece.mantissa, piece.exponent, piece.value) for piece in pieces]
    return np.array(fields, RECORD)


def pack(pieces: Sequence[Piece]) -> bytes:
    """Return pieces as bytes, for a kernel."""
    return records(pieces).tobytes()


def unpack(data: bytes | Pieces) -> list[Piece]:
    """Return the pieces of records, or of their bytes."""
    return [
        Piece(Run(words, row, start), Kind(kind), exponent, mantissa, value)
        for words, row, start, kind, mantissa, exponent, value in np.frombuffer(data, RECORD).tolist()
    ]


def fitted(words: Words, reference: Words, dtype: DType, piece: Piece) -> float:
    """Return what the reference of a piece on equal steps is best multiplied with: 1, or what is nearer.

    Found by least squares over some of the words, in whole 65536ths, and taken where distances add up to less.

    Args:
        words: the piece's.
        reference: as many.
        dtype: what both are.
        piece: of any kind; 1 for all others.
    """
    if piece.kind is not Kind.EQUAL or words.size < _LEAST_FIT:
        return 1.0
    with np.errstate(invalid="ignore", over="ignore"):
        new, old = (np.ldexp(values_of(glance.sample(some), dtype), -piece.exponent) for some in (words, reference))
        usable = (np.abs(new) < _LIMIT) & (np.abs(old) < _LIMIT)
    new, old = np.where(usable, new, 0.0), np.where(usable, old, 0.0)
    energy = floats.summed(old * old)
    if not energy > 0:
        return 1.0
    told = float(np.rint((floats.summed(old * new) / energy - 1) * FACTOR))
    if not told or abs(told) > FACTOR // 2:
        return 1.0
    factor = 1 + told / FACTOR
    before, after = (floats.summed(np.abs(np.rint(old * some) - new)) for some in (1.0, factor))
    return factor if after < before - before / 64 - 8 else 1.0


def counted(words: Words, reference: Words | None, dtype: DType, piece: Piece) -> tuple[Levels, Levels, Mask]:
    """Return residuals and classes, and which words are none of this kind: their residuals are 0."""
    count = words.size
    if piece.kind is Kind.ANCHORED:
        places, on = _multiples(words, reference, dtype, piece.value)
    elif piece.kind is Kind.DOUBLING:
        on, some = steps.places(words, dtype, piece.grid)
        places = np.zeros(count, np.int64)
        places[on] = some
    else:
        elements = lattice.to_integers(words, dtype, piece.exponent)
        on, places = elements.on, np.zeros(count, np.int64)
        places[on] = elements.integers
    points, sides, classes = _expected(count, reference, dtype, piece)
    residuals = (places - points) * sides
    off = ~on | (np.abs(residuals) >= integers.LIMIT)
    residuals[off] = 0
    return residuals, classes, off


def restored(
    residuals: Levels, points: Levels, sides: Levels, reference: Words | None, dtype: DType, piece: Piece
) -> Words:
    """Return the words of a piece.

    Raises:
        CodecError: there is no such word.
    """
    places = points + residuals * sides
    if piece.kind is Kind.ANCHORED:
        return _at(places, reference, dtype, piece.value)
    return steps.words_at(places, dtype, piece.grid)


def classes_of(count: int, reference: Words | None, dtype: DType, piece: Piece) -> tuple[Levels, Levels, Levels]:
    """Return the point each word is counted from, the side it is counted to, and the class.

    Raises:
        CodecError: a dtype has no such steps.
    """
    if piece.kind is Kind.DOUBLING and not steps.is_grid(dtype, piece.grid):
        raise CodecError(f"steps of 2^{piece.exponent} and {piece.mantissa} bits in a tensor of {dtype.name}")
    return _expected(count, reference, dtype, piece)


def _expected(count: int, reference: Words | None, dtype: DType, piece: Piece) -> tuple[Levels, Levels, Levels]:
    if reference is None or piece.kind is Kind.ANCHORED:
        return np.zeros(count, np.int64), np.ones(count, np.int64), np.full(count, EXACT, np.int64)
    if piece.kind is Kind.DOUBLING:
        return lattice.nearest(steps.predicted(reference, dtype, piece.grid))
    return lattice.nearest(lattice.predict(reference, dtype, piece.exponent, piece.value))


def _anchor(reference: Words | None, dtype: DType, count: int) -> npt.NDArray[np.float64]:
    if reference is None:
        return np.zeros(count)
    anchor = values_of(reference, dtype)
    anchor[~np.isfinite(anchor)] = 0.0
    return anchor


def _at(multiples: Levels, reference: Words | None, dtype: DType, step: float) -> Words:
    return words_of(_anchor(reference, dtype, multiples.size) + multiples * step, dtype)


def _multiples(words: Words, reference: Words | None, dtype: DType, step: float) -> tuple[Levels, Mask]:
    with np.errstate(invalid="ignore", over="ignore"):
        found = np.rint((values_of(words, dtype) - _anchor(reference, dtype, words.size)) / step)
        near = np.abs(found) < integers.LIMIT
        places = np.where(near, found, 0.0).astype(np.int64)
    return places, near & (_at(places, reference, dtype, step) == words)
