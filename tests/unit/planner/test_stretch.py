"""Is the two-sided order what it says: log deep, each reference on the chain of the other, linear in edges?"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelvault.planner import neighbours, wanted_edges


@given(st.integers(2, 3000))
def test_one_of_two_references_is_on_the_chain_of_the_other(length: int) -> None:
    chains: dict[int, list[int]] = {0: []}
    for place in sorted(range(1, length), key=lambda place: -(place & -place)):
        base, second = neighbours(place, length)
        assert second is None or second in chains[base]
        chains[place] = [base, *chains[base]]
    assert max(map(len, chains.values())) <= (length - 1).bit_length()


@pytest.mark.parametrize("length", [0, 1, 2, 3, 64, 1000])
def test_edges_to_measure_are_few(length: int) -> None:
    edges = list(wanted_edges(length))
    assert len(edges) == len(set(edges)) <= 5 * length
    assert all(0 <= place < length and 0 <= base < length and base != place for place, base, _ in edges)


@given(st.integers(2, 400), st.integers(1, 50))
def test_a_longer_stretch_has_the_edges_of_a_shorter(length: int, more: int) -> None:
    """What was planned stays right when history goes on."""
    singles = {edge for edge in wanted_edges(length) if edge[2] is None}
    assert singles <= set(wanted_edges(length + more))
