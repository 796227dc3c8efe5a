"""Does nothing count before it is verified: faults of the encoder, of memory, of the disk's door?"""

from __future__ import annotations

import errno
import gc
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from modelvault import codec, wire
from modelvault.errors import CorruptError, NoSpaceError
from modelvault.repository import encode as encode_module
from modelvault.repository import threads, worktree
from modelvault.repository.bases import Bases, Work
from modelvault.repository.checkout import checkout
from modelvault.repository.repository import Repository
from modelvault.repository.revisions import Resolved
from modelvault.store.base import WriteTransaction

from .networks import Run
from .vaults import all_commits, commit, files_of, fsck, tensor_records

encode, decode = codec.encode_chunk, codec.decode_chunk


def encode_something_else(raw: Any, *arguments: Any, **hints: Any) -> bytes:
    damaged = bytearray(raw)
    damaged[len(damaged) // 3] ^= 1
    return encode(bytes(damaged), *arguments, **hints)


def decode_off_by_one_bit(frame: Any, raw: Any, *arguments: Any) -> bool:
    decoded = bytearray(decode(frame, len(raw), *arguments))
    decoded[-1] ^= 0x80
    return bytes(decoded) == bytes(raw)


def encode_with_a_flipped_bit(raw: Any, *arguments: Any, **hints: Any) -> bytes:
    frame = bytearray(encode(raw, *arguments, **hints))
    frame[-1] ^= 1
    return bytes(frame)


FAULTS = {
    "other bytes": ("encode_chunk", encode_something_else),
    "a frame with a flipped bit": ("encode_chunk", encode_with_a_flipped_bit),
    "a decoder off by one bit": ("decodes_to", decode_off_by_one_bit),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("has_parent", [False, True])
def test_a_fault_while_encoding_commits_nothing(
    vault: Repository, monkeypatch: pytest.MonkeyPatch, fault: str, has_parent: bool
) -> None:
    run = Run({"w": 40_000, "b": 100})
    before = [commit(vault, run.file()).commit_id] if has_parent else []
    run.train()
    data = run.file()
    with monkeypatch.context() as patch:
        patch.setattr(codec, *FAULTS[fault])
        with pytest.raises(CorruptError):
            commit(vault, data)
    assert all_commits(vault) == before
    records = len(tensor_records(vault))
    done = commit(vault, data)
    assert len(tensor_records(vault)) == records + 2
    assert files_of(vault, done.commit_id) == {"model.pt": data}
    fsck(vault)


def test_a_fault_while_predictors_are_found_commits_nothing(vault: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks wait for the predictors of their tensor: not for ever."""
    run = Run({f"w{n}": 40_000 for n in range(6)})
    before = [commit(vault, run.file()).commit_id]
    run.train()
    data, fitted, there = run.file(), Bases.fitted, set(threading.enumerate())

    def fail(self: Bases, work: Work, *arguments: Any) -> Any:
        if work.slot.name.endswith("w5"):  # the last one: its chunk is asked for meanwhile
            time.sleep(0.3)
            raise CorruptError("no predictors")
        return fitted(self, work, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(threads, "thread_count", lambda: 2)
        patch.setattr(Bases, "fitted", fail)
        with pytest.raises(CorruptError, match="no predictors"):
            commit(vault, data)
    for thread in set(threading.enumerate()) - there:
        thread.join(10)
        assert not thread.is_alive(), "it still waits"
    assert all_commits(vault) == before
    done = commit(vault, data)
    assert files_of(vault, done.commit_id) == {"model.pt": data}
    fsck(vault)


def test_a_fault_in_a_later_batch_commits_nothing(vault: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    """What earlier transactions wrote stays unreferenced, and is found again by the next commit."""
    monkeypatch.setattr(encode_module, "BATCH_BYTES", 100_000)
    monkeypatch.setattr(threads, "thread_count", lambda: 1)  # the sixth call is for the sixth tensor then
    data = Run({f"w{n}": 40_000 for n in range(6)}).file()
    calls = 0

    def fail_late(raw: Any, *arguments: Any, **hints: Any) -> bytes:
        nonlocal calls
        calls += 1
        return (encode_something_else if calls == 6 else encode)(raw, *arguments, **hints)

    with monkeypatch.context() as patch:
        patch.setattr(codec, "encode_chunk", fail_late)
        with pytest.raises(CorruptError, match="did not survive"):
            commit(vault, data)
    assert all_commits(vault) == []
    left = len(tensor_records(vault))
    assert 0 < left < 6
    done = commit(vault, data)
    assert len(tensor_records(vault)) == 6
    assert files_of(vault, done.commit_id) == {"model.pt": data}
    fsck(vault)


class SlowStore:
    """A store's door whose write transactions can be kept waiting, and which says what thread each came from."""

    def __init__(self, store: Any, number: int) -> None:
        self._store, self._number = store, number
        self.entered, self.go_on = threading.Event(), threading.Event()
        self.writers: list[threading.Thread] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    @contextmanager
    def write(self, **options: Any) -> Iterator[WriteTransaction]:
        self.writers.append(threading.current_thread())
        if len(self.writers) == self._number:
            self.entered.set()
            self.go_on.wait(60)
        with self._store.write(**options) as txn:
            yield txn


@pytest.mark.parametrize(("processors", "tensors"), [(1, 1), (2, 6)])
def test_frames_are_encoded_while_others_are_written(
    vault: Repository, monkeypatch: pytest.MonkeyPatch, processors: int, tensors: int
) -> None:
    """By other threads, if there are some; and no more than were handed out: what waits is held in memory."""
    monkeypatch.setattr(threads, "thread_count", lambda: processors)
    monkeypatch.setattr(encode_module, "BATCH_BYTES", 100_000)  # less than a tensor
    data = Run({f"w{n}": 40_000 for n in range(12)}).file()
    real = vault.store
    vault.store = slow = SlowStore(real, 1)  # the first of several batches
    encoded = 0

    def counted(raw: Any, *arguments: Any, **hints: Any) -> bytes:
        nonlocal encoded
        encoded += 1
        return encode(raw, *arguments, **hints)

    monkeypatch.setattr(codec, "encode_chunk", counted)
    done: list[Any] = []
    committing = threading.Thread(target=lambda: done.append(commit(vault, data)))
    committing.start()
    assert slow.entered.wait(30)
    for _ in range(500):
        if encoded == tensors:
            break
        time.sleep(0.01)
    time.sleep(0.1)
    assert encoded == tensors
    slow.go_on.set()
    committing.join(60)
    vault.store = real
    assert set(slow.writers) == {committing}
    assert len(slow.writers) >= 12
    assert files_of(vault, done[0].commit_id) == {"model.pt": data}
    fsck(vault)


def test_an_error_while_others_are_encoded_fails_the_commit(vault: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encode_module, "BATCH_BYTES", 100_000)
    data = Run({f"w{n}": 40_000 for n in range(12)}).file()
    real = vault.store
    before = threading.active_count()
    for number in (0, 1, 5, 9):
        vault.store = FullAt(real, number)
        with pytest.raises(NoSpaceError):
            commit(vault, data)
        vault.store = real
        assert all_commits(vault) == []
        assert threads_end(before)
    done = commit(vault, data)
    assert files_of(vault, done.commit_id) == {"model.pt": data}
    fsck(vault)


class FullAt:
    """A store's door that says the disk is full at the n-th value put through it."""

    def __init__(self, store: Any, number: int) -> None:
        self._store, self._left = store, number

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    @contextmanager
    def write(self, **options: Any) -> Iterator[WriteTransaction]:
        with self._store.write(**options) as txn:
            put = txn.put

            def counted(*arguments: Any) -> None:
                self._left -= 1
                if self._left < 0:
                    raise NoSpaceError("the disk is full")
                put(*arguments)

            txn.put = counted
            yield txn


def test_a_full_disk_at_any_moment_leaves_what_was_there(vault: Repository) -> None:
    run = Run({"w": 20_000, "b": 100})
    first = run.file()
    before = commit(vault, first).commit_id
    real = vault.store
    number = 0
    while True:
        run.train()
        data = run.file()
        vault.store = FullAt(real, number)
        try:
            done = commit(vault, data)
        except NoSpaceError:
            assert all_commits(vault) == [before]
            number += 1
            continue
        finally:
            vault.store = real
        break
    assert number > 8
    assert all_commits(vault) == [done.commit_id, before]
    assert files_of(vault, before) == {"model.pt": first}
    assert files_of(vault, done.commit_id) == {"model.pt": data}
    fsck(vault)


def threads_end(wanted: int) -> bool:
    """Say whether no more than `wanted` threads are left before long: nobody waits for those that are told to end."""
    gc.collect()  # an error keeps what it interrupted, and that its threads, until it is forgotten
    for _ in range(500):
        if threading.active_count() <= wanted:
            return True
        time.sleep(0.01)
    return False


def test_a_failed_restore_leaves_no_threads(vault: Repository) -> None:
    """Threads whose pool is closed by the collector, in whatever thread it happens to run, can wait for ever."""
    done = commit(vault, Run({"v": 600_000, "w": 600_000}).file())
    with vault.store.write() as txn:
        txn.put("tensors", wire.sortable(2), b"not a record")
    before = threading.active_count()
    with pytest.raises(CorruptError):
        files_of(vault, done.commit_id)
    assert threads_end(before)


def test_a_failed_write_leaves_no_threads(vault: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = commit(vault, Run({"v": 600_000, "w": 600_000}).file())

    def fail(descriptor: int, data: bytes) -> None:
        if len(data) > 100_000:
            raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(worktree, "write_all", fail)
    before = threading.active_count()
    with pytest.raises(NoSpaceError):
        checkout(vault, Resolved(done.commit_id), output=tmp_path / "out.pt")
    assert threads_end(before)
    assert list(tmp_path.iterdir()) == [vault.root]
