"""Is the plan never deeper than allowed, never worse than a keyframe, and always the same?"""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from modelvault.planner import MAX_DEPTH, Candidate, choose

CANDIDATES = st.lists(st.builds(Candidate, st.integers(1, 50), st.integers(0, 200), st.integers(0, 20)), max_size=8)


@given(st.integers(0, 200), CANDIDATES, st.integers(0, 20))
def test_depth_stays_within_its_bound(keyframe: int, candidates: list[Candidate], max_depth: int) -> None:
    chosen = choose(keyframe, candidates, max_depth)
    assert chosen is None or chosen.depth + 1 <= max_depth


@given(st.integers(0, 200), CANDIDATES)
def test_a_keyframe_is_never_cheaper(keyframe: int, candidates: list[Candidate]) -> None:
    chosen = choose(keyframe, candidates)
    assert chosen is None or chosen.bytes < keyframe


@given(st.integers(0, 200), CANDIDATES)
def test_nothing_allowed_is_cheaper_than_what_is_chosen(keyframe: int, candidates: list[Candidate]) -> None:
    chosen = choose(keyframe, candidates)
    allowed = [candidate for candidate in candidates if candidate.depth < MAX_DEPTH]
    cheapest = min([keyframe, *(candidate.bytes for candidate in allowed)])
    assert (keyframe if chosen is None else chosen.bytes) == cheapest


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
