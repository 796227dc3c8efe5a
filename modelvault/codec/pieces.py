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
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from modelvault import wire
from modelvault.codec import ends, glance, kernels, lattice, order, plan, spreads, told
from modelvault.codec.ends import Ends, Survey
from modelvault.codec.errors import CodecError
from modelvault.codec.floats import FORMATS, Levels, Mask
from modelvault.codec.lattice import MANTISSA_BITS, Decode, Encode, values_of
from modelvault.codec.order import Words
from modelvault.codec.plan import Kind, Piece, Pieces
from modelvault.codec.spreads import Run
from modelvault.codec.steps import Grid
from modelvault.tensors import DType

if TYPE_CHECKING:
    from typing_extensions import Buffer

_ANCHORED_WORDS = 2048
_MOST_TRIED = 4
"""The longest pieces tell which step it is: a hundred norms and biases as training made them took 10 ms for none."""

_MOST_DIGITS = 8
_NEAR = 0.05
_AGREEMENT = 7 / 8

_STRAY = 8
"""A piece may have one word of so many that stands on no step."""


_APART, _EQUAL = Kind.APART, Kind.EQUAL  # a chunk looks at them often, and looking a member up takes a microsecond


class Steps(NamedTuple):
    """Steps of one length, or doubling ones: kind, exponent of the step or of the largest, bits of mantissa kept."""

    kind: Kind
    exponent: int = 0
    mantissa: int = 0


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
    if max(_kinds(found)) < _EQUAL:
        return None
    return of(words, tail, reference, dtype, found, frame)


def of(words: Words, tail: bytes, reference: Words | None, dtype: DType, found: Pieces, frame: Encode) -> bytes:
    """Return a body of words that are found to be these pieces."""
    packed = found.tobytes()
    core, marks = kernels.current.encode_pieces(
        dtype.code, words.data, None if reference is None else reference.data, packed
    )
    out = wire.Writer()
    out.fixed(kernels.current.tell_pieces(packed, reference is not None))
    if not marks and not tail and _APART not in _kinds(found):
        out.fixed(bytes(1))
        out.blob(core)
        return out.getvalue()
    off = np.repeat(found["kind"] == _APART, found["words"])
    if marks:
        counted = np.repeat(_is_counted(found), found["words"])
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
) -> bytes | bytearray:
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
    packed, used = kernels.current.read_pieces(body, count, reference is not None)
    found = np.frombuffer(packed, plan.RECORD)
    lengths, core, apart = _split(memoryview(body)[used:], found)
    raw = kernels.current.decode_pieces(dtype.code, core, size, None if reference is None else reference.data, packed)
    if not lengths and not apart and size == count * order.word_bytes(dtype) and _APART not in _kinds(found):
        return raw
    out = bytearray(raw)
    words = order.words(np.frombuffer(out, np.uint8), dtype)
    off = np.repeat(found["kind"] == _APART, found["words"])
    if lengths:
        counted = np.repeat(_is_counted(found), found["words"])
        off[counted] = ~lattice.from_runs(lengths, int(counted.sum()))
    base = None if reference is None else order.words(reference, dtype)[off]
    words[off], out[words.nbytes :] = lattice.read_off(apart, int(off.sum()), size - words.nbytes, dtype, base, unframe)
    return out


def _is_counted(found: Pieces) -> Mask:
    """Return which pieces' words become residuals."""
    counted: Mask = found["kind"] >= _EQUAL
    return counted


def _kinds(found: Pieces) -> bytes:
    return found["kind"].tobytes()


def runs_of(body: Buffer, count: int, *, delta: bool) -> list[Run]:
    """Return the pieces of a body, of `count` words, and what it tells of their rows.

    Raises:
        CodecError: not such a body.
    """
    packed, used = kernels.current.read_pieces(body, count, delta)
    found = plan.unpack(packed)
    core = _split(memoryview(body)[used:], np.frombuffer(packed, plan.RECORD))[1]
    rows = iter(spreads.rows_of(core, [piece.run.words for piece in found if piece.is_counted]))
    return [next(rows) if piece.is_counted else piece.run for piece in found]


def _split(rest: memoryview, found: Pieces) -> tuple[list[int], bytes, bytes]:
    """Return the lengths of runs on and off the steps, the coded integers, and what keeps the words off them."""
    counted = int(found["words"][_is_counted(found)].sum())
    reader = wire.Reader(rest)
    try:
        return [reader.uint(counted) for _ in range(reader.count())], reader.blob(), reader.rest()
    except wire.WireError as error:
        raise CodecError(f"pieces: {error.message}") from None


# Which steps


def find(words: Words, reference: Words | None, dtype: DType, runs: Sequence[Run]) -> Pieces:
    """Return what the words of each piece are found to be."""
    found = np.array([(*run, _APART, 0, 0, 1.0) for run in runs], plan.RECORD)
    if len(runs) == 1:
        steps = _of_one(words, dtype)
        if steps is not None:
            found["kind"], found["exponent"], found["mantissa"] = steps
    else:
        _look_at(found, words, reference, dtype)
    if reference is None:
        return found
    kinds = _kinds(found)
    if _APART in kinds and glance.may_be_anchored(words, reference):
        _look_for_anchored(found, words, reference, dtype)
    if _EQUAL in kinds:
        factors = kernels.current.fit_pieces(dtype.code, words.data, reference.data, found.tobytes())
        np.copyto(found["value"], np.frombuffer(factors, "<f8"), where=found["kind"] == _EQUAL)
    return found


