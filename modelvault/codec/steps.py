"""Codec 18, `steps-delta`: elements that stand on steps, against any reference, with next to no side information.

Steps are those of a lattice through zero (`lattice`), or those of numbers whose mantissas were cut to a few bits: they
double with every power of two, up to a number from which on they stay the same, as rounding within a relative and an
absolute bound leaves them. Either way the elements are counted along the steps, and the reference falls between two of
them; `integers` codes how far the one is from the other.

Every number here is a whole multiple of a power of two or rounded once in binary64, so every machine agrees.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from modelvault import wire
from modelvault.codec import integers, lattice, order
from modelvault.codec.errors import CodecError
from modelvault.codec.floats import FORMATS
from modelvault.codec.lattice import MANTISSA_BITS, Decode, Encode, values_of, words_of
from modelvault.codec.order import Words
from modelvault.tensors import DType

if TYPE_CHECKING:
    from typing_extensions import Buffer

_MOST = 1 << 31
"""Steps from zero are fewer."""


class Grid(NamedTuple):
    """The steps of a tensor.

    Attributes:
        exponent: of the step; where steps double, of the largest.
        mantissa: bits of mantissa that are kept where steps double; 0 where they do not, but all are the same.
    """

    exponent: int
    mantissa: int = 0


class _Doubling(NamedTuple):
    """A grid whose steps double up to a number, for words of a dtype."""

    shift: int  # bits of the mantissa that are cut
    first: int  # the word of that number; above all finite ones if there is none
    below: int  # steps below it


def encode(
    words: Words, tail: bytes, reference: Words, dtype: DType, grid: Grid, row: int, start: int, frame: Encode
) -> bytes:
    """Return a body; whatever stands on no step is paid for with more than its bytes.

    Args:
        words: the chunk's.
        tail: its bytes after the last whole word.
        reference: as many words.
        dtype: what the words are.
        grid: the steps.
        row: words of a row of the tensor, 0 or 1 if there are no rows.
        start: which word of the tensor the chunk's first is.
        frame: makes a frame of what stands on no step.
    """
    out = wire.Writer()
    out.fixed(bytes((grid.mantissa,)))
    out.sint(grid.exponent)
    if grid.mantissa:
        on, counts = places(words, dtype, grid)
        expected = predicted(reference[on], dtype, grid)
    else:
        elements = lattice.to_integers(words, dtype, grid.exponent)
        scale = lattice.fit_scale(elements, reference, dtype, grid.exponent)
        out.float64(scale)
        on, counts = elements.on, elements.integers
        expected = lattice.predict(reference[on], dtype, grid.exponent, scale)
    points, sides, classes = lattice.nearest(expected)
    residuals = (counts - points) * sides
    fit = np.abs(residuals) < integers.LIMIT
    if not fit.all():
        on[on], residuals, classes = fit, residuals[fit], classes[fit]
    out.fixed(bytes(1) if on.all() else lattice.write_runs(on))
    out.blob(integers.write(residuals, classes, row, start) if residuals.size else b"")
    out.fixed(lattice.write_off(words[~on], reference[~on], tail, dtype, frame))
    return out.getvalue()


def decode(body: Buffer, size: int, reference: npt.NDArray[np.uint8], dtype: DType, unframe: Decode) -> bytearray:
    """Return the bytes of the chunk.

    Args:
        body: what `encode` returned.
        size: bytes expected.
        reference: the reference's bytes.
        dtype: what the words are.
        unframe: reads the frame of what stands on no step.

    Raises:
        CodecError: not such a body, or not one of `size` bytes.
    """
    out = bytearray(size)
    words, base = order.words(np.frombuffer(out, np.uint8), dtype), order.words(reference, dtype)
    reader = wire.Reader(body)
    try:
        grid = Grid(mantissa=reader.fixed(1)[0], exponent=reader.sint())
        scale = 1.0 if grid.mantissa else reader.float64()
        lengths = [reader.uint(words.size) for _ in range(reader.count())]
        inside, rest = reader.blob(), reader.rest()
    except wire.WireError as error:
        raise CodecError(f"steps: {error.message}") from None
    if abs(grid.exponent) > lattice.MAX_EXPONENT:
        raise CodecError(f"steps of 2^{grid.exponent}")
    if not math.isfinite(scale):
        raise CodecError(f"steps predicted with the scale {scale}")
    on = lattice.from_runs(lengths, words.size) if lengths else np.ones(words.size, np.bool_)
    if (grid.mantissa and not is_grid(dtype, grid)) or (dtype not in MANTISSA_BITS and on.any()):
        raise CodecError(f"steps of 2^{grid.exponent} and {grid.mantissa} bits in a tensor of {dtype.name}")
    if grid.mantissa:
        expected = predicted(base[on], dtype, grid)
    else:
        expected = lattice.predict(base[on], dtype, grid.exponent, scale)
    if expected.size:
        points, sides, classes = lattice.nearest(expected)
        words[on] = words_at(points + integers.read(inside, classes) * sides, dtype, grid)
    elif inside:
        raise CodecError("integers of elements that stand on no step")
    words[~on], out[words.nbytes :] = lattice.read_off(
        rest, words.size - expected.size, size - words.nbytes, dtype, base[~on], unframe
    )
    return out


def is_grid(dtype: DType, grid: Grid) -> bool:
    """Return whether a dtype has steps that double so."""
    return _doubling(dtype, grid) is not None


def _doubling(dtype: DType, grid: Grid) -> _Doubling | None:
    """Return a grid whose steps double as words of a dtype see it, or None if they have none such."""
    format_ = FORMATS.get(dtype)
    if format_ is None or not 0 < grid.mantissa <= format_.mantissa:
        return None
    shift = format_.mantissa - grid.mantissa
    bias = (1 << format_.bits - 2 - format_.mantissa) - 1
    level = grid.exponent + grid.mantissa + bias
    if level < 1:
        return None
    first = level << format_.mantissa if level <= 2 * bias else 1 << format_.bits - 1
    return _Doubling(shift, first, first >> shift)


def _magnitudes(words: Words) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Return words without their signs, and which have one."""
    top = 1 << 8 * words.itemsize - 1
    wide = words.astype(np.int64)
    return wide & top - 1, wide >= top


