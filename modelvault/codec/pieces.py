"""Codecs 19 and 20, `pieces-delta` and `pieces`: the words of a chunk piece by piece, counted along each piece's steps.

Small tensors share a chunk, and a lossy commit leaves each of them on steps of its own: matrices on a lattice, norms
and biases with short mantissas, some as they were. A large tensor is a chunk's only piece, and gains by the rows and
columns of `spreads`. What is said of a piece takes a few bits where it is as for the one before. Words that stand on no
step, and pieces that are kept exactly, are a frame of their own.

Finding steps and telling pieces is done here; counting and coding words is `kernels`' work.
"""

from __future__ import annotations

import math
import operator
import struct
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from modelvault import wire
from modelvault.codec import ends, glance, kernels, lattice, order, plan, spreads
from modelvault.codec.bits import BitReader, BitWriter
from modelvault.codec.ends import Ends
from modelvault.codec.errors import CodecError
from modelvault.codec.floats import FORMATS, Levels, Mask
from modelvault.codec.lattice import MANTISSA_BITS, Decode, Encode, values_of
from modelvault.codec.order import Words
from modelvault.codec.plan import Kind, Piece
from modelvault.codec.spreads import Run
from modelvault.codec.steps import Grid
from modelvault.tensors import DType

if TYPE_CHECKING:
    from typing_extensions import Buffer

_MOST_GRIDS = 7
_LENGTH_K, _EXPONENT_K, _FACTOR_K = 6, 4, 8

_ANCHORED_WORDS = 2048
_MOST_TRIED = 4
"""The longest pieces tell which step it is: a hundred norms and biases as training made them took 10 ms for none."""

_MOST_DIGITS = 8
_NEAR = 0.05
_AGREEMENT = 7 / 8

_STRAY = 8
"""A piece may have one word of so many that stands on no step."""


class Steps(NamedTuple):
    """What a piece's words are, but for what the reference is multiplied with."""

    kind: Kind
    exponent: int = 0
    mantissa: int = 0
    step: float = 0.0


_APART, _SAME = Steps(Kind.APART), Steps(Kind.SAME)


def encode(
    words: Words, tail: bytes, reference: Words | None, dtype: DType, runs: Sequence[Run], frame: Encode
) -> bytes | None:
    """Return a body, or None if no piece stands on steps.

    Args:
        words: the chunk's.
        tail: its bytes after the last whole word.
        reference: as many words; None for a keyframe.
        dtype: one with a float format.
        runs: its pieces, which have all its words.
        frame: makes a frame of what stands on no step.
    """
    found = find(words, reference, dtype, runs)
    if not any(piece.is_counted for piece in found):
        return None
    return of(words, tail, reference, dtype, found, frame)


def of(
    words: Words, tail: bytes, reference: Words | None, dtype: DType, found: Sequence[Piece], frame: Encode
) -> bytes:
    """Return a body of words that are found to be these pieces."""
    core, marks = kernels.current.encode_pieces(
        dtype.code, words.data, None if reference is None else reference.data, plan.pack(found)
    )
    out = wire.Writer()
    out.fixed(_told(found, reference is not None))
    if not marks and not tail and all(piece.kind is not Kind.APART for piece in found):
        out.fixed(bytes(1))
        out.blob(core)
        return out.getvalue()
    off = _apart(found)
    if marks:
        counted = _counted(found)
        on = np.frombuffer(marks, np.uint8)[counted] == 0
        out.fixed(lattice.write_runs(on))
        off[counted] = ~on
    else:
        out.fixed(bytes(1))
    out.blob(core)
    out.fixed(lattice.write_off(words[off], None if reference is None else reference[off], tail, dtype, frame))
    return out.getvalue()


def decode(
    body: Buffer, size: int, reference: npt.NDArray[np.uint8] | None, dtype: DType, unframe: Decode
) -> bytearray:
    """Return the bytes of the chunk.

    Args:
        body: what `encode` returned.
        size: bytes expected.
        reference: the reference's bytes; a keyframe has none.
        dtype: what the words are.
        unframe: reads the frame of what stands on no step.

    Raises:
        CodecError: not such a body, or not one of `size` bytes.
    """
    if dtype not in FORMATS:
        raise CodecError(f"pieces in a tensor of {dtype.name}")
    count = size // order.word_bytes(dtype)
    found, rest = _read(memoryview(body), count, reference is not None)
    lengths, core, apart = _split(rest, found)
    raw = kernels.current.decode_pieces(
        dtype.code, core, size, None if reference is None else reference.data, plan.pack(found)
    )
    out = bytearray(raw)
    words = order.words(np.frombuffer(out, np.uint8), dtype)
    off = _apart(found)
    if lengths:
        counted = _counted(found)
        off[counted] = ~lattice.from_runs(lengths, int(counted.sum()))
    elif not apart and size == words.nbytes and not off.any():
        return out
    base = None if reference is None else order.words(reference, dtype)[off]
    words[off], out[words.nbytes :] = lattice.read_off(apart, int(off.sum()), size - words.nbytes, dtype, base, unframe)
    return out


