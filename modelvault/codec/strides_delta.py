"""Codec 21, `strides-delta`: by how many strides each word moved, and what that leaves, as `residual-rans` has it.

How many strides are small numbers, of as many bits each or coded as tokens are; what they leave are decay at every step
rather than once, and roundings. ShuffleNet's weights 30 steps of Lion apart take 5.0 bits for the one and 5.9 to 7.0
for the other, in place of 21 to 22 (fp32, lossless).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from modelvault import wire
from modelvault.codec import bits, body, frequencies, glance, order, rans, residual_rans, strides
from modelvault.codec.bits import BitReader
from modelvault.codec.errors import CodecError
from modelvault.codec.floats import BINARY32, Levels
from modelvault.codec.frequencies import MAX_ALPHABET
from modelvault.codec.order import Words
from modelvault.codec.parameters import Previous
from modelvault.codec.strides import Strides
from modelvault.codec.tokens import Tokens

if TYPE_CHECKING:
    from typing_extensions import Buffer

_LEAST_WORDS = 1 << 11
"""Fewer are not looked at, though 1,024 take 1,473 bytes by strides and 2,639 without (30 steps by signs, made up): a
fit takes a thousand words, and tensors of less than 16 KiB share their chunks."""

_PACKED = 16
"""And bits of a number, in front of numbers that all take as many, where others have the lanes' logarithm."""

_SHARE = 5 / 8
"""Bodies take less of their words, or none is made: words that strides tell nothing of take 21 bits of 32 and more as
deltas, those that they do 11 to 13 (ShuffleNet after Lion)."""


def encode(words: Words, rest: Buffer, reference: Words, row: int, start: int) -> bytes | None:
    """Return a body, or None where words did not move by strides, or hardly gain by it.

    Args:
        words: of the chunk, binary32.
        rest: the bytes after them.
        reference: as many words.
        row: words of a row of the tensor, or 0.
        start: which word of the tensor the first one is.
    """
    if words.size < _LEAST_WORDS:
        return None
    few, beside = glance.few(words), glance.few(reference)
    found = strides.fitted(few, beside)
    if found is None:
        return None
    width = strides.even_width(strides.counted(few, beside, found))
    made = of(words, rest, reference, found, row, start, width)
    is_short = made is not None and len(made) - memoryview(rest).nbytes < int(_SHARE * words.nbytes)
    return made if is_short else None


def of(
    words: Words, rest: Buffer, reference: Words, found: Strides, row: int, start: int, width: int = 0
) -> bytes | None:
    """Return a body of words that moved by these strides, None if there is none.

    Args:
        words: of the chunk, binary32.
        rest: the bytes after them.
        reference: as many words.
        found: the strides.
        row: words of a row of the tensor, or 0.
        start: which word of the tensor the first one is.
        width: bits of each number of strides, or 0 for the entropy coder.
    """
    counts = strides.counted(words, reference, found, width or strides.WIDEST)
    beside = [strides.expected(counts, reference, found)]
    tokens = order.zigzag(counts.view(np.uint8)).astype(np.int64)
    numbers = bytes((_PACKED + width,)) + bits.join([bits.fields(tokens, width)]) if width else _written(tokens)
    delta = residual_rans.encode(words, rest, BINARY32, (Previous(),), beside, row, start, words.nbytes)
    if numbers is None or delta is None:
        return None
    out = wire.Writer()
    out.float64(found.a)
    out.float64(found.s)
    out.fixed(bytes((found.odd,)))
    out.blob(numbers)
    out.fixed(delta)
    return out.getvalue()


def decode(data: Buffer, size: int, reference: Words) -> bytes:
    """Return the chunk.

    Args:
        data: the body.
        size: bytes of the chunk.
        reference: the reference's words, of the chunk's length; binary32.

    Raises:
        CodecError: not such a body, or not one of `size` bytes.
    """
    if not reference.size:
        raise CodecError("strides of no words")
    reader = wire.Reader(data)
    try:
        a, s, odd = reader.float64(), reader.float64(), reader.fixed(1)[0]
        numbers, delta = reader.blob(), reader.rest()
    except wire.WireError as error:
        raise CodecError(f"strides: {error.message}") from None
    if not (math.isfinite(a) and math.isfinite(s)) or odd > 1:
        raise CodecError(f"{odd} halves and strides of {s} from {a} times the reference")
    tokens = _read(numbers, reference.size)
    order.unzigzag(tokens)
    beside = [strides.expected(tokens.view(np.int8), reference, Strides(a, s, bool(odd)))]
    return residual_rans.decode(delta, size, BINARY32, (Previous(),), beside)


def _written(tokens: Levels) -> bytes | None:
    """Return tokens as a head, one table for all, states and stream; None if no table fits."""
    contexts = np.zeros(tokens.size, np.int64)
    tables = frequencies.counted(contexts, tokens, MAX_ALPHABET)
    lanes_log = body.lanes_log(tokens.size, BINARY32.word_bytes)
    coded = rans.encode(tokens, contexts, tables.tables, 1 << lanes_log)
    if coded is None:
        return None
    states, stream = coded
    out = wire.Writer()
    out.fixed(bytes((lanes_log,)))
    out.fixed(bits.join(frequencies.write(tables)))
    out.fixed(states.astype("<u4").tobytes())
    out.uint(stream.size)
    out.fixed(stream.tobytes())
    return out.getvalue()


def _read(numbers: bytes, count: int) -> Tokens:
    """Return the tokens of so many numbers.

    Raises:
        CodecError: it is damaged.
    """
    lanes_log = numbers[0] if numbers else body.MAX_LANES_LOG + 1
    if _PACKED < lanes_log <= _PACKED + strides.WIDEST:
        widths = np.full(count, lanes_log - _PACKED, np.int64)
        return bits.split(memoryview(numbers)[1:], widths).astype(np.uint8)
    if lanes_log > body.MAX_LANES_LOG:
        raise CodecError("numbers of strides begin with lanes that no body has")
    bit_reader = BitReader(numbers[1:])
    tables = frequencies.read(bit_reader, MAX_ALPHABET)
    if tables.bounds:
        raise CodecError(f"numbers of strides have {len(tables.tables)} tables, expected one")
    reader = wire.Reader(numbers[1 + bit_reader.end() :])
    try:
        states, stream = body.read_states(reader, lanes_log, count)
    except wire.WireError as error:
        raise CodecError(f"numbers of strides: {error.message}") from None
    if reader.remaining:
        raise CodecError(f"{reader.remaining} bytes too many in numbers of strides")
    return rans.decode(states, stream, np.zeros(count, np.int64), tables.tables)
