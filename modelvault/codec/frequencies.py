"""How often each token comes: counted for each context, shared by neighbouring contexts, written as coarse weights.

Logarithms are taken from a table of integers, so that every encoder comes to the same tables.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from modelvault.codec import bits
from modelvault.codec.bits import BitReader, Fields
from modelvault.codec.errors import CodecError
from modelvault.codec.floats import Levels

CONTEXTS = 64
MAX_TABLES = 16
MAX_ALPHABET = 256

SCALE_BITS = 11
SCALE = 1 << SCALE_BITS
"""What the frequencies of a table add up to. Tables of 11 bits are within 0.4 % of what the counts allow."""

_WEIGHTS = np.array(
    [
        0, 16, 19, 23, 27, 32, 38, 45, 54, 64, 76, 91, 108, 128, 152, 181, 215, 256, 304, 362, 431, 512, 609, 724, 861,
        1024, 1218, 1448, 1722, 2048, 2435, 2896, 3444, 4096, 4871, 5793, 6889, 8192, 9742, 11585, 13777, 16384, 19484,
        23170, 27554, 32768,
    ]
)  # fmt: skip
"""The weight of each code: 16 * 2^((code - 1) / 4), rounded, and 0."""

_THRESHOLDS = np.array(
    [
        18, 21, 25, 30, 35, 42, 50, 59, 70, 84, 100, 118, 140, 166, 198, 235, 279, 332, 395, 470, 559, 665, 790, 939,
        1117, 1329, 1580, 1878, 2234, 2656, 3159, 3756, 4467, 5313, 6318, 7513, 8934, 10624, 12634, 15025, 17867, 21248,
        25268, 30049,
    ]
)  # fmt: skip
"""From which count in 32768 the next code fits better: the geometric means of neighbouring weights, rounded up."""

_TABLE_BITS = 80
_SYMBOL_BITS = 4
"""What a table is taken to cost, and each symbol from its first to its last. Written it takes 22 bits; but a decoder
looks up in 8 KiB for each, of which a processor keeps few at hand. With 80 in place of 18, decoding takes 0.96 to 0.98
of the time (ShuffleNet, MobileNetV2, MiniLM, fp32 and bf16), for bytes within 0.01 %; with 140, bf16 takes 0.1 %
more."""

_FEW_TOKENS = 512
_FEW_SHARE = 64
"""A context with fewer tokens than so many, or than one of so many, takes its neighbours' too until it has as many,
before it is found out which contexts do best to share a table. ShuffleNet is encoded in 0.95 of the time (fp32 and
bf16) for bytes by 0.001 % and 0.05 % more, nine other histories for up to 0.01 %; without the first limit MiniLM in
bf16 at 90x takes 1.3 % more."""

_FIRST_PREVIOUS = 20
"""What the first code of a table is coded against."""

_LOGARITHMS = np.round(256 * np.log2(1 + np.arange(256) / 256)).astype(np.int64)
"""256 log2(1 + i / 256). No entry is nearer to a half than 0.0008: far from where logarithms could round otherwise."""


@dataclass(frozen=True, slots=True)
class Table:
    """Frequencies of tokens.

    Attributes:
        low: the first token that has one.
        codes: weight codes of the tokens from `low` on; the first and the last are not 0.
    """

    low: int
    codes: tuple[int, ...]

    def frequencies(self) -> npt.NDArray[np.uint32] | None:
        """Return frequencies of the tokens from `low` on, `SCALE` together, or None if the weights do not fit it."""
        weights = _WEIGHTS[list(self.codes)]
        found = np.where(weights > 0, np.maximum(SCALE * weights // weights.sum(), 1), 0)
        largest = int(np.argmax(weights))
        found[largest] = 0
        found[largest] = SCALE - int(found.sum())
        return found.astype(np.uint32) if found[largest] > 0 else None


@dataclass(frozen=True, slots=True)
class Tables:
    """Tables for runs of contexts.

    Attributes:
        bounds: the first context of each table but the first, which begins at 0; strictly increasing.
        tables: at least one.
    """

    bounds: tuple[int, ...]
    tables: tuple[Table, ...]

    def of_contexts(self, contexts: Levels) -> Levels:
        """Return which table each context belongs to."""
        found: Levels = np.searchsorted(np.array(self.bounds, np.int64), contexts, side="right")
        return found


def counted(contexts: Levels, tokens: Levels, alphabet: int) -> Tables:
    """Return tables for tokens in their contexts, of which there is at least one."""
    counts = np.bincount(contexts * alphabet + tokens, minlength=CONTEXTS * alphabet).reshape(CONTEXTS, alphabet)
    groups = _merged(counts)
    return Tables(
        tuple(first for first, _ in groups[1:]),
        tuple(_table(count) for _, count in groups),
    )


def log2(values: Levels) -> Levels:
    """Return 256 times the binary logarithm of numbers from 1 on, as every encoder takes it.

    >>> log2(np.array([1, 2, 3, 1024])).tolist()
    [0, 256, 406, 2560]
    """
    exponents = np.frexp(values.astype(np.float64))[1].astype(np.int64) - 1
    found: Levels = 256 * exponents + _LOGARITHMS[((values << 8) >> exponents) & 255]
    return found


def _merged(counts: Levels) -> list[tuple[int, Levels]]:
    """Return runs of contexts that share a table: their first context, but for empty ones, and their counts."""
    few = min(int(counts.sum()) // _FEW_SHARE, _FEW_TOKENS)
    groups = list[tuple[int, Levels]]()
    for context in np.flatnonzero(counts.any(axis=1)):
        if groups and groups[-1][1].sum() < few:
            groups[-1] = (groups[-1][0], groups[-1][1] + counts[context])
        else:
            groups.append((int(context), counts[context]))
    costs = [_cost(count) for _, count in groups]
    joint = [_cost(one + other) for (_, one), (_, other) in itertools.pairwise(groups)]
    while len(groups) > 1:
        savings = [costs[at] + costs[at + 1] - joint[at] for at in range(len(joint))]
        at = savings.index(max(savings))
        if savings[at] <= 0 and len(groups) <= MAX_TABLES:
            break
        groups[at] = (groups[at][0], groups[at][1] + groups[at + 1][1])
        costs[at] = joint[at]
        del groups[at + 1], costs[at + 1], joint[at]
        for side in (at - 1, at):
            if 0 <= side < len(joint):
                joint[side] = _cost(groups[side][1] + groups[side + 1][1])
    return groups


def _cost(count: Levels) -> int:
    """Return about how many 1/256 bits tokens take that come so often, with the table that it needs."""
    present = np.flatnonzero(count)
    return token_bits(count) + 256 * (_SYMBOL_BITS * int(present[-1] - present[0] + 1) + _TABLE_BITS)


def token_bits(count: Levels) -> int:
    """Return about how many 1/256 bits tokens take that come so often, without their table."""
    some = count[count > 0]
    lengths = np.minimum(SCALE_BITS * 256, log2(some.sum(keepdims=True)) - log2(some))
    return int((some * lengths).sum())


def _table(count: Levels) -> Table:
    present = np.flatnonzero(count)
    low, some = int(present[0]), count[present[0] : present[-1] + 1]
    shares = some * 32768 // some.sum()
    codes = np.where(some > 0, 1 + np.searchsorted(_THRESHOLDS, shares, side="right"), 0)
    return Table(low, tuple(codes.tolist()))


def write(tables: Tables) -> list[Fields]:
    """Return the fields that `read` reads."""
    found = [bits.fields(len(tables.tables) - 1, 4), bits.fields(tables.bounds, 6)]
    for table in tables.tables:
        found.append(bits.fields([table.low, len(table.codes) - 1], 8))
        if len(table.codes) > 1:
            steps = np.diff(np.array((_FIRST_PREVIOUS, *table.codes), np.int64))
            found.append(bits.golomb(np.where(steps < 0, -2 * steps - 1, 2 * steps), 1))
    return found


def read(reader: BitReader, alphabet: int) -> Tables:
    """Read tables of tokens below `alphabet`.

    Raises:
        CodecError: not such tables.
    """
    count = reader.uint(4) + 1
    bounds = tuple(reader.uint(6) for _ in range(count - 1))
    if any(bound <= before for before, bound in zip((0, *bounds), bounds, strict=False)):
        raise CodecError(f"bounds of contexts do not increase: {bounds}")
    return Tables(bounds, tuple(_read(reader, alphabet) for _ in range(count)))


def _read(reader: BitReader, alphabet: int) -> Table:
    low, count = reader.uint(8), reader.uint(8) + 1
    if low + count > alphabet:
        raise CodecError(f"table of tokens {low} to {low + count - 1}, expected below {alphabet}")
    if count == 1:
        return Table(low, (1,))
    codes, code = [], _FIRST_PREVIOUS
    for _ in range(count):
        step = reader.golomb(1)
        code += step >> 1 if step & 1 == 0 else -(step + 1 >> 1)
        if not 0 <= code < len(_WEIGHTS):
            raise CodecError(f"weight code {code}, expected below {len(_WEIGHTS)}")
        codes.append(code)
    if not codes[0] or not codes[-1]:
        raise CodecError("table begins or ends with a token that has no weight")
    return Table(low, tuple(codes))
