"""Is what a restore takes added up over everything it leans on, once, and under the right commits?"""

from __future__ import annotations

import pytest

from modelvault import wire
from modelvault.errors import CorruptError
from modelvault.repository.gc import collect_garbage
from modelvault.repository.repository import Repository
from modelvault.repository.restoring import restore_cost

from .garbage import forget
from .networks import Run
from .vaults import commit, tensor_records


def test_each_tensor_counts_once_and_under_its_oldest_commit(vault: Repository) -> None:
    run = Run({"layer.weight": 40_000, "other.weight": 30_000})
    epochs = list(run.epochs(3))
    first, second, third, again = [commit(vault, data) for data in [*epochs, epochs[-1]]]
    records = tensor_records(vault)
    with vault.store.read() as txn:
        cost, same = restore_cost(txn, third.commit_id), restore_cost(txn, again.commit_id)
    assert [link.commit_id for link in cost.links] == [third.commit_id, second.commit_id, first.commit_id]
    assert [link.depth for link in cost.links] == [2, 1, 0]
    assert cost.read_bytes == sum(record.stored_bytes for record in records.values())
    assert cost.decoded_bytes == sum(record.nbytes for record in records.values())
    assert cost.depth == max(record.depth for record in records.values()) == 2
    assert cost.work == cost.read_bytes + cost.decoded_bytes
    assert cost.seconds > 0
    assert sorted(link.tensors for link in same.links) == sorted(link.tensors for link in cost.links)


def test_what_only_forgotten_commits_held_belongs_to_nobody(vault: Repository) -> None:
    run = Run({"layer.weight": 40_000})
    made = [commit(vault, data) for data in run.epochs(3)]
    forget(vault, [made[1].commit_id])
    collect_garbage(vault, grace=0)  # the base in the middle may stay, for the last to lean on
    with vault.store.read() as txn:
        cost = restore_cost(txn, made[2].commit_id)
        kept = txn.count("tensors")
    owners = [link.commit_id for link in cost.links]
    assert owners[0] == made[2].commit_id and made[1].commit_id not in owners
    assert len(owners) == kept
    assert (None in owners) == (kept == 3)


def test_a_missing_reference_is_said(vault: Repository) -> None:
    made = [commit(vault, data) for data in Run({"layer.weight": 40_000}).epochs(2)]
    base = next(record.base for record in tensor_records(vault).values() if record.base)
    with vault.store.write() as txn:
        txn.delete("tensors", wire.sortable(base))
    with vault.store.read() as txn, pytest.raises(CorruptError, match="missing"):
        restore_cost(txn, made[1].commit_id)
