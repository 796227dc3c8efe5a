"""Elements that are whole multiples of a power of two: coded as those integers.

Weights that were rounded to a fixed lattice (`rounding`) keep nothing of their mantissas but noise that is gone, and a
float coder would still pay for where each of them stands between two powers of two. Here an element is `k * 2^e` and
only k is coded: against zero in a keyframe, in a delta against the nearest lattice point of `scale * reference`. Any
reference will do: one on the same lattice, one on a finer or coarser lattice, one on none. Where a prediction
lies between two lattice points, elements near the middle go to either side and those near a point hardly ever leave it;
that distance chooses the probabilities, and the residual counts towards the nearer side.

Whatever is on no lattice (NaN, infinities, -0.0, tensors of one dimension that were kept exactly) stands apart, in a
frame of its own. The integers are laid into 32-bit floats and become a frame of their own as well, so that the entropy
coder of all other tensors codes them too: their bits count up from a prediction whose exponent says which of eight
classes of elements it is.

Every step is exact or rounded once in binary64, so every machine agrees.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from modelvault import wire
from modelvault.codec import order
from modelvault.codec.errors import CodecError
from modelvault.codec.order import Words
from modelvault.tensors import DType

if TYPE_CHECKING:
    from typing_extensions import Buffer

MANTISSA_BITS = {
    DType.F16: 10,
    DType.BF16: 7,
    DType.F32: 23,
    DType.F64: 52,
    DType.C32: 10,
    DType.C64: 23,
    DType.C128: 52,
}
"""Dtypes whose elements may be on a lattice. Floats of eight bits have too few values for it to matter."""

_LIMIT = 1 << 22
"""Integers and residuals are smaller than this, so that words stay in the power of two of their predictions."""

_BOUNDS = np.array([32, 64, 96, 112, 120, 124, 126]) / 256
"""How far from a lattice point a prediction lies where its class ends: finer towards the middle between two points, as
those few elements that change sides are there. Order-0 bytes of MobileNetV2's weights, snapshot 12, in classes of equal
width and in these: step 2^-8 44,112 and 42,109, step 2^-6 14,448 and 11,252; ShuffleNet's, 7, step 2^-8 64,073 and
63,469."""

_CLASSES = len(_BOUNDS) + 1

MAX_EXPONENT = 1100
"""Steps are 2^-1100 to 2^1100: beyond, there is no finite element but zero."""

Encode = Callable[[bytes, DType, bytes | None], bytes]
"""Makes the frames within: (bytes, dtype, reference or None)."""

Decode = Callable[["Buffer", int, DType, bytes | None], bytes]
"""Reads them: (frame, size, dtype, reference or None)."""


class Elements(NamedTuple):
    """Words as multiples of a step: which are, and the integers of those (n,) int64."""

    on: npt.NDArray[np.bool_]
    integers: npt.NDArray[np.int64]


def values_of(words: Words, dtype: DType) -> npt.NDArray[np.float64]:
    """Return words as the numbers they stand for."""
    with np.errstate(invalid="ignore"):  # a signalling NaN becomes a quiet one
        if dtype is DType.BF16:
            wide = words.astype(np.uint32)
            wide <<= np.uint32(16)
            return wide.view(np.float32).astype(np.float64)
        return words.view(f"<f{words.itemsize}").astype(np.float64)


def words_of(values: npt.NDArray[np.float64], dtype: DType) -> Words:
    """Return the words nearest to some numbers, ties to even; in BF16 those nearest to their nearest F32."""
    with np.errstate(over="ignore"):
        if dtype is DType.BF16:
            wide = values.astype(np.float32).view(np.uint32)
            odd = wide >> np.uint32(16)
            odd &= np.uint32(1)
            odd += np.uint32(0x7FFF)
            odd += wide
            odd >>= np.uint32(16)
            return odd.astype("<u2")
        size = order.word_bytes(dtype)
        found: Words = values.astype(f"<f{size}").view(f"<u{size}")
        return found


def encode(words: Words, tail: bytes, reference: Words | None, dtype: DType, step: int, frame: Encode) -> bytes:
    """Return a body; whatever is not on the lattice is paid for with more than its bytes.

    Args:
        words: the chunk's.
        tail: its bytes after the last whole word.
        reference: as many words, or None for a keyframe.
        dtype: what the words are.
        step: exponent of the step.
        frame: makes the frames within.
    """
    elements = to_integers(words, dtype, step)
    out = wire.Writer()
    out.sint(step)
    if reference is None:
        codes, predictions = _to_words(elements, None)
    else:
        scale = fit_scale(elements, reference, dtype, step)
        out.fixed(np.float64(scale).tobytes())
        codes, predictions = _to_words(elements, predict(reference[elements.on], dtype, step, scale))
    # A residual that is too large joins what is off the lattice.
    far = codes == 0
    on = elements.on.copy()
    on[elements.on] = ~far
    if far.any():
        codes, predictions = codes[~far], predictions[~far]
    out.fixed(write_runs(on))
    out.blob(frame(codes.tobytes(), DType.F32, predictions.tobytes()))
    out.fixed(write_off(words[~on], None if reference is None else reference[~on], tail, dtype, frame))
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
        unframe: reads the frames within.

    Raises:
        CodecError: not such a body, or not one of `size` bytes.
    """
    width = order.word_bytes(dtype)
    count = size // width
    reader = wire.Reader(body)
    try:
        step = reader.sint()
        if abs(step) > MAX_EXPONENT:
            raise CodecError(f"lattice of step 2^{step}")
        scale = 1.0
        if reference is not None:
            scale = float(np.frombuffer(reader.fixed(8), "<f8")[0])
        lengths = [reader.uint(count) for _ in range(reader.count())]
        inside, rest = reader.blob(), reader.rest()
    except wire.WireError as error:
        raise CodecError(f"lattice: {error.message}") from None
    if not math.isfinite(scale):
        raise CodecError(f"lattice predicted with the scale {scale}")
    on = from_runs(lengths, count)
    if dtype not in MANTISSA_BITS and on.any():
        raise CodecError(f"elements of {dtype.name} on a lattice")
    base = None if reference is None else order.words(reference, dtype)
    predictions = _predictions(int(on.sum()), None if base is None else predict(base[on], dtype, step, scale))
    found = unframe(inside, predictions[0].nbytes, DType.F32, predictions[0].tobytes())
    integers = _from_words(np.frombuffer(found, "<u4"), *predictions)
    out = bytearray(size)
    words = order.words(np.frombuffer(out, np.uint8), dtype)
    if integers.size:
        with np.errstate(over="ignore"):
            words[on] = words_of(np.ldexp(integers.astype(np.float64), step), dtype)
    off, out[count * width :] = read_off(
        rest, count - integers.size, size - count * width, dtype, None if base is None else base[~on], unframe
    )
    words[~on] = off
    return out


