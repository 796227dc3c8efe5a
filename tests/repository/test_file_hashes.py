"""Is a restored file's SHA-256 that of all its bytes, whoever computes it, and is what waits for it bounded?"""

from __future__ import annotations

import hashlib
import threading
import time
from typing import ClassVar

import pytest

from modelvault import ids
from modelvault.errors import CorruptError
from modelvault.ids import CommitId, FileId
from modelvault.repository import checkout, history
from modelvault.repository.checkout import read_recipe, restore
from modelvault.repository.repository import Repository

from .networks import Run
from .vaults import commit, files_of, new_vault

NUMBERS = 2_600_000
"""Of four bytes: a file of ten chunks."""


@pytest.fixture(scope="module")
def vault(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """A vault in memory."""
    return new_vault(tmp_path_factory.mktemp("vault"), "memory")


@pytest.fixture(scope="module")
def head(vault: Repository) -> CommitId:
    """A commit of one file."""
    return commit(vault, Run({"v": NUMBERS}).file()).commit_id


class Watched:
    """SHA-256 that knows which threads computed it."""

    threads: ClassVar = set[int]()

    def __init__(self) -> None:
        self.real = hashlib.sha256()

    def update(self, data: bytes) -> None:
        self.threads.add(threading.get_ident())
        self.real.update(data)

    def digest(self) -> bytes:
        return self.real.digest()


@pytest.mark.parametrize(
    ("processors", "calls", "is_own"),
    [(1, 2, True), (2, 2, False), (2, 9, False), (2, 10, True)],
    ids=["one processor", "a long file", "hardly a long file", "a short file"],
)
def test_a_long_file_has_a_thread_for_its_digest(
    vault: Repository, head: CommitId, monkeypatch: pytest.MonkeyPatch, processors: int, calls: int, is_own: bool
) -> None:
    monkeypatch.setattr(checkout, "thread_count", lambda: processors)
    monkeypatch.setattr(checkout, "_UNHASHED_CALLS", calls)
    monkeypatch.setattr(ids, "file_hasher", Watched)
    monkeypatch.setattr(Watched, "threads", set())
    assert files_of(vault, head) == {"model.pt": (vault.root / "model.pt").read_bytes()}
    assert len(Watched.threads) == 1
    assert (threading.get_ident() in Watched.threads) == is_own


@pytest.mark.parametrize("calls", [2, 16], ids=["a long file", "a short file"])
def test_bytes_of_another_file_are_refused(
    vault: Repository, head: CommitId, monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    monkeypatch.setattr(checkout, "thread_count", lambda: 2)
    monkeypatch.setattr(checkout, "_UNHASHED_CALLS", calls)
    wrong = FileId(bytes(32))
    with vault.store.write() as txn:
        (entry,) = history.read_commit(txn, head).files
        txn.put("recipes", wrong, read_recipe(txn, entry.file_id).to_bytes(wrong))
    found: list[bytes] = []
    with pytest.raises(CorruptError, match=f"not the committed ones .* {entry.file_id.hex()[:16]} found"):
        found.extend(restore(vault.store, entry._replace(file_id=wrong)))
    assert sum(map(len, found)) == entry.size


def test_no_more_is_restored_than_waits_for_its_digest(
    vault: Repository, head: CommitId, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a file that is decoded faster than SHA-256 goes only so much is held in memory."""
    go_on = threading.Event()

    class Slow(Watched):
        def update(self, data: bytes) -> None:
            assert go_on.wait(30)
            super().update(data)

    monkeypatch.setattr(checkout, "thread_count", lambda: 2)
    monkeypatch.setattr(checkout, "_UNHASHED_CALLS", 3)
    monkeypatch.setattr(ids, "file_hasher", Slow)
    count = 0

    def take() -> None:
        nonlocal count
        with vault.store.read() as txn:
            (entry,) = history.read_commit(txn, head).files
        for piece in restore(vault.store, entry):
            count += len(piece)

    taker = threading.Thread(target=take, daemon=True)
    taker.start()
    try:
        for _ in range(3_000):
            if count >= 2 << 20:
                break
            time.sleep(0.01)
        taker.join(0.5)
        assert 2 << 20 <= count < 4 << 20
    finally:
        go_on.set()
    taker.join(30)
    assert count > 4 * NUMBERS
