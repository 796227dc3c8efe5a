"""Do tables come back, fit their scale, and stay near to what the counts allow?"""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelvault.codec import CodecError, bits, frequencies
from modelvault.codec.bits import BitReader
from modelvault.codec.frequencies import SCALE, Table, Tables, counted, log2

pairs = st.lists(st.tuples(st.integers(0, 63), st.integers(0, 31)), min_size=1, max_size=300)


@given(pairs)
def test_tables_come_back_and_know_every_token(found: list[tuple[int, int]]) -> None:
    contexts, tokens = (np.array(column) for column in zip(*found, strict=True))
    tables = counted(contexts, tokens, 32)
    assert 1 <= len(tables.tables) <= frequencies.MAX_TABLES
    data = bits.join(frequencies.write(tables))
    reader = BitReader(data)
    again = frequencies.read(reader, 32)
    assert reader.end() == len(data)
    assert again.bounds == tables.bounds
    for context, token in found:
        of = again.of_contexts(np.array([context]))[0]
        table = again.tables[of]
        share = table.frequencies()
        assert share is not None
        assert share.sum() == SCALE
        assert share[token - table.low] > 0
        assert [0, *again.bounds][of] <= context < [*again.bounds, 64][of]


def test_contexts_that_differ_have_tables_and_such_that_do_not_share_one() -> None:
    contexts = np.repeat(np.arange(40), 2000)
    near = np.tile(np.repeat([1, 2, 3, 4, 5], [1000, 500, 250, 125, 125]), 40)
    assert len(counted(contexts, near, 64).tables) == 1
    apart = np.minimum(near + contexts // 10 * 8, 63)
    assert counted(contexts, apart, 64).bounds == (10, 20, 30)
    # More kinds than there may be tables.
    assert len(counted(contexts, contexts, 64).tables) == frequencies.MAX_TABLES


def test_logarithms_are_near() -> None:
    values = np.concatenate((np.arange(1, 3000), 2 ** np.arange(12, 19), 2 ** np.arange(12, 19) - 1))
    found = log2(values)
    assert np.abs(found / 256 - np.log2(values)).max() < 0.006
    assert (np.diff(found[:2999]) >= 0).all()


def test_weights_cost_little() -> None:
    """Against the entropy of the counts, over shapes from flat to steep: 11 bits and quarter octaves."""
    for base in (0.1, 0.5, 0.8, 0.95, 0.999):
        counts = np.floor(1e5 * base ** np.arange(60)).astype(np.int64)
        counts = counts[counts > 0]
        tokens = np.repeat(np.arange(counts.size), counts)
        (table,) = counted(np.zeros(tokens.size, np.int64), tokens, 64).tables
        share = table.frequencies()
        assert share is not None
        ideal = -(counts * np.log2(counts / counts.sum())).sum()
        assert -(counts * np.log2(share / SCALE)).sum() < 1.012 * ideal + 1e-9, base


def test_weights_that_do_not_go_into_the_scale_are_noticed() -> None:
    assert Table(0, (20,) * 55 + (1,) * 200 + (20,)).frequencies() is None
    assert Table(0, (20,) * 256).frequencies() is not None


def test_constants_are_what_their_names_say() -> None:
    weights = frequencies._WEIGHTS.tolist()
    assert weights == [0] + [round(16 * 2 ** ((code - 1) / 4)) for code in range(1, 46)]
    thresholds = frequencies._THRESHOLDS.tolist()
    assert thresholds == [1 + math.isqrt(weights[at] * weights[at + 1] - 1) for at in range(1, 45)]


def forged(*fields: tuple[int, int]) -> BitReader:
    values, widths = zip(*fields, strict=True)
    return BitReader(bits.join([bits.fields(values, widths)]))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ([(1, 4), (0, 6)], "do not increase"),
        ([(2, 4), (7, 6), (7, 6)], "do not increase"),
        ([(0, 4), (31, 8), (1, 8)], "expected below 32"),
        ([(0, 4), (0, 8), (1, 8)], "run out"),
        ([(0, 4), (0, 8)], "run out"),
        ([(15, 4)], "run out"),
    ],
)
def test_forged_tables_are_refused(fields: list[tuple[int, int]], message: str) -> None:
    with pytest.raises(CodecError, match=message):
        frequencies.read(forged(*fields), 32)


@pytest.mark.parametrize(
    ("steps", "message"),
    [([52, 0], "weight code 46"), ([41, 0], "weight code -1"), ([39, 0], "no weight"), ([0, 39], "no weight")],
)
def test_forged_weights_are_refused(steps: list[int], message: str) -> None:
    head = bits.fields([0, 0, 1], [4, 8, 8])
    with pytest.raises(CodecError, match=message):
        frequencies.read(BitReader(bits.join([head, bits.golomb(steps, 1)])), 32)


def test_read_tables_are_the_written_ones() -> None:
    tables = Tables((3, 9), (Table(4, (1,)), Table(0, (3, 0, 45)), Table(31, (1,))))
    assert frequencies.read(BitReader(bits.join(frequencies.write(tables))), 32) == tables
