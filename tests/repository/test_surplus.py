"""Is it known, without looking through the vault, when much of it could go, and only then?"""

from __future__ import annotations

from pathlib import Path

import pytest

from modelvault.ids import CommitId
from modelvault.objects.recipe import PARTS
from modelvault.repository import retention
from modelvault.repository.gc import DEFAULT_GRACE, collect_garbage
from modelvault.repository.repository import Repository
from modelvault.repository.surplus import Surplus, estimate
from modelvault.store import free_pages

from .garbage import entries
from .networks import Run
from .vaults import commit, new_vault

BOTH = {"model.weight": 20_000, "optimizer.state.0.exp_avg": 40_000}


@pytest.fixture
def vault(tmp_path: Path) -> Repository:
    return new_vault(tmp_path)


def history_of(repository: Repository, count: int) -> list[CommitId]:
    return [commit(repository, Run(BOTH, seed=seed).file(), f"run {seed}").commit_id for seed in range(count)]


def forget(repository: Repository, commits: list[CommitId], parts: frozenset[int] = retention.ALL_PARTS) -> None:
    with repository.store.write() as txn:
        retention.forget(txn, [c for c in retention.choose_named(txn, commits, parts) if c.parts])


def bring_back(repository: Repository, commits: list[CommitId]) -> None:
    with repository.store.write() as txn:
        retention.bring_back(txn, [c for c in retention.choose_to_bring_back(txn, commits) if c.parts])


def notes(repository: Repository) -> int:
    return sum(table == "stats" for table, _ in entries(repository))


def test_a_vault_that_only_grows_has_none(vault: Repository) -> None:
    for seed in range(8):
        commit(vault, Run(BOTH, seed=seed).file())
        found = estimate(vault.store)
        assert found.forgotten_bytes == 0
        assert not found.is_mostly_free and not found.is_mostly_forgotten


def test_what_was_forgotten_is_what_it_added(vault: Repository) -> None:
    line = history_of(vault, 4)
    forget(vault, line[:1])
    forget(vault, line[1:3])
    found = estimate(vault.store)
    foretold = collect_garbage(vault, grace=0, dry_run=True)
    assert found.forgotten_bytes == pytest.approx(foretold.freed_bytes, rel=0.02)
    assert found.is_mostly_forgotten == (found.forgotten_bytes >= 1 << 20)
    collect_garbage(vault, grace=DEFAULT_GRACE)
    assert estimate(vault.store).forgotten_bytes == found.forgotten_bytes
    collect_garbage(vault, grace=0)
    assert estimate(vault.store).forgotten_bytes == notes(vault) == 0


def test_a_part_counts_for_what_it_holds(vault: Repository) -> None:
    line = history_of(vault, 3)
    forget(vault, line, frozenset({PARTS.index("optimizer")}))
    found, foretold = estimate(vault.store), collect_garbage(vault, grace=0, dry_run=True)
    assert found.forgotten_bytes == pytest.approx(foretold.freed_bytes, rel=0.02)
    forget(vault, line)
    found, foretold = estimate(vault.store), collect_garbage(vault, grace=0, dry_run=True)
    assert found.forgotten_bytes == pytest.approx(foretold.freed_bytes, rel=0.02)


def test_what_is_brought_back_counts_no_more(vault: Repository) -> None:
    line = history_of(vault, 4)
    forget(vault, line[:3])
    before = estimate(vault.store).forgotten_bytes
    bring_back(vault, line[:1])
    assert estimate(vault.store).forgotten_bytes == pytest.approx(before * 2 / 3, rel=0.01)
    bring_back(vault, line[1:3])
    assert estimate(vault.store).forgotten_bytes == notes(vault) == 0


def test_notes_that_make_no_sense_are_nothing(vault: Repository) -> None:
    with vault.store.write() as txn:
        txn.put("stats", b"forgotten \x01\x05", b"\xff")
        txn.put("stats", b"something else", b"")
    assert estimate(vault.store).forgotten_bytes == 0
    collect_garbage(vault, grace=0)
    assert notes(vault) == 1  # of another kind, and not ours to judge


def test_free_pages_are_seen(vault: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(free_pages, "_fallocate", lambda: None)  # a file system that takes no holes
    line = history_of(vault, 12)
    forget(vault, line[:11])
    collect_garbage(vault, grace=0)
    found = estimate(vault.store)
    assert found.is_mostly_free
    before = vault.store.disk_bytes()
    collect_garbage(vault, grace=0, compact=True)
    assert before - vault.store.disk_bytes() == pytest.approx(found.free_bytes, rel=0.05)
    assert not estimate(vault.store).is_mostly_free


def test_half_is_much_and_little_is_not() -> None:
    assert Surplus(2 << 20, 0, 4 << 20).is_mostly_forgotten
    assert not Surplus((2 << 20) - 1, 0, 4 << 20).is_mostly_forgotten
    assert not Surplus(1 << 19, 0, 1 << 19).is_mostly_forgotten
    assert Surplus(2 << 20, 4 << 20, 8 << 20).is_mostly_forgotten
    assert Surplus(0, 2 << 20, 4 << 20).is_mostly_free
    assert not Surplus(0, 1 << 19, 1 << 20).is_mostly_free
