"""Does a process that lives long follow the compactions of others, and lose nothing?"""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from modelvault.errors import LockedError
from modelvault.store.generations import current_generation
from modelvault.store.lmdb_store import LmdbStore
from tests.recovery.programs import PATIENCE, start

WRITES = 40
COMPACTIONS = 8


def test_writers_and_compactions_lose_nothing(tmp_path: Path) -> None:
    vault = tmp_path / ".modelvault"
    store = LmdbStore.create(vault)
    others = [
        start("count", vault, "one", WRITES),
        start("count", vault, "other", WRITES),
        start("compact", vault, COMPACTIONS),
        start("give-back", vault, COMPACTIONS),
    ]
    for number in range(WRITES):
        with store.write(timeout=PATIENCE) as transaction:
            transaction.put("index", f"own-{number:06}".encode(), b"x" * 500)
        with store.read() as outer, store.read() as inner:
            assert outer.count("index") <= inner.count("index")
    for other in others:
        other.communicate(timeout=PATIENCE)
        assert other.returncode == 0
    assert current_generation(vault).name == f"gen-{COMPACTIONS + 1}"
    expected = [f"{name}-{number:06}".encode() for name in ("one", "other", "own") for number in range(WRITES)]
    with store.read() as reading:
        assert [key for key, _ in reading.scan("index")] == expected


def test_an_idle_process_neither_blocks_compaction_nor_keeps_the_old_generation(tmp_path: Path) -> None:
    vault = tmp_path / ".modelvault"
    store = LmdbStore.create(vault)
    with store.write() as transaction:
        transaction.put("packs", b"key", b"x" * 1_000_000)
    other = start("compact", vault, 1)
    other.communicate(timeout=60)
    assert other.returncode == 0
    opened = [entry.readlink() for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink()]
    assert not [path for path in opened if vault in path.parents]
    assert str(vault) not in Path("/proc/self/maps").read_text()
    with store.read() as reading:
        assert reading.get("packs", b"key") == b"x" * 1_000_000


def test_an_open_transaction_keeps_the_switch_waiting_and_nobody_else(tmp_path: Path) -> None:
    vault = tmp_path / ".modelvault"
    store = LmdbStore.create(vault)
    with store.read():
        for timeout in (0.0, 0.1):
            with pytest.raises(LockedError, match="did not end"):
                store.compact(timeout=timeout)
        assert sorted(entry.name for entry in vault.iterdir()) == ["current", "gen-1", "lock", "sessions", "writer"]
        other = start("compact", vault, 1)
        with store.read() as reading, store.write(timeout=PATIENCE) as transaction:
            transaction.put("refs", b"main", b"1")
            assert reading.get("refs", b"main") is None
    other.communicate(timeout=60)
    assert other.returncode == 0
    with store.read() as reading:
        assert reading.get("refs", b"main") == b"1"


def test_a_compaction_waits_for_the_writer(tmp_path: Path) -> None:
    store = LmdbStore.create(tmp_path / ".modelvault")
    with store.write() as transaction:
        transaction.put("refs", b"main", b"1")
        with pytest.raises(LockedError, match="being written by process"):
            store.compact()
        waiting = threading.Thread(target=store.compact, kwargs={"timeout": 60})
        waiting.start()
    waiting.join(60)
    assert current_generation(tmp_path / ".modelvault").name == "gen-2"
    with store.read() as reading:
        assert reading.get("refs", b"main") == b"1"


def test_compaction_gives_the_disk_its_space_back(tmp_path: Path) -> None:
    store = LmdbStore.create(tmp_path / ".modelvault")
    with store.write() as transaction:
        for number in range(20):
            transaction.put("packs", b"%d" % number, os.urandom(500_000))
    full = store.disk_bytes()
    with store.write() as transaction:
        for number in range(18):
            transaction.delete("packs", b"%d" % number)
    assert store.disk_bytes() >= full
    store.compact()
    assert 1_000_000 < store.disk_bytes() < 1_200_000
