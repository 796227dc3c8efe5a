"""Is the first bad commit found, in any history, with few tests, and what was skipped said?"""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelvault.ids import CommitId
from modelvault.repository.bisect import Bisection, Verdict


def name(number: int) -> CommitId:
    return CommitId(number.to_bytes(32, "big"))


def history(chance: random.Random, count: int, *, merges: float) -> dict[CommitId, list[CommitId]]:
    """Return a history all of which its last commit descends from."""
    parents: dict[CommitId, list[CommitId]] = {}
    leaves = set[int]()
    for number in range(count):
        older = {chance.randrange(number) for _ in range(2 if chance.random() < merges else 1)} if number else set()
        if number == count - 1:
            older |= leaves
        leaves = (leaves - older) | {number}
        parents[name(number)] = [name(one) for one in sorted(older)]
    return parents


def descendants(parents: dict[CommitId, list[CommitId]], root: CommitId) -> set[CommitId]:
    found = {root}
    for one, older in parents.items():
        if found.intersection(older):
            found.add(one)
    return found


def search(
    parents: dict[CommitId, list[CommitId]], bad: set[CommitId], broken: frozenset[CommitId] = frozenset()
) -> tuple[Bisection, int]:
    bisection, count = Bisection(parents, list(parents)[-1]), 0
    while (one := bisection.next()) is not None:
        verdict: Verdict = "skipped" if one in broken else "bad" if one in bad else "good"
        bisection.tell(one, verdict)
        count += 1
        assert count <= len(parents)
    return bisection, count


@given(st.randoms(use_true_random=False), st.integers(1, 40), st.sampled_from([0.0, 0.3, 1.0]))
def test_the_first_bad_commit_is_found(chance: random.Random, count: int, merges: float) -> None:
    parents = history(chance, count, merges=merges)
    culprit = name(chance.randrange(count))
    bad = descendants(parents, culprit)
    if name(count - 1) in bad:
        assert search(parents, bad)[0].suspects == (culprit,)


@pytest.mark.parametrize(("count", "most"), [(1, 0), (2, 1), (16, 4), (17, 5), (1000, 10)])
def test_a_straight_line_takes_the_logarithm(count: int, most: int) -> None:
    parents = {name(number): [name(number - 1)] if number else [] for number in range(count)}
    chance = random.Random(count)
    for culprit in {0, count - 1, *(chance.randrange(count) for _ in range(20))}:
        found, tests = search(parents, {name(number) for number in range(culprit, count)})
        assert found.suspects == (name(culprit),)
        assert tests <= most


@given(st.randoms(use_true_random=False), st.integers(2, 30))
def test_what_was_skipped_stays_in_doubt_and_nothing_else(chance: random.Random, count: int) -> None:
    parents = {name(number): [name(number - 1)] if number else [] for number in range(count)}
    culprit = chance.randrange(count)
    broken = frozenset(name(number) for number in range(count - 1) if chance.random() < 0.4)
    suspects = search(parents, {name(number) for number in range(culprit, count)}, broken)[0].suspects
    assert name(culprit) in suspects
    assert all(one in broken for one in suspects[:-1])
