"""Do tokens and tails say which residual it was, for every residual of 16 bits and every length of 32?"""

from __future__ import annotations

import numpy as np
import pytest

from modelvault.codec import tokens


@pytest.mark.parametrize("bits", [16, 32])
def test_residuals_come_back(bits: int) -> None:
    random = np.random.default_rng(0)
    every = np.arange(1 << 16, dtype=np.uint64)
    if bits == 32:
        lengths = np.repeat(np.arange(33, dtype=np.uint64), 1000)
        drawn = random.integers(0, 1 << 32, lengths.size, dtype=np.uint64) >> (np.uint64(32) - lengths)
        edges = np.uint64(1) << np.arange(32, dtype=np.uint64)
        every = np.concatenate((every, drawn, edges, edges - np.uint64(1), [np.uint64((1 << 32) - 1)]))
    residuals = every.astype(f"<u{bits // 8}")
    found = tokens.tokens(residuals)
    assert found.max() == tokens.alphabet(bits) - 1
    widths = tokens.tail_widths(found)
    tails = tokens.tails(residuals, widths)
    assert (tails >> widths.astype(np.uint64) == 0).all()
    assert np.array_equal(tokens.residuals(found, tails, bits), residuals)


def test_tokens_are_those_of_the_page() -> None:
    for residual in [*range(200), 2**31, 2**32 - 1, 3 << 30]:
        (found,) = tokens.tokens(np.array([residual], "<u4")).tolist()
        if residual < 4:
            assert found == residual
        else:
            high = residual.bit_length() - 1
            assert found == 4 + 2 * (high - 2) + (residual >> (high - 1) & 1)
            assert tokens.tail_widths(np.array([found], np.uint8)) == high - 1
