"""Range asymmetric numeral systems: tokens to 16-bit words, each token in as many bits as its frequency asks for.

Tokens go to lanes in turn, and each lane has a state of its own, so that the tokens of one step, one for each lane, are
coded beside one another. All lanes share one stream of words. A state x is in [2^15, 2^31); to decode, the low 11 bits
say which token it is, x becomes f * (x >> 11) + (x mod 2^11) - c with its frequency f and the sum c of those before it,
and takes a word if it fell below 2^15. Encoding runs backwards. (J. Duda, Asymmetric numeral systems, 2013; lanes that
share a stream: F. Giesen, Interleaved entropy coders, 2014.)
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from modelvault.codec.errors import CodecError
from modelvault.codec.floats import Levels
from modelvault.codec.frequencies import SCALE, SCALE_BITS

States = npt.NDArray[np.uint32]
"""One for each lane."""

Stream = npt.NDArray[np.uint16]

LOW = 1 << 15
"""The least state, and that of every lane when nothing is left to decode."""

HIGH = 1 << 31
"""Above every state."""

_WORD_BITS = 16

_FEW_LANES = 4
"""So many lanes are coded token by token: 1.3 us each, where a step over all lanes takes numpy 30 us."""


class Distribution(Protocol):
    """How often the tokens from `low` on come."""

    @property
    def low(self) -> int:
        """The first token."""

    def frequencies(self) -> npt.NDArray[np.uint32] | None:
        """Return frequencies of the tokens from `low` on, `SCALE` together, or None if there are none such."""


def encode(
    tokens: Levels, table_of: Levels, tables: Sequence[Distribution], lanes: int
) -> tuple[States, Stream] | None:
    """Return the states and the words to decode from, or None if a table's weights do not go into its scale.

    Args:
        tokens: each has a frequency in its table.
        table_of: each token's table.
        tables: how often tokens come.
        lanes: a power of two.
    """
    shares = []
    for table in tables:
        found = table.frequencies()
        if found is None:
            return None
        shares.append((table.low, found))
    frequency = np.zeros((len(shares), 1 + max(low + found.size for low, found in shares)), np.uint32)
    for row, (low, found) in zip(frequency, shares, strict=True):
        row[low : low + found.size] = found
    before = np.cumsum(frequency, axis=1, dtype=np.uint32) - frequency
    frequencies, befores = frequency[table_of, tokens], before[table_of, tokens]
    if lanes <= _FEW_LANES:
        return _encoded_singly(frequencies, befores, lanes)
    limits = frequencies << (31 - SCALE_BITS)
    rests = np.uint32(SCALE) - frequencies  # x // f * 2^11 + x mod f is x + x // f * (2^11 - f)
    states = np.full(lanes, LOW, np.uint32)
    out = np.empty(tokens.size, "<u2")
    position = tokens.size
    for start in range((tokens.size - 1) // lanes * lanes, -1, -lanes):
        step = slice(start, min(start + lanes, tokens.size))
        x = states[: step.stop - start]  # a view
        full = np.flatnonzero(x >= limits[step])
        if full.size:
            high = x[full]
            position -= full.size
            out[position : position + full.size] = high.astype("<u2")  # the low half
            x[full] = high >> _WORD_BITS
        x += x // frequencies[step] * rests[step] + befores[step]
    return states, out[position:]


def decode(states: States, stream: Stream, table_of: Levels, tables: Sequence[Distribution]) -> npt.NDArray[np.uint8]:
    """Return the tokens that `encode` was given.

    Args:
        states: one for each lane, each in [2^15, 2^31).
        stream: the words.
        table_of: each token's table.
        tables: how often tokens come.

    Raises:
        CodecError: a table's weights do not go into its scale, words are missing or left over, or the states do not
            end where encoding began.
    """
    if states.size <= _FEW_LANES:
        return _decoded_singly(states, stream, table_of, tables)
    # One row for each table and value of the low bits of a state.
    symbols, frequencies, offsets = _rows(tables)
    lanes, count = states.size, table_of.size
    rows = table_of * SCALE
    x = states.astype(np.uint32)
    padded = np.concatenate((stream, np.zeros(lanes, "<u2"))).astype(np.uint32)
    position = 0
    for start in range(0, count, lanes):
        stop = min(start + lanes, count)
        some = x[: stop - start]  # a view
        row = rows[start:stop]  # a view: how the table's place becomes the row is kept, for the tokens
        row += some & (SCALE - 1)
        some >>= SCALE_BITS
        some *= frequencies[row]
        some += offsets[row]
        short = np.flatnonzero(some < LOW)
        if short.size:
            some[short] = some[short] << _WORD_BITS | padded[position : position + short.size]
            position += short.size
            if position > stream.size:
                raise CodecError(f"{stream.size} words of tokens, which end before the tokens do")
    if position != stream.size:
        raise CodecError(f"{stream.size} words of tokens, of which {position} are used")
    if (x != LOW).any():
        raise CodecError("states do not end where encoding began")
    return symbols[rows]


def _encoded_singly(frequencies: States, befores: States, lanes: int) -> tuple[States, Stream]:
    states = [LOW] * lanes
    words = []
    lane = frequencies.size % lanes
    for frequency, before in zip(frequencies[::-1].tolist(), befores[::-1].tolist(), strict=True):
        lane = (lane - 1) % lanes
        x = states[lane]
        if x >= frequency << 31 - SCALE_BITS:
            words.append(x & 0xFFFF)
            x >>= _WORD_BITS
        states[lane] = (x // frequency << SCALE_BITS) + x % frequency + before
    return np.array(states, np.uint32), np.array(words[::-1], "<u2")


def _decoded_singly(
    states: States, stream: Stream, table_of: Levels, tables: Sequence[Distribution]
) -> npt.NDArray[np.uint8]:
    befores = []
    for table in tables:
        found = table.frequencies()
        if found is None:
            raise CodecError("weights of a table do not go into its scale")
        befores.append([*(np.cumsum(found, dtype=np.int64) - found).tolist(), SCALE])
    x = states.tolist()
    words = iter(stream.tolist())
    tokens = bytearray(table_of.size)
    lane = 0
    try:
        for place, number in enumerate(table_of.tolist()):
            before = befores[number]
            slot = x[lane] & SCALE - 1
            at = bisect.bisect_right(before, slot) - 1
            state = (before[at + 1] - before[at]) * (x[lane] >> SCALE_BITS) + slot - before[at]
            x[lane] = state if state >= LOW else state << _WORD_BITS | next(words)
            tokens[place] = at + tables[number].low
            lane = (lane + 1) % len(x)
    except StopIteration:
        raise CodecError(f"{stream.size} words of tokens, which end before the tokens do") from None
    left = sum(1 for _ in words)
    if left:
        raise CodecError(f"{stream.size} words of tokens, of which {stream.size - left} are used")
    if any(state != LOW for state in x):
        raise CodecError("states do not end where encoding began")
    return np.frombuffer(tokens, np.uint8)


def _rows(tables: Sequence[Distribution]) -> tuple[npt.NDArray[np.uint8], States, States]:
    symbols = np.empty((len(tables), SCALE), np.uint8)
    frequencies = np.empty((len(tables), SCALE), np.uint32)
    offsets = np.empty((len(tables), SCALE), np.uint32)
    for at, table in enumerate(tables):
        found = table.frequencies()
        if found is None:
            raise CodecError("weights of a table do not go into its scale")
        symbols[at] = np.repeat(np.arange(table.low, table.low + found.size), found)
        frequencies[at] = np.repeat(found, found)
        offsets[at] = np.arange(SCALE, dtype=np.uint32) - np.repeat(np.cumsum(found, dtype=np.uint32) - found, found)
    return symbols.reshape(-1), frequencies.reshape(-1), offsets.reshape(-1)