def _look_at(found: Pieces, words: Words, reference: Words | None, dtype: DType) -> None:
    """Say of pieces on steps, and of those that are the reference's, what they are."""
    beside = None if reference is None else reference.data
    columns = kernels.current.survey_pieces(dtype.code, words.data, beside, found.tobytes())
    survey = Survey(*np.frombuffer(columns, "<i8").reshape(-1, len(Survey._fields)).T)
    sizes = found["words"].astype(np.int64)
    same = survey.same == 1
    found["kind"][same] = Kind.SAME
    usable = ~same & (survey.uncut * _STRAY <= sizes)
    if not survey.present[usable].any():
        return
    # Where all bits from a piece's lowest on take no more than each word's own, these are multiples of one step.
    along = survey.highest - survey.present * (survey.lowest - 1)
    is_equal = usable & (along <= survey.present * survey.longest)
    step = _usual(survey.lowest[is_equal], sizes[is_equal])
    many = usable & ~is_equal
    grid = None
    if many.any():
        grid = ends.grid_of(_cut_ends(words[np.repeat(many, sizes)], dtype), dtype)
    if grid is not None:
        # What stands on these steps too, and on none that is usual, is told in fewer bits so.
        for place in np.flatnonzero(is_equal & (survey.lowest < step)).tolist():
            start = int(sizes[:place].sum())
            own = _cut_ends(words[start : start + int(sizes[place])], dtype)
            on = (own.lowest >= grid.exponent) | (own.highest - own.lowest <= grid.mantissa)
            is_equal[place] = not on.all()
        on_grid = usable & ~is_equal
        found["kind"][on_grid] = Kind.DOUBLING
        found["exponent"][on_grid], found["mantissa"][on_grid] = grid
    told_steps = _told_steps(survey.lowest, is_equal, step)
    found["kind"][is_equal] = _EQUAL
    found["exponent"][is_equal] = [
        step if lowest >= step else lowest if lowest in told_steps else min(told_steps)
        for lowest in survey.lowest[is_equal].tolist()
    ]


def _cut_ends(words: Words, dtype: DType) -> Ends:
    """Return the ends of words that are cut, and not 0."""
    return _cut(Ends(*np.frombuffer(kernels.current.ends(dtype.code, words.data), "<i8").reshape(-1, 3).T), dtype)


def _cut(found: Ends, dtype: DType) -> Ends:
    """Return which of these are of numbers that are cut."""
    is_cut = found.highest - found.lowest <= MANTISSA_BITS[dtype] - glance.SHORT
    return Ends(*(each[is_cut] for each in found))


def _look_for_anchored(found: Pieces, words: Words, reference: Words, dtype: DType) -> None:
    """Say of pieces that stand at multiples of one step from the reference that they do."""
    parts, start, sizes = dict[int, slice](), 0, found["words"].tolist()
    for place, (count, kind) in enumerate(zip(sizes, found["kind"].tolist(), strict=True)):
        if kind == _APART:
            parts[place] = slice(start, start + count, max(1, count // _ANCHORED_WORDS) | 1)
        start += count
    step = None
    for place in sorted(parts, key=sizes.__getitem__, reverse=True)[:_MOST_TRIED]:
        new, old = words[parts[place]], reference[parts[place]]
        if step is None and glance.may_be_anchored(new, old):
            step = _step_from(new, old, dtype)
    for place, part in parts.items():
        if step is not None and _agrees(words[part], reference[part], dtype, step):
            found["kind"][place], found["value"][place] = Kind.ANCHORED, step


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


def _of_one(words: Words, dtype: DType) -> Steps | None:
    """Return the steps that the words of a chunk's only piece stand on, or None."""
    some = np.ascontiguousarray(glance.sample(words))
    triples = memoryview(kernels.current.ends(dtype.code, some.data)).cast("q").tolist()
    step = _plain_lattice(triples[::3], triples[1::3], triples[2::3], dtype)
    if step is not None:
        return Steps(_EQUAL, step)
    found = Ends(*np.array(triples, np.int64).reshape(-1, 3).T)
    cut = _cut(found, dtype)
    step = ends.equal_step(found, dtype)
    if not _is_lattice(found, step) and cut.times.sum() * _STRAY >= found.times.sum() * (_STRAY - 1):
        grid = ends.grid_of(cut, dtype)
        if grid is not None and abs(grid.exponent) <= plan.MAX_EXPONENT and not _may_be_equal(cut, step, grid):
            return Steps(Kind.DOUBLING, grid.exponent, grid.mantissa)
    return None if step is None or abs(step) > plan.MAX_EXPONENT else Steps(_EQUAL, step)


def _plain_lattice(highest: list[int], lowest: list[int], times: list[int], dtype: DType) -> int | None:
    """Return the step of which numbers with these ends are multiples beyond doubt, as a lossy commit leaves a matrix.

    About half of all multiples are odd then, and with four ninths `ends.equal_step` takes no other step nor finds all
    of them too long. Telling it from these few integers takes a sixth of the time.
    """
    if not times:
        return None
    step = min(lowest)
    span = max(highest) - step
    if span > max(map(operator.sub, highest, lowest)) + 1 or abs(step) > plan.MAX_EXPONENT:
        return None
    if span + 1 + 1.5 >= glance.COARSE_SHARE * (MANTISSA_BITS[dtype] + 3):
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
    if len(finer) > told.MOST_GRIDS - 2:
        finer = [*finer[: told.MOST_GRIDS - 3], finer[-1]]
    return [step, *finer]
