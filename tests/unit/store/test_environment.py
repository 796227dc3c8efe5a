"""Is an environment open once, as long as it is used, in the process that opened it; and what is said when it fails?"""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import lmdb
import pytest

from modelvault.errors import (
    CorruptError,
    InputError,
    LockedError,
    ModelVaultError,
    NoSpaceError,
    UnsupportedError,
)
from modelvault.store import environment
from modelvault.store.environment import leave, open_environment, translated
from modelvault.store.lmdb_store import LmdbStore

ROOT = Path(__file__).parents[3]


@pytest.fixture
def vault(tmp_path: Path) -> Path:
    store = LmdbStore.create(tmp_path / ".modelvault")
    with store.write() as transaction:
        transaction.put("refs", b"main", b"1")
    return tmp_path / ".modelvault"


def test_all_users_share_one_and_the_last_closes_it(vault: Path) -> None:
    one = open_environment(vault / "gen-1", readonly=False)
    other = open_environment(vault / "current", readonly=False)  # another path, the same file
    assert one is other
    leave(one)
    with LmdbStore(vault).read() as reading:
        assert reading.get("refs", b"main") == b"1"
    assert other.entries() == 2
    leave(other)
    assert not environment._open_environments


def test_what_is_kept_open_is_opened_once_and_closed_at_the_end(vault: Path) -> None:
    store, seen = LmdbStore(vault), set[int]()
    with store.kept_open(), store.kept_open():
        assert not environment._open_environments
        for _ in range(3):
            with store.read() as reading:
                assert reading.get("refs", b"main") == b"1"
            seen.update(map(id, environment._open_environments.values()))
        with store.write() as transaction:
            transaction.put("refs", b"main", b"2")
        assert len(environment._open_environments) == 1
    assert len(seen) == 1
    assert not environment._open_environments


def test_what_is_kept_open_follows_a_compaction(vault: Path) -> None:
    store = LmdbStore(vault)
    with store.kept_open():
        with store.read() as reading:
            assert reading.get("refs", b"main") == b"1"
        assert run(COMPACT, vault).returncode == 0
        with store.read() as reading:
            assert reading.get("refs", b"main") == b"1"
        (opened,) = environment._open_environments.values()
        assert opened.directory.name == "gen-2"
        assert "gen-1" not in Path("/proc/self/maps").read_text()
    assert not environment._open_environments


def test_a_child_forked_while_an_environment_is_kept_leaves_it_alone(vault: Path) -> None:
    store = LmdbStore(vault)
    keeper = store.kept_open()
    with keeper:
        with store.read() as reading:
            assert reading.get("refs", b"main") == b"1"
        (opened,) = environment._open_environments.values()
        with store.read() as reading:
            slots = opened._engine.readers()
            assert in_child(lambda: keeper.__exit__()) == 0
            assert opened._engine.readers() == slots
            assert reading.get("refs", b"main") == b"1"


COMPACT = """
import sys
from pathlib import Path
from modelvault.store.lmdb_store import LmdbStore
LmdbStore(Path(sys.argv[1])).compact(timeout=5)
"""


def test_two_vaults_are_open_at_once(vault: Path, tmp_path: Path) -> None:
    second = LmdbStore.create(tmp_path / "second")
    with LmdbStore(vault).write() as one, second.write() as other:
        one.put("refs", b"main", b"one")
        other.put("refs", b"main", b"other")
    with LmdbStore(vault).read() as one_again, second.read() as other_again:
        assert (one_again.get("refs", b"main"), other_again.get("refs", b"main")) == (b"one", b"other")


def test_a_vault_made_anew_at_the_same_path_is_another(tmp_path: Path) -> None:
    vault = tmp_path / ".modelvault"
    with LmdbStore.create(vault).read() as old:
        vault.rename(tmp_path / "old")
        with LmdbStore.create(vault).write() as transaction:
            transaction.put("refs", b"main", b"new")
        assert old.get("refs", b"main") is None


def in_child(work: Callable[[], None]) -> int:
    """Run it in a forked child that ends as a program does; return its exit status."""
    child = os.fork()
    if not child:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - the status tells, and the output why
            os.write(2, f"{error!r}\n".encode())
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_child_opens_its_own(vault: Path) -> None:
    store = LmdbStore(vault)
    with store.read() as reading:
        assert reading.get("refs", b"main") == b"1"

    def work() -> None:
        with store.write() as transaction:
            transaction.put("refs", b"main", b"child")

    assert in_child(work) == 0
    with store.read() as reading:
        assert reading.get("refs", b"main") == b"child"


def test_a_child_of_a_transaction_cannot_use_and_does_not_harm_it(vault: Path) -> None:
    store = LmdbStore(vault)
    with store.read() as reading, store.write() as transaction:
        transaction.put("refs", b"main", b"2")
        slots = environment._open_environments[next(iter(environment._open_environments))]._engine.readers()

        def work() -> None:
            with pytest.raises(UnsupportedError, match="forked"), store.read():
                pass
            uses: list[Callable[[], object]] = [
                lambda: reading.get("refs", b"main"),
                lambda: transaction.put("refs", b"main", b"3"),
            ]
            for use in uses:
                with pytest.raises(RuntimeError, match="forked"):
                    use()

        assert in_child(work) == 0

        def leave_the_blocks() -> None:
            # What a child does that returns out of the blocks, instead of ending in them.
            reading.abandon()
            with pytest.raises(RuntimeError, match="forked"):
                transaction.commit()
            leave(next(iter(environment._inherited)))

        assert in_child(leave_the_blocks) == 0
        assert environment._open_environments[next(iter(environment._open_environments))]._engine.readers() == slots
        assert reading.get("refs", b"main") == b"1"
    with store.read() as reading:
        assert reading.get("refs", b"main") == b"2"


