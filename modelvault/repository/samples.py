"""Which pieces of a tensor stand for all of it when it is decided how it is coded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from modelvault import codec
from modelvault.tensors import CHUNK_BYTES, DType

_CHUNKS = 4
_PIECES = 8
_PIECE_BYTES = 16 << 10
"""So many pieces from so many of its chunks, each of whole rows where a row is not longer. Rows that a few batches left
alone may be nine of ten or none, and lie far apart."""


class Piece(NamedTuple):
    """`size` bytes from `start` on in chunk `place`."""

    place: int
    start: int
    size: int


def pieces(nbytes: int, dtype: DType, row: int) -> Iterator[Piece]:
    """Yield the pieces of a tensor's sample.

    Args:
        nbytes: length of the tensor.
        dtype: of its elements.
        row: words of a row, 0 if it has none.

    >>> list(pieces(100_000, DType.F32, 0))
    [Piece(place=0, start=0, size=100000)]
    """
    chunks = -(-nbytes // CHUNK_BYTES)
    row_bytes = row * codec.word_bytes(dtype)
    step = row_bytes if 0 < row_bytes <= _PIECE_BYTES else 16  # whole elements of any dtype
    for place in sorted({(2 * i + 1) * chunks // (2 * _CHUNKS) for i in range(_CHUNKS)}):
        first = place * CHUNK_BYTES
        length = min(nbytes - first, CHUNK_BYTES)
        if length <= _PIECES * _PIECE_BYTES:
            yield Piece(place, 0, length)
            continue
        for i in range(_PIECES):
            wanted = first + i * (length - _PIECE_BYTES) // _PIECES
            start = -(-wanted // step) * step
            yield Piece(place, start - first, min(_PIECE_BYTES // step * step, first + length - start))