def write_off(words: Words, reference: Words | None, tail: bytes, dtype: DType, frame: Encode) -> bytes:
    """Return what keeps the words that are on no lattice, and the bytes after the last whole word."""
    if not words.size and not tail:
        return b""
    if reference is None:
        return frame(words.tobytes() + tail, dtype, None)
    clear = _clear_bits(words)
    return bytes((clear,)) + frame(
        words.tobytes() + tail, dtype, _cleared(reference, clear).tobytes() + bytes(len(tail))
    )


def read_off(
    data: bytes, count: int, tail: int, dtype: DType, reference: Words | None, unframe: Decode
) -> tuple[Words, bytes]:
    """Return what `write_off` was given: `count` words, and `tail` bytes.

    Raises:
        CodecError: it is damaged.
    """
    width = order.word_bytes(dtype)
    size = count * width + tail
    if not size:
        if data:
            raise CodecError(f"{len(data)} bytes after a lattice that nothing is off")
        return np.zeros(0, f"<u{width}"), b""
    beside = None
    if reference is not None:
        if not data or data[0] >= 8 * width:
            raise CodecError("a lattice clears more bits of the words off it than they have")
        beside = _cleared(reference, data[0]).tobytes() + bytes(tail)
        data = data[1:]
    raw = unframe(data, size, dtype, beside)
    return np.frombuffer(raw, f"<u{width}", count=count), raw[count * width :]


def _clear_bits(words: Words) -> int:
    """Return how many low bits are 0 in every word, as rounding to a few bits of mantissa leaves them; 0 if all are."""
    seen = int(np.bitwise_or.reduce(words)) if words.size else 0
    return (seen & -seen).bit_length() - 1 if seen else 0


def _cleared(words: Words, bits: int) -> Words:
    """Return words with their lowest bits 0: what a reference that was not rounded is brought to."""
    kind = words.dtype.type
    cleared: Words = words >> kind(bits) << kind(bits)
    return cleared


