"""What is told of pieces: how many words each has, which steps they are on, what their reference is multiplied with.

What is as for the piece before takes a bit. `kernels` offers both ways in compiled code.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence

from modelvault.codec import plan
from modelvault.codec.bits import BitReader, BitWriter
from modelvault.codec.errors import CodecError
from modelvault.codec.plan import Kind, Piece
from modelvault.codec.spreads import Run

MOST_GRIDS = 7
_LENGTH_K, _EXPONENT_K, _FACTOR_K = 6, 4, 8

_Steps = tuple[Kind, int, int, float]
"""Kind, exponent, mantissa, and the step where anchored."""

_APART, _SAME = (Kind.APART, 0, 0, 0.0), (Kind.SAME, 0, 0, 0.0)


def write(pieces: Sequence[Piece], delta: bool) -> bytes:
    """Return what says of each piece what it is.

    Raises:
        ValueError: there are more kinds of steps than can be told.
    """
    out = BitWriter()
    grids = list(dict.fromkeys(_steps(piece) for piece in pieces if piece.is_counted))
    if len(grids) > MOST_GRIDS:
        raise ValueError(f"{len(grids)} kinds of steps, expected at most {MOST_GRIDS}")
    out.uint(len(grids), 3)
    for kind, exponent, mantissa, step in grids:
        out.uint(kind - Kind.EQUAL, 2)
        if kind is Kind.ANCHORED:
            for half in struct.unpack("<II", struct.pack("<d", step)):
                out.uint(half, 32)
            continue
        if kind is Kind.DOUBLING:
            out.uint(mantissa, 5)
        out.golomb(_zigzag(exponent), _EXPONENT_K)
    out.golomb(len(pieces) - 1, 0)
    numbers = {some: number for number, some in enumerate((_APART, _SAME, *grids))}
    width = (len(grids) + 1).bit_length()
    words, before = 0, 2
    for place, piece in enumerate(pieces):
        if place + 1 < len(pieces):
            is_other = piece.run.words != words
            out.uint(is_other, 1)
            if is_other:
                out.golomb(piece.run.words - 1, _LENGTH_K)
        number = numbers[_steps(piece)]
        out.uint(number != before, 1)
        if number != before:
            out.uint(number, width)
        if piece.kind is Kind.EQUAL and delta:
            told = round((piece.value - 1) * plan.FACTOR)
            out.uint(told != 0, 1)
            if told:
                out.golomb(_zigzag(told), _FACTOR_K)
        words, before = piece.run.words, number
    return out.getvalue()


def _steps(piece: Piece) -> _Steps:
    if not piece.is_counted:
        return _SAME if piece.kind is Kind.SAME else _APART
    step = piece.value if piece.kind is Kind.ANCHORED else 0.0
    return piece.kind, piece.exponent, piece.mantissa, step


def read(body: bytes, count: int, delta: bool) -> tuple[list[Piece], int]:
    """Return the pieces of `count` words, and how many bytes told them.

    Raises:
        CodecError: not what `write` returned.
    """
    reader = BitReader(body)
    grids = [_read_steps(reader) for _ in range(reader.uint(3))]
    choices = (_APART, _SAME, *grids)
    width = (len(grids) + 1).bit_length()
    of_all = reader.golomb(0) + 1
    if of_all > max(count, 1) or of_all > reader.remaining:
        raise CodecError(f"{of_all} pieces of {count} words")
    found = list[Piece]()
    words, number, left = 0, 2, count
    for place in range(of_all):
        if place + 1 == of_all:
            words = left
        elif reader.uint(1):
            words = reader.golomb(_LENGTH_K) + 1
        left -= words
        if left < 0 or (not words and count):
            raise CodecError(f"pieces have more than {count} words, or none")
        if reader.uint(1):
            number = reader.uint(width)
        if number >= len(choices) or (choices[number] is _SAME and not delta) or (number > 1 and not words):
            raise CodecError(f"piece of kind {number}, expected below {len(choices)}")
        kind, exponent, mantissa, value = choices[number]
        if kind is Kind.EQUAL:
            value = 1.0
            if delta and reader.uint(1):
                value += _unzigzag(reader.golomb(_FACTOR_K)) / plan.FACTOR
        found.append(Piece(Run(words), kind, exponent, mantissa, value))
    return found, reader.end()


def _read_steps(reader: BitReader) -> _Steps:
    kind = reader.uint(2) + Kind.EQUAL
    if kind == Kind.ANCHORED:
        (step,) = struct.unpack("<d", struct.pack("<II", reader.uint(32), reader.uint(32)))
        if not math.isfinite(step) or step <= 0:
            raise CodecError(f"multiples of {step}")
        return Kind.ANCHORED, 0, 0, step
    if kind not in (Kind.EQUAL, Kind.DOUBLING):
        raise CodecError(f"steps of kind {kind - Kind.EQUAL}")
    mantissa = reader.uint(5) if kind == Kind.DOUBLING else 0
    exponent = _unzigzag(reader.golomb(_EXPONENT_K))
    if abs(exponent) > plan.MAX_EXPONENT:
        raise CodecError(f"steps of 2^{exponent}")
    return Kind(kind), exponent, mantissa, 0.0


def _zigzag(value: int) -> int:
    return -2 * value - 1 if value < 0 else 2 * value


def _unzigzag(value: int) -> int:
    return value >> 1 if value & 1 == 0 else -(value + 1 >> 1)
