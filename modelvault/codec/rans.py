"""Range asymmetric numeral systems: tokens to 16-bit words, each token in as many bits as its frequency asks for.

Tokens go to lanes in turn, and each lane has a state of its own, so that the tokens of one step, one for each lane, are
coded beside one another. All lanes share one stream of words. A state x is in [2^15, 2^31); to decode, the low 11 bits
say which token it is, x becomes f * (x >> 11) + (x mod 2^11) - c with its frequency f and the sum c of those before it,
and takes a word if it fell below 2^15. Encoding runs backwards. (J. Duda, Asymmetric numeral systems, 2013; lanes that
share a stream: F. Giesen, Interleaved entropy coders, 2014.)
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from modelvault.codec.errors import CodecError
from modelvault.codec.floats import Levels
from modelvault.codec.frequencies import SCALE, SCALE_BITS, Tables

States = npt.NDArray[np.uint32]
"""One for each lane."""

Stream = npt.NDArray[np.uint16]

LOW = 1 << 15
"""The least state, and that of every lane when nothing is left to decode."""

HIGH = 1 << 31
"""Above every state."""

_WORD_BITS = 16


def encode(tokens: Levels, table_of: Levels, tables: Tables, lanes: int) -> tuple[States, Stream] | None:
    """Return the states and the words to decode from, or None if a table's weights do not go into its scale.

    Args:
        tokens: each has a frequency in its table.
        table_of: each token's table.
        tables: at most 16.
        lanes: a power of two.
    """
    width = 1 + max(table.low + len(table.codes) for table in tables.tables)
    frequency = np.zeros((len(tables.tables), width), np.uint32)
    for row, table in zip(frequency, tables.tables, strict=True):
        found = table.frequencies()
        if found is None:
            return None
        row[table.low : table.low + found.size] = found
    before = np.cumsum(frequency, axis=1, dtype=np.uint32) - frequency
    frequencies, befores = frequency[table_of, tokens], before[table_of, tokens]
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


def decode(states: States, stream: Stream, table_of: Levels, tables: Tables) -> npt.NDArray[np.uint8]:
    """Return the tokens that `encode` was given.

    Args:
        states: one for each lane, each in [2^15, 2^31).
        stream: the words.
        table_of: each token's table.
        tables: at most 16.

    Raises:
        CodecError: a table's weights do not go into its scale, words are missing or left over, or the states do not
            end where encoding began.
    """
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


def _rows(tables: Tables) -> tuple[npt.NDArray[np.uint8], States, States]:
    symbols = np.empty((len(tables.tables), SCALE), np.uint8)
    frequencies = np.empty((len(tables.tables), SCALE), np.uint32)
    offsets = np.empty((len(tables.tables), SCALE), np.uint32)
    for at, table in enumerate(tables.tables):
        found = table.frequencies()
        if found is None:
            raise CodecError("weights of a table do not go into its scale")
        symbols[at] = np.repeat(np.arange(table.low, table.low + found.size), found)
        frequencies[at] = np.repeat(found, found)
        offsets[at] = np.arange(SCALE, dtype=np.uint32) - np.repeat(np.cumsum(found, dtype=np.uint32) - found, found)
    return symbols.reshape(-1), frequencies.reshape(-1), offsets.reshape(-1)