def to_integers(words: Words, dtype: DType, step: int) -> Elements:
    """Return which elements are multiples of the step to the bit, and of what."""
    if dtype not in MANTISSA_BITS:
        return Elements(np.zeros(words.size, np.bool_), np.zeros(0, np.int64))
    values = values_of(words, dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        multiples = np.ldexp(values, -step)
        on = np.abs(multiples) < _LIMIT  # no NaN
        integers = np.rint(np.where(on, multiples, 0.0)) + 0.0  # no negative zeros
        back = words_of(np.ldexp(integers, step), dtype)
    on &= back == words  # neither -0.0 nor what lies between two points
    return Elements(on, integers[on].astype(np.int64))


def write_runs(on: npt.NDArray[np.bool_]) -> bytes:
    """Return how many runs of elements on and off the lattice there are, and their lengths, as varints.

    The first run is on it and may be empty.

    A chunk of weights that were half precision once has a hundred thousand: all at once they take a thirtieth of the
    time, and no other thread waits for the interpreter.

    >>> write_runs(np.array([False, False, True])).hex()
    '03000201'
    """
    if not on.size:
        return bytes(1)
    changes = np.flatnonzero(on[1:] != on[:-1]) + 1
    lengths = np.diff(changes, prepend=0, append=on.size)
    if not on[0]:
        lengths = np.concatenate(([0], lengths))
    groups = np.concatenate(([lengths.size], lengths))[:, None] >> np.arange(0, (on.size + 1).bit_length(), 7)
    used = groups > 0
    used[:, 0] = True
    return ((groups & 0x7F) + 0x80 * (groups > 0x7F))[used].astype(np.uint8).tobytes()


def from_runs(lengths: list[int], count: int) -> npt.NDArray[np.bool_]:
    """Return which elements are on a lattice.

    Raises:
        CodecError: the runs are not of `count` elements.
    """
    if sum(lengths) != count or any(not length for length in lengths[1:]):
        raise CodecError(f"runs on and off the lattice have {sum(lengths)} elements, expected {count}")
    on: npt.NDArray[np.bool_] = np.repeat(np.arange(len(lengths)) % 2 == 0, lengths)
    return on


def fit_scale(elements: Elements, reference: Words, dtype: DType, step: int) -> float:
    """Return what the reference is multiplied with: 1, or the least squares fit where that comes nearer."""
    if not elements.integers.size:
        return 1.0
    base = values_of(reference[elements.on], dtype)
    usable = np.abs(base) < _LIMIT * math.ldexp(1.0, step) if step > -1000 else np.zeros(base.size, np.bool_)
    base, new = base[usable], np.ldexp(elements.integers[usable].astype(np.float64), step)
    with np.errstate(over="ignore", invalid="ignore"):  # squares of binary64 may be too large for it; then it is 1
        energy = float((base * base).sum())
        fitted = float((base * new).sum()) / energy if energy > 0 else 1.0
    if not 0.5 < fitted < 2:
        return 1.0

    def misses(scale: float) -> float:
        points = np.rint(np.ldexp(base * scale, -step))
        return float(np.abs(points - elements.integers[usable]).sum())

    return fitted if misses(fitted) < misses(1.0) else 1.0


def predict(reference: Words, dtype: DType, step: int, scale: float) -> npt.NDArray[np.float64]:
    """Return predictions in units of the step: one product and one scaling; 0 where that is no small number."""
    if not reference.size:
        return np.zeros(0)
    with np.errstate(over="ignore", invalid="ignore"):
        predicted = np.ldexp(values_of(reference, dtype) * scale, -step)
        predicted[~(np.abs(predicted) < _LIMIT)] = 0.0
    return predicted


def nearest(
    predicted: npt.NDArray[np.float64],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the integers nearest to predictions, the side (1 or -1) of each on which the next is nearer, the class."""
    points = np.rint(predicted)
    off = predicted - points  # exact
    sides = np.where(off < 0, -1, 1)
    classes = np.searchsorted(_BOUNDS, np.abs(off), side="right")
    return points.astype(np.int64), sides, classes


def _predictions(
    count: int, predicted: npt.NDArray[np.float64] | None
) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return, for each element on the lattice: the word that stands for its prediction, the nearest lattice point, and
    the side (1 or -1) on which the next one is nearer."""
    if predicted is None:
        return np.full(count, _word(_CLASSES), "<u4"), np.zeros(count, np.int64), np.ones(count, np.int64)
    points, sides, classes = nearest(predicted)
    words = (_CLASSES - classes << 23) + _LIMIT
    return words.astype("<u4"), points, sides


def _word(level: int) -> int:
    return (level << 23) + _LIMIT


def _to_words(
    elements: Elements, predicted: npt.NDArray[np.float64] | None
) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32]]:
    """Return the words that hold the integers, 0 for one that is too far off, and those of their predictions."""
    words, points, sides = _predictions(elements.integers.size, predicted)
    residuals = (elements.integers - points) * sides
    codes = (words.astype(np.int64) + residuals).astype("<u4")
    codes[np.abs(residuals) >= _LIMIT] = 0
    return codes, words


def _from_words(
    codes: npt.NDArray[np.uint32],
    words: npt.NDArray[np.uint32],
    points: npt.NDArray[np.int64],
    sides: npt.NDArray[np.int64],
) -> npt.NDArray[np.int64]:
    """Return the integers.

    Raises:
        CodecError: one is out of range.
    """
    residuals = codes.astype(np.int64) - words
    if residuals.size and int(np.abs(residuals).max()) >= _LIMIT:
        raise CodecError("a lattice point is out of range")
    return points + residuals * sides
