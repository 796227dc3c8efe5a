"""Is the plan never deeper than allowed, never worse than a keyframe, and always the same?"""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from modelvault.planner import MAX_DEPTH, Allowance, Candidate, choose

CANDIDATES = st.lists(st.builds(Candidate, st.integers(1, 50), st.integers(0, 200), st.integers(0, 20)), max_size=8)


@given(st.integers(0, 200), CANDIDATES, st.integers(0, 20))
def test_depth_stays_within_its_bound(keyframe: int, candidates: list[Candidate], max_depth: int) -> None:
    chosen = choose(keyframe, candidates, Allowance(max_depth))
    assert chosen is None or chosen.depth + 1 <= max_depth


@given(st.integers(0, 200), CANDIDATES, st.integers(0, 2000), st.integers(0, 100))
def test_work_stays_within_its_bound(keyframe: int, candidates: list[Candidate], most: int, nbytes: int) -> None:
    worked = [candidate._replace(work=candidate.depth * 90) for candidate in candidates]
    chosen = choose(keyframe, worked, Allowance(20, most, nbytes))
    assert chosen is None or chosen.work + nbytes + chosen.bytes <= most


@given(st.integers(0, 200), CANDIDATES)
def test_a_keyframe_is_never_cheaper(keyframe: int, candidates: list[Candidate]) -> None:
    chosen = choose(keyframe, candidates)
    assert chosen is None or chosen.bytes < keyframe


@given(st.integers(0, 200), CANDIDATES)
def test_what_is_cheapest_of_all_is_taken_if_it_is_allowed(keyframe: int, candidates: list[Candidate]) -> None:
    chosen = choose(keyframe, candidates)
    cheapest = min([keyframe, *(candidate.bytes for candidate in candidates)])
    if any(candidate.bytes == cheapest < keyframe and candidate.depth < MAX_DEPTH for candidate in candidates):
        assert chosen is not None
        assert chosen.bytes == cheapest


@given(st.integers(0, 200), CANDIDATES)
def test_nothing_that_is_cheaper_leaves_as_much_room(keyframe: int, candidates: list[Candidate]) -> None:
    chosen = choose(keyframe, candidates) or Candidate(0, keyframe, -1)
    for other in candidates:
        assert other.bytes >= chosen.bytes or other.depth >= MAX_DEPTH or other.depth > chosen.depth


def test_a_chain_at_its_end_is_left_for_where_most_can_follow() -> None:
    """Distances as of a random walk: half a bit for each doubling, at 12 bits for one step and 26 for a keyframe."""
    chain = [Candidate(17 - back, round(1000 * (12 + back.bit_length() / 2)), 17 - back) for back in range(1, 18)]
    chosen = choose(26_000, chain)
    assert chosen is not None
    assert chosen.depth == 2
    dear = [candidate._replace(bytes=25_000) if candidate.depth < 8 else candidate for candidate in chain]
    chosen = choose(26_000, dear)
    assert chosen is not None
    assert chosen.depth == 10


@given(st.integers(0, 200), CANDIDATES, st.randoms(use_true_random=False))
def test_the_order_of_candidates_does_not_matter(
    keyframe: int, candidates: list[Candidate], shuffler: random.Random
) -> None:
    shuffled = list(candidates)
    shuffler.shuffle(shuffled)
    assert choose(keyframe, shuffled) == choose(keyframe, candidates)


def test_ties_go_to_the_keyframe_then_the_shorter_chain_then_the_lower_number() -> None:
    assert choose(80, [Candidate(1, 80, 0)]) is None
    assert choose(100, [Candidate(1, 80, 3), Candidate(2, 80, 1)]) == Candidate(2, 80, 1)
    assert choose(100, [Candidate(9, 80, 1), Candidate(2, 80, 1)]) == Candidate(2, 80, 1)


def test_without_candidates_there_is_only_a_keyframe() -> None:
    assert choose(100, []) is None
