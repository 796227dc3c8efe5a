"""Do locks exclude whom they should, for as long as they should, and say who holds them?"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from modelvault.store.base import Holder
from modelvault.store.locks import HOLDER_BYTES, FileLock, holder_of, parse_holder, this_process


def test_shared_locks_share_and_exclude_the_exclusive(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    one, other = (FileLock.acquire(path, shared=True) for _ in range(2))
    assert one is not None
    assert other is not None
    assert FileLock.acquire(path, shared=False) is None
    one.release()
    assert FileLock.acquire(path, shared=False) is None
    other.release()
    exclusive = FileLock.acquire(path, shared=False)
    assert exclusive is not None
    with exclusive:
        assert FileLock.acquire(path, shared=True) is None
        assert FileLock.acquire(path, shared=False) is None
    exclusive.release()  # a second time: nothing
    assert FileLock.acquire(path, shared=True) is not None


def test_waiting_ends_in_time_and_is_said_once(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with FileLock.acquire(path, shared=False) or pytest.fail("a new lock is free"):
        said: list[int] = []
        before = time.monotonic()
        assert FileLock.acquire(path, shared=False, timeout=0.2, waiting=lambda: said.append(1)) is None
        assert 0.2 <= time.monotonic() - before < 30
        assert said == [1]
        assert FileLock.acquire(path, shared=False, timeout=0.0, waiting=lambda: said.append(2)) is None
        assert said == [1]


def test_an_interrupted_wait_leaves_nothing_open(tmp_path: Path) -> None:
    path = tmp_path / "lock"

    def interrupt() -> None:
        raise KeyboardInterrupt

    with FileLock.acquire(path, shared=False) or pytest.fail("a new lock is free"):
        before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - it counts itself, both times
        with pytest.raises(KeyboardInterrupt):
            FileLock.acquire(path, shared=False, timeout=10, waiting=interrupt)
        assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_a_forked_child_neither_keeps_nor_releases_its_parents_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    lock = FileLock.acquire(path, shared=False)
    assert lock is not None
    ready, release = os.pipe(), os.pipe()
    child = os.fork()
    if not child:
        lock.release()  # the child's copy is closed already
        held = FileLock.acquire(path, shared=False) is None and not lock.held
        os.write(ready[1], b"1" if held else b"0")
        os.read(release[0], 1)
        os._exit(0)
    assert os.read(ready[0], 1) == b"1"
    assert lock.held
    lock.release()
    assert FileLock.acquire(path, shared=False) is not None  # though the child is still there
    os.write(release[1], b"1")
    os.waitpid(child, 0)
    for end in (*ready, *release):
        os.close(end)


def test_the_holder_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "lock"
    monkeypatch.setattr(sys, "argv", ["/usr/bin/modelvault", "commit", "-m", '"\u00fc\n' * 200])
    with FileLock.acquire(path, shared=False) or pytest.fail("a new lock is free") as lock:
        holder = this_process()
        assert holder.command.startswith("modelvault commit -m")
        assert (holder.pid, holder.host) == (os.getpid(), os.uname().nodename)
        lock.sign(holder)
        assert path.stat().st_size == HOLDER_BYTES
        assert holder_of(path) == holder
        assert str(holder).startswith(f"process {os.getpid()} on ")
        lock.sign(None)
        assert holder_of(path) is None
        assert path.stat().st_size == HOLDER_BYTES


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"pid": 1}', '{"pid": "1", "host": "", "since": 0, "command": ""}']
)
def test_a_file_that_says_nothing_names_nobody(tmp_path: Path, text: str) -> None:
    path = tmp_path / "lock"
    assert holder_of(path) is None
    path.write_text(text)
    assert holder_of(path) is None


def test_a_holder_may_have_been_written_by_another_json() -> None:
    record = {"pid": 1, "host": "h", "since": 5, "command": "c", "more": True}
    assert parse_holder(record) == Holder(1, "h", 5.0, "c")


def test_what_cannot_be_opened_is_the_systems_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        FileLock.acquire(tmp_path / "absent" / "lock", shared=True)
    with pytest.raises(FileNotFoundError):
        FileLock.acquire(tmp_path / "lock", shared=True, create=False)