def _apart(found: Sequence[Piece]) -> Mask:
    """Return which words are in another frame."""
    return np.repeat(np.array([piece.kind is Kind.APART for piece in found]), [piece.run.words for piece in found])


def _counted(found: Sequence[Piece]) -> Mask:
    """Return which words become residuals."""
    return np.repeat(np.array([piece.is_counted for piece in found]), [piece.run.words for piece in found])


def runs_of(body: Buffer, count: int, *, delta: bool) -> list[Run]:
    """Return the pieces of a body, of `count` words, and what it tells of their rows.

    Raises:
        CodecError: not such a body.
    """
    found, rest = _read(memoryview(body), count, delta)
    core = _split(rest, found)[1]
    rows = iter(spreads.rows_of(core, [piece.run.words for piece in found if piece.is_counted]))
    return [next(rows) if piece.is_counted else piece.run for piece in found]


def _split(rest: memoryview, found: Sequence[Piece]) -> tuple[list[int], bytes, bytes]:
    """Return the lengths of runs on and off the steps, the coded integers, and what keeps the words off them."""
    counted = sum(piece.run.words for piece in found if piece.is_counted)
    reader = wire.Reader(rest)
    try:
        return [reader.uint(counted) for _ in range(reader.count())], reader.blob(), reader.rest()
    except wire.WireError as error:
        raise CodecError(f"pieces: {error.message}") from None


# Which steps


def find(words: Words, reference: Words | None, dtype: DType, runs: Sequence[Run]) -> list[Piece]:
    """Return what the words of each piece are found to be."""
    found = [*_of_pieces(words, reference, dtype, runs)]
    if reference is not None and _APART in found and glance.may_be_anchored(words, reference):
        found = _with_anchored(words, reference, dtype, runs, found)
    whole = [
        Piece(run, some.kind, some.exponent, some.mantissa, some.step if some.kind is Kind.ANCHORED else 1.0)
        for run, some in zip(runs, found, strict=True)
    ]
    if reference is None or not any(piece.kind is Kind.EQUAL for piece in whole):
        return whole
    told = kernels.current.fit_pieces(dtype.code, words.data, reference.data, plan.pack(whole))
    factors = struct.unpack(f"<{len(whole)}d", told)
    return [
        piece if factor == 1 else piece._replace(value=factor) for piece, factor in zip(whole, factors, strict=True)
    ]


def _of_pieces(words: Words, reference: Words | None, dtype: DType, runs: Sequence[Run]) -> Iterator[Steps]:
    starts = np.cumsum([0, *(run.words for run in runs)])
    if len(runs) == 1:
        yield _of_one(words, dtype)
        return
    same = np.zeros(len(runs), np.bool_)
    if reference is not None:
        same = np.logical_and.reduceat(words == reference, starts[:-1])
    highest, lowest = ends.ends_of(words, dtype)
    kept = highest - lowest
    full = MANTISSA_BITS[dtype] - glance.SHORT + 1
    cut = kept < full
    sizes = np.diff(starts)
    usable = np.add.reduceat(~cut, starts[:-1]) * _STRAY <= sizes
    usable &= ~same
    of_words = np.repeat(usable, sizes) & cut & (kept >= 0)
    if not of_words.any():
        yield from (_SAME if is_same else _APART for is_same in same.tolist())
        return
    # The lowest bit that is set in a piece, and the most bits that a word of it has.
    floors = np.minimum.reduceat(np.where(of_words, lowest, plan.MAX_EXPONENT), starts[:-1])
    most = np.maximum.reduceat(np.where(of_words, kept, 0), starts[:-1])
    along = np.add.reduceat(np.where(of_words, highest - floors.repeat(sizes) + 1, 0), starts[:-1])
    is_equal = usable & (along <= np.add.reduceat(np.where(of_words, most.repeat(sizes), 0), starts[:-1]))
    step = _usual(floors[is_equal], sizes[is_equal])
    many = usable & ~is_equal
    doubling = of_words & many.repeat(sizes)
    grid = ends.grid_of(ends.count(highest[doubling], lowest[doubling]), dtype)
    if grid is not None:
        # What stands on these steps too, and on none that is usual, is told in fewer bits so.
        on = (lowest >= grid.exponent) | (kept <= grid.mantissa)
        is_equal &= (floors >= step) | ~np.logical_and.reduceat(on | ~of_words, starts[:-1])
    told = _told_steps(floors, is_equal, step)
    for place in range(len(runs)):
        if same[place]:
            yield _SAME
        elif is_equal[place]:
            floor = int(floors[place])
            yield Steps(Kind.EQUAL, step if floor >= step else floor if floor in told else min(told))
        elif usable[place] and grid is not None:
            yield Steps(Kind.DOUBLING, grid.exponent, grid.mantissa)
        else:
            yield _APART


