"""What bodies of tokens have in common: a head that says how blocks are coded, then tokens, tails and the rest.

The codecs know what a token means and where its context comes from; here it is just a number. Everything that is read
may be hostile: no array is made for more than what the chunk has words.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from modelvault import wire
from modelvault.codec import bits, frequencies, rans
from modelvault.codec.bits import BitReader, Fields
from modelvault.codec.blocks import Blocks
from modelvault.codec.errors import CodecError
from modelvault.codec.floats import Levels, Mask
from modelvault.codec.frequencies import CONTEXTS, Tables
from modelvault.codec.tokens import Tokens

if TYPE_CHECKING:
    from typing_extensions import Buffer

MAX_SCALE = 1023

_ORIGIN_BITS = 10
MAX_LANES_LOG = 5
_SUBNORMALS = 1 << 3
_MAX_K = 7


@dataclass(frozen=True, slots=True)
class Head:
    """How the blocks of a chunk are coded.

    Attributes:
        blocks: where they are.
        shift: low bits that every word leaves out.
        subnormals: whether words of level 0 have tails.
        selectors: which predictor each block has; None for a keyframe.
        scales: of each block, 1 to 1023, or 0 for a blank one, whose words are not coded.
        origin: what scales count from; 0 in a delta.
    """

    blocks: Blocks
    shift: int
    subnormals: bool
    selectors: Levels | None
    scales: Levels
    origin: int

    def coded(self) -> Mask:
        """Return which words are coded."""
        return self.blocks.spread(self.scales > 0)

    def contexts(self, levels: Levels | int = 0) -> Levels:
        """Return the contexts of the coded words, whose predictions have these levels."""
        scales = self.blocks.spread(self.scales)
        relative = scales[scales > 0] - 1 - self.origin - 2 * levels
        contexts: Levels = np.clip(relative, 0, CONTEXTS - 1)
        return contexts


def write(
    head: Head,
    predictors: int,
    contexts: Levels,
    tokens: Tokens,
    alphabet: int,
    word_bytes: int,
    tails: Fields,
    rest: Buffer,
) -> bytes | None:
    """Return a body, or None if it has none.

    Args:
        head: how the blocks are coded.
        predictors: among how many blocks choose; of no account in a keyframe.
        contexts: of the coded words.
        tokens: of the coded words.
        alphabet: how many tokens there could be.
        word_bytes: of the words that they are of.
        tails: bits that follow the tokens.
        rest: the bytes after the last whole word.
    """
    lanes = lanes_log(tokens.size, word_bytes)
    out = wire.Writer()
    out.fixed(bytes((lanes | _SUBNORMALS * head.subnormals, head.shift)))
    out.uint(head.blocks.length)
    out.uint(head.blocks.first)
    fields = _scale_fields(head, predictors)
    if not tokens.size:
        out.fixed(bits.join(fields))
    else:
        tables = frequencies.counted(contexts, tokens.astype(np.int64), alphabet)
        coded = rans.encode(tokens.astype(np.int64), tables.of_contexts(contexts), tables.tables, 1 << lanes)
        if coded is None:
            return None
        if head.selectors is None:
            fields.append(bits.fields(head.origin, _ORIGIN_BITS))
        states, stream = coded
        out.fixed(bits.join(fields + frequencies.write(tables)))
        out.fixed(states.astype("<u4").tobytes())
        out.uint(stream.size)
        out.fixed(stream.tobytes())
        out.fixed(bits.join([tails]))
    out.fixed(rest)
    return out.getvalue()


def lanes_log(coded: int, word_bytes: int) -> int:
    """Return how many lanes: a state is four bytes, and lanes that have little to do are not worth them.

    Sixteen and more are decoded by vectors, at 0.6 ns a token in place of 2.2, and with 32 one vector is computed while
    the other waits. ShuffleNet in bf16, of which a third is in chunks of 40 KB: with 32 from 32 KiB on, in place of 64,
    it is decoded in 0.86 of the time and encoded in 0.97, for 0.4 % more bytes. Before that, fp32 and bf16: with 16 and
    32 from 16 and 64 KiB 2.43 and 2.09 ms and ratio 2.2270 and 8.6657, with 8 up to 32,768 words 2.99 and 2.49 ms and
    2.2289 and 8.6818.
    """
    nbytes = coded * word_bytes
    if nbytes >= 1 << 15:
        return 5
    if nbytes >= 1 << 14:
        return 4
    if coded >= 2048:
        return 3
    return 2 if coded >= 256 else 0


def _scale_fields(head: Head, predictors: int) -> list[Fields]:
    if not head.scales.size:
        return []
    present = head.scales > 0
    steps = np.diff(head.scales[present], prepend=0)
    values = np.zeros(head.scales.size, np.int64)
    values[present] = 1 + np.where(steps < 0, -2 * steps - 1, 2 * steps)
    k = min(range(_MAX_K + 1), key=lambda k: bits.golomb_bits(values, k))
    codes, widths = bits.golomb(values, k)
    if head.selectors is not None:
        width = selector_bits(predictors)
        codes = codes << np.uint64(width) | head.selectors.astype(np.uint64)
        widths = widths + width
    return [bits.fields(k, 3), (codes, widths)]


def selector_bits(predictors: int) -> int:
    """Return how many bits choose among so many."""
    return (predictors - 1).bit_length()


@dataclass(frozen=True, slots=True)
class Parts:
    """A body that was read up to its tokens.

    Attributes:
        head: how the blocks are coded.
        coded: which words are coded.
        tables: for the tokens; None if no word is coded.
        states: one for each lane; none if no word is coded.
        stream: what tokens are decoded from.
        tails: what follows, up to the rest.
        rest: the bytes after the last whole word.
    """

    head: Head
    coded: Mask
    tables: Tables | None
    states: rans.States
    stream: rans.Stream
    tails: bytes
    rest: bytes

    def tokens(self, contexts: Levels) -> Tokens:
        """Return the tokens of the coded words, given their contexts.

        Raises:
            CodecError: they cannot be decoded.
        """
        if self.tables is None:
            return np.empty(0, np.uint8)
        return rans.decode(self.states, self.stream, self.tables.of_contexts(contexts), self.tables.tables)

    def tail_values(self, widths: Levels) -> npt.NDArray[np.uint64]:
        """Return the tails of the coded words, given how many bits each has.

        Raises:
            CodecError: there are more or fewer bits.
        """
        return bits.split(self.tails, widths)


def read(body: Buffer, words: int, rest: int, mantissa: int, alphabet: int, predictors: int | None) -> Parts:
    """Return the parts of a body.

    Args:
        body: what `write` returned.
        words: how many the chunk has.
        rest: how many bytes follow them.
        mantissa: bits of a word's mantissa, which a shift may not go beyond.
        alphabet: how many tokens there could be.
        predictors: among how many blocks choose, or None for a keyframe.

    Raises:
        CodecError: not such a body.
    """
    reader = wire.Reader(body)
    try:
        flags, shift = reader.fixed(2)
        lanes, subnormals = flags & 7, bool(flags & _SUBNORMALS)
        if flags >> 4 or lanes > MAX_LANES_LOG or (subnormals and predictors is not None):
            raise CodecError(f"body begins with flags {flags:#04x}, which are in no use")
        if shift > mantissa:
            raise CodecError(f"words are shifted by {shift}, expected at most {mantissa}")
        length = reader.uint(max(words, 1))
        first = reader.uint(length)
        if not first:
            raise CodecError("blocks have no words")
        head_bytes = reader.rest()
        bit_reader = BitReader(head_bytes)
        head = _read_head(bit_reader, Blocks(words, length, first), shift, subnormals, predictors)
        coded = head.coded()
        count = int(np.count_nonzero(coded))
        tables = None
        if count:
            if predictors is None:
                head = _with_origin(head, bit_reader.uint(_ORIGIN_BITS))
            tables = frequencies.read(bit_reader, alphabet)
        reader = wire.Reader(head_bytes[bit_reader.end() :])
        states, stream = np.empty(0, "<u4"), np.empty(0, "<u2")
        if count:
            states, stream = read_states(reader, lanes, count)
        if reader.remaining < rest:
            raise CodecError(f"body ends early: {rest} bytes wanted, {reader.remaining} left")
        tails = reader.fixed(reader.remaining - rest)
        if tails and not count:
            raise CodecError(f"{len(tails)} bytes too many in a body without tokens")
    except wire.WireError as error:
        raise CodecError(f"body of tokens: {error.message}") from None
    return Parts(head, coded, tables, states, stream, tails, reader.rest())


def read_states(reader: wire.Reader, lanes_log: int, count: int) -> tuple[rans.States, rans.Stream]:
    """Return states and stream of so many tokens.

    Raises:
        CodecError: a state is none.
        WireError: they end early.
    """
    states = np.frombuffer(reader.fixed(4 << lanes_log), "<u4")
    if ((states < rans.LOW) | (states >= rans.HIGH)).any():
        raise CodecError("states are out of their range")
    return states, np.frombuffer(reader.fixed(2 * reader.uint(min(count, reader.remaining // 2))), "<u2")


def _read_head(reader: BitReader, blocks: Blocks, shift: int, subnormals: bool, predictors: int | None) -> Head:
    count = blocks.count
    if count > reader.remaining:
        raise CodecError(f"{count} blocks in {reader.remaining} bits")
    scales = np.zeros(count, np.int64)
    selectors = None if predictors is None else np.zeros(count, np.int64)
    width = selector_bits(predictors or 1)
    k = reader.uint(3) if count else 0
    scale = 0
    for at in range(count):
        if selectors is not None and width:
            selector = reader.uint(width)
            if predictors is not None and selector >= predictors:
                raise CodecError(f"block chooses predictor {selector} of {predictors}")
            selectors[at] = selector
        value = reader.golomb(k)
        if value:
            step = value - 1
            scale += step >> 1 if step & 1 == 0 else -(step + 1 >> 1)
            if not 1 <= scale <= MAX_SCALE:
                raise CodecError(f"scale {scale} of a block, expected 1 to {MAX_SCALE}")
            scales[at] = scale
    return Head(blocks, shift, subnormals, selectors, scales, 0)


def _with_origin(head: Head, origin: int) -> Head:
    return Head(head.blocks, head.shift, head.subnormals, head.selectors, head.scales, origin)