FORK_AND_EXIT = """
import os, sys
from pathlib import Path
from modelvault.store import environment
from modelvault.store.lmdb_store import LmdbStore
store = LmdbStore(Path(sys.argv[1]))
with store.read():
    [engine] = [opened._engine for opened in environment._open_environments.values()]
    before = engine.readers()
    child = os.fork()
    if not child:
        sys.exit(0)  # out of the block, and through the interpreter's end
    assert os.waitpid(child, 0)[1] == 0
    assert engine.readers() == before, (before, engine.readers())
"""


def run(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_child_that_ends_in_a_transaction_keeps_its_parents_slot(vault: Path) -> None:
    done = run(FORK_AND_EXIT, vault)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_child_forked_beside_a_busy_thread_is_not_stuck(vault: Path) -> None:
    store = LmdbStore(vault)
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            with store.read() as reading:
                reading.get("refs", b"main")

    thread = threading.Thread(target=read)
    thread.start()

    def work() -> None:
        try:
            with store.read() as reading:
                assert reading.get("refs", b"main") == b"1"
        except UnsupportedError:
            pass  # the thread was in a transaction just then

    try:
        assert [in_child(work) for _ in range(20)] == [0] * 20
    finally:
        stop.set()
        thread.join(60)


LITTLE_ADDRESS_SPACE = """
import resource, sys
from pathlib import Path
from modelvault.errors import UnsupportedError
from modelvault.store.lmdb_store import LmdbStore
store = LmdbStore(Path(sys.argv[1]))
taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + (160 << 20),) * 2)
with store.write() as transaction:
    transaction.put("packs", b"first", bytes(1_000_000))
try:
    for number in range(100):
        with store.write() as transaction:
            transaction.put("packs", b"%d" % number, bytes(5_000_000))
except UnsupportedError as error:
    print(number, error.message, error.hint, sep="|")
with store.read() as reading:
    assert reading.count("packs") == number + 1
"""


def test_a_limited_address_space_is_used_as_far_as_it_goes(vault: Path) -> None:
    done = run(LITTLE_ADDRESS_SPACE, vault)
    assert done.returncode == 0, done.stderr
    number, message, hint = done.stdout.split("|")
    assert int(number) >= 8
    assert "address space" in message
    assert "ulimit" in hint
    with LmdbStore(vault).write() as transaction:  # where there is more of it, it goes on
        transaction.put("packs", b"more", bytes(5_000_000))


def test_a_map_that_another_process_outgrew_is_made_larger(vault: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "MAP_BYTES", 1 << 20)
    small = open_environment(vault / "gen-1", readonly=False)
    try:
        script = (
            "import sys; from pathlib import Path; from modelvault.store.lmdb_store import LmdbStore\n"
            "with LmdbStore(Path(sys.argv[1])).write() as t: t.put('packs', b'large', bytes(4_000_000))"
        )
        assert run(script, vault).returncode == 0
        second = open_environment(vault / "gen-1", readonly=False)
        keeper = environment.Keeper()
        with keeper:
            keeper.show(small)  # which has no transaction, and does not stand in the way
            with pytest.raises(LockedError, match="outgrown"):
                small.begin(write=False)
            leave(second)
            small.begin(write=False).abort()
    finally:
        leave(small)


def failure(what: str, code: int) -> lmdb.Error:
    error = lmdb.Error(what)
    vars(error)["code"] = code
    return error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (lmdb.CorruptedError("get"), CorruptError),
        (lmdb.PageNotFoundError("get"), CorruptError),
        (lmdb.InvalidError("open"), CorruptError),
        (lmdb.VersionMismatchError("open"), CorruptError),
        (lmdb.MapFullError("put"), UnsupportedError),
        (lmdb.ReadersFullError("begin"), LockedError),
        (lmdb.ReadonlyError("put"), InputError),
        (failure("open", errno.EACCES), InputError),
        (failure("commit", errno.ENOSPC), NoSpaceError),
        (failure("commit", errno.EDQUOT), NoSpaceError),
        (failure("commit", errno.EIO), ModelVaultError),
        (lmdb.BadTxnError("put"), ModelVaultError),
        (lmdb.PanicError("begin"), ModelVaultError),
    ],
    ids=str,
)
def test_every_error_has_a_class_of_ours(tmp_path: Path, error: lmdb.Error, expected: type[ModelVaultError]) -> None:
    found = translated(error, tmp_path)
    assert type(found) is expected
    assert "\n" not in found.message
    assert str(tmp_path) in found.message


@pytest.mark.parametrize(
    ("free", "unwritten", "full"), [(0, 0, True), (5_000_000, 0, False), (5_000_000, 9_000_000, True)]
)
def test_a_failed_write_means_a_full_disk_where_there_is_no_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, unwritten: int, full: bool
) -> None:
    monkeypatch.setattr(environment, "_free_bytes", lambda path: free)
    found = translated(failure("commit", errno.EIO), tmp_path, unwritten=unwritten)
    assert isinstance(found, NoSpaceError) is full
