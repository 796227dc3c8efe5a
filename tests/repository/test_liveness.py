"""Does marking find just what refs, young reflog entries and sessions need?"""

from __future__ import annotations

import time

import pytest

from modelvault import wire
from modelvault.errors import CorruptError
from modelvault.ids import CommitId
from modelvault.objects.payload import EXACT, Payload
from modelvault.objects.ref import Head, Move
from modelvault.repository import refs
from modelvault.repository.liveness import ALL_PARTS, DEAD, REFERENCE, WANTED, Cutoff, Liveness, kept_parts, mark, roots
from modelvault.repository.repository import Repository
from modelvault.store.base import Holder, LiveSession

from .garbage import forget, move_ref
from .networks import Run
from .vaults import commit, tensor_records

NEVER, NOW = Cutoff(0, 0), Cutoff(2**62, 2**62)


def marked(repository: Repository, cutoff: Cutoff = NOW, sessions: list[LiveSession] | None = None) -> Liveness:
    with repository.store.read() as txn:
        return mark(txn, cutoff, sessions)


def roots_of(repository: Repository, cutoff: int) -> set[CommitId]:
    with repository.store.read() as txn:
        return roots(txn, cutoff)


def session(**floors: int) -> LiveSession:
    return LiveSession("one", Holder(1, "here", 0.0, "commit"), floors)


def test_an_empty_vault_has_nothing_live(vault: Repository) -> None:
    found = marked(vault)
    assert (found.commits, found.files, found.templates) == ({}, {}, set())
    assert not found.wants(1)


def test_references_are_told_from_what_files_want(vault: Repository) -> None:
    history = [commit(vault, data).commit_id for data in Run({"w": 20_000}).epochs(4)]
    assert list(marked(vault).tensors[1:]) == [WANTED] * 4
    forget(vault, history[:3])
    found = marked(vault)
    records = tensor_records(vault)
    expected, number = {4: WANTED}, records[4].base
    while number:
        expected[number] = REFERENCE
        number = records[number].base
    assert [found.tensors[n] for n in range(1, 5)] == [expected.get(n, DEAD) for n in range(1, 5)]
    assert found.commits == dict.fromkeys(history[:3], 0) | {history[3]: ALL_PARTS}
    assert [found.depths[n] for n in records] == [record.depth for record in records.values()]
    assert list(marked(vault, NEVER).tensors[1:]) == [WANTED] * 4  # forgotten too lately


def test_a_session_keeps_what_is_not_below_its_floors(vault: Repository) -> None:
    history = [commit(vault, Run({"w": 20_000}, seed=n).file()).commit_id for n in range(4)]
    forget(vault, history)
    assert not any(marked(vault).tensors)
    for floor in range(1, 6):
        found = marked(vault, NOW, [session(tensors=9), session(tensors=floor)])
        wanted = {number for number in range(1, 5) if found.wants(number)}
        assert wanted >= set(range(floor, 5))
        assert not wanted - set(range(floor, 5)) or any(tensor_records(vault)[n].base for n in range(floor, 5))
    assert not any(marked(vault, NOW, [session()]).tensors)


@pytest.mark.parametrize("forgotten", [(0, 0, 0), (5, 0, 0), (0, 9, 10), (5, 5, 5)])
def test_parts_are_kept_until_the_cutoff_passes_them(forgotten: tuple[int, int, int]) -> None:
    payload = Payload(EXACT, 0, 0, 0, 0, forgotten)
    for cutoff in (1, 5, 6, 10, 11):
        expected = sum(1 << part for part, moment in enumerate(forgotten) if moment == 0 or moment >= cutoff)
        assert kept_parts(payload, cutoff) == expected
    assert kept_parts(Payload(EXACT, 0, 0, 0, 0), 2**62) == ALL_PARTS


def test_a_ref_that_moved_since_the_cutoff_holds_on_to_where_it_was_then(vault: Repository) -> None:
    ids = [commit(vault, f"{n}".encode()).commit_id for n in range(4)]
    for days, target in ((30, ids[0]), (20, ids[1]), (10, ids[2]), (5, None)):
        move_ref(vault, "tags/best", target, days_ago=days)
    with vault.store.write() as txn:
        for key, _ in list(txn.scan("reflog"))[:4]:
            txn.delete("reflog", key)

    def held(days: float) -> set[CommitId]:
        return roots_of(vault, int((time.time() - days * 86_400) * 1000)) - {ids[3]}

    assert held(1) == set()
    assert held(7) == {ids[2]}
    assert held(15) == {ids[1], ids[2]}
    assert held(25) == held(40) == {ids[0], ids[1], ids[2]}


def test_where_a_detached_head_stands_and_stood_is_a_root(vault: Repository) -> None:
    first = commit(vault, b"first").commit_id
    with vault.store.write() as txn:
        refs.move(txn, "checkout", [Move("heads/main", None)], head=Head("main", first))
        for key, _ in list(txn.scan("reflog")):
            txn.delete("reflog", key)
    assert roots_of(vault, 2**62) == {first}
    with vault.store.write() as txn:
        refs.move(txn, "switch", [], head=Head("main"))
    assert roots_of(vault, 2**62) == set()
    assert roots_of(vault, 0) == {first}


def test_a_missing_tensor_or_reference_is_an_error(vault: Repository) -> None:
    for data in Run({"w": 20_000}).epochs(3):
        commit(vault, data)
    for number in (1, 3):
        with pytest.raises(CorruptError, match=f"tensor {number}"), vault.store.write() as txn:
            txn.delete("tensors", wire.sortable(number))
            mark(txn, NOW)
    assert marked(vault).wants(3)
