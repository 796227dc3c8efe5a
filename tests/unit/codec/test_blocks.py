"""Do blocks cover the words, keep step with the rows, and sum what is theirs?"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelvault.codec.blocks import Blocks


@given(st.integers(0, 5000), st.integers(0, 3000), st.integers(0, 10**7))
def test_blocks_cover_the_words_in_step_with_the_rows(words: int, row: int, start: int) -> None:
    blocks = Blocks.along_rows(words, row, start)
    starts = blocks.starts().tolist()
    assert len(starts) == blocks.count
    assert 1 <= blocks.first <= blocks.length <= max(words, 1)
    assert starts == sorted(set(starts))
    assert all(0 <= place < words for place in starts)
    if 32 <= row <= 1024:
        assert all((place + start) % row == 0 for place in starts[1:])
    values = np.arange(words) % 7
    cuts = [*starts, words]
    sums = [int(values[one:other].sum()) for one, other in itertools.pairwise(cuts)]
    assert blocks.sums(values.astype(np.uint8)).tolist() == sums
    spread = blocks.spread(np.arange(blocks.count))
    assert spread.size == words
    assert [int(spread[place]) for place in starts] == list(range(blocks.count))


@pytest.mark.parametrize(
    ("row", "length"),
    [(0, 128), (1, 128), (2, 32), (3, 33), (31, 62), (32, 32), (1000, 1000), (1024, 1024), (1025, 512), (4096, 512)],
)
def test_short_rows_go_together_and_long_ones_are_cut(row: int, length: int) -> None:
    assert Blocks.along_rows(10_000, row, 0) == Blocks(10_000, length, length)
    assert Blocks.along_rows(10_000, row, length + 5) == Blocks(10_000, length, length - 5)