def places(words: Words, dtype: DType, grid: Grid) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.int64]]:
    """Return which words stand on steps, and on which those do: without a sign from 0 up, with one from -1 down."""
    doubling = _doubling(dtype, grid)
    assert doubling is not None
    magnitudes, negative = _magnitudes(words)
    near = magnitudes < doubling.first
    with np.errstate(invalid="ignore", over="ignore"):
        far = np.abs(np.ldexp(values_of(words, dtype), -grid.exponent))
        on = np.where(near, magnitudes & (1 << doubling.shift) - 1 == 0, (far < _MOST) & (np.rint(far) == far))
    counts = np.zeros(words.size, np.int64)
    counts[near] = magnitudes[near] >> doubling.shift
    beyond = on & ~near
    counts[beyond] = doubling.below + far[beyond].astype(np.int64) - (1 << grid.mantissa)
    return on, np.where(negative, -1 - counts, counts)[on]


def predicted(reference: Words, dtype: DType, grid: Grid) -> npt.NDArray[np.float64]:
    """Return where between the steps a reference falls; 0 where it is no number or too large for one."""
    doubling = _doubling(dtype, grid)
    assert doubling is not None
    magnitudes, negative = _magnitudes(reference)
    with np.errstate(invalid="ignore", over="ignore"):
        far = np.abs(np.ldexp(values_of(reference, dtype), -grid.exponent))
        far += doubling.below - (1 << grid.mantissa)
    predicted = np.where(magnitudes < doubling.first, np.ldexp(magnitudes.astype(np.float64), -doubling.shift), far)
    predicted = np.where(negative, -1.0 - predicted, predicted)
    predicted[~(np.abs(predicted) < _MOST)] = 0.0
    return predicted


def words_at(counts: npt.NDArray[np.int64], dtype: DType, grid: Grid) -> Words:
    """Return the words that stand on these steps.

    Raises:
        CodecError: there is no such step.
    """
    if not grid.mantissa:
        with np.errstate(over="ignore"):
            return words_of(np.ldexp(counts.astype(np.float64), grid.exponent), dtype)
    doubling = _doubling(dtype, grid)
    assert doubling is not None
    negative = counts < 0
    counts = np.where(negative, -1 - counts, counts)
    near = counts < doubling.below
    if int(counts.max(initial=0)) >= _MOST or (not near.all() and doubling.first >> 8 * order.word_bytes(dtype) - 1):
        raise CodecError("a step is out of range")
    with np.errstate(over="ignore"):
        far = np.ldexp((counts - doubling.below + (1 << grid.mantissa)).astype(np.float64), grid.exponent)
        found = np.where(near, counts << doubling.shift, words_of(far, dtype).astype(np.int64))
    found |= negative.astype(np.int64) << 8 * order.word_bytes(dtype) - 1
    words: Words = found.astype(f"<u{order.word_bytes(dtype)}")
    return words
