"""Do commits that race queue up as children, and does the last transaction believe only what it sees?"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from modelvault import wire
from modelvault.errors import CorruptError, UsageError
from modelvault.objects.ref import Move
from modelvault.objects.tensor import TensorRecord, index_key
from modelvault.repository import encode, refs
from modelvault.repository.commit import Committed, Request, make_commit
from modelvault.repository.history import read_commit
from modelvault.repository.repository import Repository, open_repository

from .networks import Run
from .vaults import all_commits, commit, files_of, find, fsck, tensor_records

PROJECT = Path(__file__).parents[2]


def commit_with(repository: Repository, data: bytes, meanwhile: Callable[[], bool], **fields: str) -> Committed:
    """Commit, and do something between encoding and the last transaction, each time until it returns True."""
    path = repository.root / "model.pt"
    path.write_bytes(data)
    finished = False

    def progress(what: str, done: int, total: int) -> None:
        nonlocal finished
        if done == total and not finished:
            finished = meanwhile()

    return make_commit(repository, Request([path], "raced", **fields), progress)  # type: ignore[arg-type]


@pytest.fixture
def stored_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every frame be a batch of its own, so that none waits for the last transaction."""
    monkeypatch.setattr(encode, "BATCH_BYTES", 1)


def drop_newest_tensor(repository: Repository) -> bool:
    """Do what a gc that knew nothing of the session would do; say whether there was something to drop."""
    records = tensor_records(repository)
    if not records:
        return False
    number = max(records)
    with repository.store.write() as txn:
        txn.delete("tensors", wire.sortable(number))
        txn.delete("index", index_key(records[number].tensor_id, number))
    return True


@pytest.mark.usefixtures("stored_early")
def test_a_tensor_that_goes_before_the_last_transaction_is_stored_again(vault: Repository) -> None:
    data = Run({"w": 40_000, "b": 100}).file()
    done = commit_with(vault, data, lambda: drop_newest_tensor(vault))
    assert files_of(vault, done.commit_id) == {"model.pt": data}
    assert len(tensor_records(vault)) == 2
    fsck(vault)


@pytest.mark.usefixtures("stored_early")
def test_a_tensor_that_always_goes_is_given_up(vault: Repository) -> None:
    data = Run({"w": 40_000}).file()

    def drop() -> bool:
        drop_newest_tensor(vault)
        return False

    with pytest.raises(CorruptError, match="gave up after 3 attempts"):
        commit_with(vault, data, drop)
    assert all_commits(vault) == []


@pytest.mark.usefixtures("stored_early")
def test_a_number_that_means_another_tensor_is_noticed(vault: Repository) -> None:
    run = Run({"w": 40_000})
    commit(vault, run.file())
    run.weights = Run({"w": 40_000}, seed=9).weights
    data = run.file()

    def swap() -> bool:
        if len(tensor_records(vault)) < 2:
            return False
        with vault.store.write() as txn:
            other = txn.get("tensors", wire.sortable(1))
            mine = txn.get("tensors", wire.sortable(2))
            assert other is not None and mine is not None
            txn.put("tensors", wire.sortable(2), other)
            txn.delete("index", index_key(TensorRecord.from_bytes(mine).tensor_id, 2))
        return True

    done = commit_with(vault, data, swap)
    assert files_of(vault, done.commit_id) == {"model.pt": data}


def test_a_reference_that_goes_before_the_last_transaction_is_not_leaned_on(vault: Repository) -> None:
    run = Run({"w": 40_000})
    commit(vault, run.file())
    run.train()
    data = run.file()
    done = commit_with(vault, data, lambda: drop_newest_tensor(vault))
    assert files_of(vault, done.commit_id) == {"model.pt": data}
    assert [record.base for record in tensor_records(vault).values()] == [0]


