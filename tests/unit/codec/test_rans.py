"""Do tokens come back through any number of lanes, near their entropy, and is a stream that is not theirs refused?"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelvault.codec import CodecError, rans
from modelvault.codec.frequencies import SCALE, Table, Tables, counted

pairs = st.lists(st.tuples(st.integers(0, 63), st.integers(0, 31)), min_size=1, max_size=300)


@given(pairs, st.integers(0, 5))
def test_tokens_come_back(found: list[tuple[int, int]], lanes_log: int) -> None:
    contexts, tokens = (np.array(column) for column in zip(*found, strict=True))
    tables = counted(contexts, tokens, 32)
    table_of = tables.of_contexts(contexts)
    coded = rans.encode(tokens, table_of, tables.tables, 1 << lanes_log)
    assert coded is not None
    states, stream = coded
    assert ((states >= rans.LOW) & (states < rans.HIGH)).all()
    assert stream.size <= tokens.size
    assert rans.decode(states, stream, table_of, tables.tables).tolist() == tokens.tolist()
    with pytest.raises(CodecError):
        rans.decode(states, np.append(stream, stream[:1] if stream.size else 7).astype("<u2"), table_of, tables.tables)
    if stream.size:
        with pytest.raises(CodecError):
            rans.decode(states, stream[:-1], table_of, tables.tables)


def test_tokens_take_as_many_bits_as_they_should() -> None:
    tokens = np.minimum(np.random.default_rng(0).geometric(0.3, 100_000), 31)
    tables = counted(np.zeros(tokens.size, np.int64), tokens, 32)
    table_of = np.zeros(tokens.size, np.int64)
    coded = rans.encode(tokens, table_of, tables.tables, 32)
    assert coded is not None
    share = tables.tables[0].frequencies()
    assert share is not None
    bits = -np.log2(share[tokens - tables.tables[0].low] / SCALE).sum()
    assert abs(16 * coded[1].size - bits) < 0.0005 * bits + 32 * 31


def test_a_certain_token_takes_nothing() -> None:
    tables = Tables((), (Table(5, (1,)),))
    coded = rans.encode(np.full(1000, 5), np.zeros(1000, np.int64), tables.tables, 4)
    assert coded is not None
    assert coded[0].tolist() == [rans.LOW] * 4
    assert coded[1].size == 0


def test_weights_that_do_not_go_into_the_scale() -> None:
    tables = Tables((), (Table(0, (40,) * 55 + (1,) * 200 + (40,)),))
    assert rans.encode(np.array([0]), np.array([0]), tables.tables, 1) is None
    with pytest.raises(CodecError, match="do not go into its scale"):
        rans.decode(np.array([rans.LOW], "<u4"), np.empty(0, "<u2"), np.array([0]), tables.tables)


def test_states_that_do_not_end_where_they_should() -> None:
    tables = Tables((), (Table(5, (1,)),))
    with pytest.raises(CodecError, match="states do not end"):
        rans.decode(np.array([rans.LOW + 1], "<u4"), np.empty(0, "<u2"), np.zeros(3, np.int64), tables.tables)