def _with_anchored(
    words: Words, reference: Words, dtype: DType, runs: Sequence[Run], found: Sequence[Steps]
) -> list[Steps]:
    """Return what pieces are, with those that stand at multiples of one step from the reference."""
    parts, start = dict[int, slice](), 0
    for place, (run, some) in enumerate(zip(runs, found, strict=True)):
        if some is _APART:
            parts[place] = slice(start, start + run.words, max(1, run.words // _ANCHORED_WORDS) | 1)
        start += run.words
    step = None
    for place in sorted(parts, key=lambda place: -runs[place].words)[:_MOST_TRIED]:
        new, old = words[parts[place]], reference[parts[place]]
        if step is None and glance.may_be_anchored(new, old):
            step = _step_from(new, old, dtype)
    after = list(found)
    for place, part in parts.items():
        if step is not None and _agrees(words[part], reference[part], dtype, step):
            after[place] = Steps(Kind.ANCHORED, step=step)
    return after


def _ulp(words: Words, dtype: DType) -> float:
    """Return how far the words' typical magnitude lies from the next number of the dtype."""
    magnitudes = np.abs(values_of(words, dtype))
    typical = float(np.median(magnitudes[np.isfinite(magnitudes)]))
    return math.ldexp(1.0, math.frexp(typical)[1] - 1 - MANTISSA_BITS[dtype])


def _step_from(words: Words, reference: Words, dtype: DType) -> float | None:
    """Return the step of which words are multiples away from a reference, or None.

    A bound that somebody chose is a number of few digits; its step is known to the last bit then.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        distances = np.abs(values_of(words, dtype) - values_of(reference, dtype))
        distances = distances[np.isfinite(distances) & (distances > 0)]
    if distances.size < glance.LEAST_MOVED:
        return None
    nearest = np.sort(distances)[: max(1, distances.size // 64)]
    step = float(nearest[nearest.size // 2])
    for most in (4, 64, 1 << 20):  # farther ones say it better, once it is known well enough to count them
        counts = np.rint(distances / step)
        usable = (counts > 0) & (counts <= most) & (np.abs(distances / step - counts) < _NEAR * 4)
        if not usable.any():
            return None
        step = float((counts * distances)[usable].sum() / (counts * counts)[usable].sum())
    if np.count_nonzero(np.abs(distances / step - np.rint(distances / step)) < _NEAR) < _AGREEMENT * distances.size:
        return None
    if step < glance.LEAST_ULPS * _ulp(words, dtype):
        return None  # as any two numbers of the dtype lie
    for digits in range(1, _MOST_DIGITS + 1):
        told = 2 * math.log1p(float(f"{math.expm1(step / 2):.{digits}g}")) if step < 8 else step
        if told > 0 and abs(told / step - 1) < 1e-3 and _agrees(words, reference, dtype, told):
            return told
    return step


def _agrees(words: Words, reference: Words, dtype: DType, step: float) -> bool:
    """Return whether most words are multiples of a step from a reference, to the bit."""
    off = plan.counted(words, reference, dtype, Piece(Run(words.size), Kind.ANCHORED, value=step))[2]
    return int(np.count_nonzero(off)) <= (1 - _AGREEMENT) * words.size


def _of_one(words: Words, dtype: DType) -> Steps:
    some = np.ascontiguousarray(glance.sample(words))
    told = memoryview(kernels.current.ends(dtype.code, some.data)).cast("q").tolist()
    step = _plain_lattice(told[::3], told[1::3], told[2::3], dtype)
    if step is not None:
        return Steps(Kind.EQUAL, step)
    found = Ends(*np.array(told, np.int64).reshape(-1, 3).T)
    is_cut = found.highest - found.lowest <= MANTISSA_BITS[dtype] - glance.SHORT
    cut = Ends(*(each[is_cut] for each in found))
    step = ends.equal_step(found, dtype)
    if not _is_lattice(found, step) and cut.times.sum() * _STRAY >= found.times.sum() * (_STRAY - 1):
        grid = ends.grid_of(cut, dtype)
        if grid is not None and abs(grid.exponent) <= plan.MAX_EXPONENT and not _may_be_equal(cut, step, grid):
            return Steps(Kind.DOUBLING, grid.exponent, grid.mantissa)
    return _APART if step is None or abs(step) > plan.MAX_EXPONENT else Steps(Kind.EQUAL, step)


def _plain_lattice(highest: list[int], lowest: list[int], times: list[int], dtype: DType) -> int | None:
    """Return the step of which numbers with these ends are multiples beyond doubt, as a lossy commit leaves a matrix.

    About half of all multiples are odd then. Telling it from these few integers takes a sixth of the time.
    """
    if not times:
        return None
    step = min(lowest)
    span = max(highest) - step
    if span > max(map(operator.sub, highest, lowest)) + 1 or abs(step) > plan.MAX_EXPONENT:
        return None
    if span + 2.5 >= glance.COARSE_SHARE * (MANTISSA_BITS[dtype] + 3):
        return None
    odd = sum(count for end, count in zip(lowest, times, strict=True) if end == step)
    return step if odd * 2.25 >= sum(times) else None


def _is_lattice(found: Ends, step: int | None) -> bool:
    """Return whether numbers use all the bits there are from a step up to the largest of them, as multiples do."""
    if step is None or int(found.lowest.min()) < step:
        return False
    lengths = found.highest - found.lowest
    return int(found.highest.max()) - int(found.lowest.min()) <= int(lengths.max()) + 1


def _may_be_equal(found: Ends, step: int | None, grid: Grid) -> bool:
    """Return whether numbers stand as well on equal steps: a few multiples of one do on doubling steps too.

    Counted along these, 0 and one step would lie hundreds apart.
    """
    if step is None:
        return False
    if grid.exponent <= step:
        return True
    return bool((found.lowest >= step).all()) and int(found.highest.max()) - step <= grid.mantissa + 1


def _usual(floors: Levels, sizes: Levels) -> int:
    """Return the exponent that most words have for their step."""
    if not floors.size:
        return 0
    exponents, at = np.unique(floors, return_inverse=True)
    return int(exponents[np.bincount(at, sizes).argmax()])


def _told_steps(floors: Levels, equal: Mask, step: int) -> list[int]:
    """Return the exponents of steps, as many as can be told: the usual one, and finer ones."""
    finer = sorted({int(floor) for floor in floors[equal] if floor < step}, reverse=True)
    if len(finer) > _MOST_GRIDS - 2:
        finer = [*finer[: _MOST_GRIDS - 3], finer[-1]]
    return [step, *finer]


# Told


def _told(pieces: Sequence[Piece], delta: bool) -> bytes:
    """Return what says of each piece what it is."""
    out = BitWriter()
    grids = list(dict.fromkeys(_steps(piece) for piece in pieces if piece.is_counted))
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


def _steps(piece: Piece) -> Steps:
    step = piece.value if piece.kind is Kind.ANCHORED else 0.0
    return Steps(piece.kind, piece.exponent, piece.mantissa, step)


def _read(body: memoryview, count: int, delta: bool) -> tuple[list[Piece], memoryview]:
    """Return the pieces of `count` words, and what follows."""
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
    return found, body[reader.end() :]


def _read_steps(reader: BitReader) -> Steps:
    kind = reader.uint(2) + Kind.EQUAL
    if kind == Kind.ANCHORED:
        (step,) = struct.unpack("<d", struct.pack("<II", reader.uint(32), reader.uint(32)))
        if not math.isfinite(step) or step <= 0:
            raise CodecError(f"multiples of {step}")
        return Steps(Kind.ANCHORED, step=step)
    if kind not in (Kind.EQUAL, Kind.DOUBLING):
        raise CodecError(f"steps of kind {kind - Kind.EQUAL}")
    mantissa = reader.uint(5) if kind == Kind.DOUBLING else 0
    exponent = _unzigzag(reader.golomb(_EXPONENT_K))
    if abs(exponent) > plan.MAX_EXPONENT:
        raise CodecError(f"steps of 2^{exponent}")
    return Steps(Kind(kind), exponent, mantissa)


def _zigzag(value: int) -> int:
    return -2 * value - 1 if value < 0 else 2 * value


def _unzigzag(value: int) -> int:
    return value >> 1 if value & 1 == 0 else -(value + 1 >> 1)