def test_tensors_that_fit_into_a_batch_come_with_their_commit(vault: Repository) -> None:
    """In one transaction: until then there is nothing of them, and each costs two syncs of the disk."""
    seen: list[int] = []

    def look() -> bool:
        seen.append(len(tensor_records(vault)))
        return True

    run = Run({"w": 40_000, "b": 100})
    commit_with(vault, run.file(), look)
    run.train()
    commit_with(vault, run.file(), look)
    assert seen == [0, 2]
    assert len(tensor_records(vault)) == 4


def test_files_of_one_commit_share_tensors(vault: Repository) -> None:
    files = {"one.pt": Run({"w": 40_000}).file(), "two.pt": Run({"w": 40_000, "b": 20_000}).file()}
    done = commit(vault, files)
    assert files_of(vault, done.commit_id) == files
    assert sorted(record.nbytes for record in tensor_records(vault).values()) == [80_000, 160_000]


def test_a_recipe_or_a_template_that_goes_is_made_again(vault: Repository) -> None:
    run = Run({"w": 40_000})
    first = run.file()
    commit(vault, first)

    def drop() -> bool:
        with vault.store.write() as txn:
            for table in ("recipes", "templates"):
                for key, _ in list(txn.scan(table)):
                    txn.delete(table, key)
        return True

    done = commit_with(vault, first, drop)
    assert files_of(vault, done.commit_id) == {"model.pt": first}
    run.train()
    second = run.file()
    done = commit_with(vault, second, drop)
    assert files_of(vault, done.commit_id) == {"model.pt": second}


def test_a_branch_that_moved_becomes_the_parent(vault: Repository) -> None:
    run = Run({"w": 40_000})
    first = commit(vault, run.file())
    run.train()
    between: list[Committed] = []

    def meanwhile() -> bool:
        between.append(commit(vault, {"other.pt": b"another process was faster"}, "between"))
        return True

    done = commit_with(vault, run.file(), meanwhile)
    assert done.commit.parents == (between[0].commit_id,)
    assert between[0].commit.parents == (first.commit_id,)
    assert all_commits(vault) == [done.commit_id, between[0].commit_id, first.commit_id]


def test_a_tag_that_was_taken_meanwhile_is_kept(vault: Repository) -> None:
    first = commit(vault, b"first")

    def take() -> bool:
        with vault.store.write() as txn:
            refs.move(txn, "tag", [Move("tags/best", first.commit_id)])
        return True

    with pytest.raises(UsageError, match="tag best exists already"):
        commit_with(vault, b"second", take, tag="best")
    assert find(vault, "best") == first.commit_id
    assert all_commits(vault) == [first.commit_id]


def test_threads_queue_up(vault: Repository) -> None:
    """Each with files of its own, on one branch, through one repository."""
    errors: list[BaseException] = []

    def work(name: str) -> None:
        run = Run({"w": 20_000}, seed=ord(name))
        try:
            for data in run.epochs(4):
                commit(vault, {f"{name}.pt": data}, name)
        except BaseException as error:  # noqa: BLE001 - shown by the assertion below
            errors.append(error)

    threads = [threading.Thread(target=work, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert_is_one_line(vault, 12)


def test_processes_queue_up(disk_vault: Repository) -> None:
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.repository.committer", str(disk_vault.root), str(seed), "5"],
            cwd=PROJECT,
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in (1, 2)
    ]
    acknowledged = [line for process in running for line in process.communicate(timeout=60)[0].split()]
    assert [process.returncode for process in running] == [0, 0]
    again = open_repository(disk_vault.root)
    assert_is_one_line(again, 10)
    assert {commit_id.hex() for commit_id in all_commits(again)} == set(acknowledged)


def assert_is_one_line(repository: Repository, length: int) -> None:
    """Check that the commits follow one another, and that each came back."""
    current = find(repository, "HEAD")
    seen = 1
    with repository.store.read() as txn:
        while parents := read_commit(txn, current).parents:
            assert len(parents) == 1
            current = parents[0]
            seen += 1
    assert seen == length == len(all_commits(repository))
    fsck(repository)
