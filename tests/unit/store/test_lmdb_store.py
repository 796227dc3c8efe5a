"""What the store on disk does beyond the contract: creation, rights, failures in the middle."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lmdb
import pytest

from modelvault.errors import InputError, LockedError, ModelVaultError, NoSpaceError
from modelvault.store import environment, lmdb_store
from modelvault.store.base import TABLES
from modelvault.store.generations import current_generation
from modelvault.store.lmdb_store import TABLE_BYTES, LmdbStore

NOBODY = 65534


def test_every_table_has_its_own_byte() -> None:
    assert list(TABLE_BYTES) == list(TABLES)
    assert len(set(TABLE_BYTES.values())) == len(TABLES)
    assert all(len(code) == 1 and code < b"\xff" for code in TABLE_BYTES.values())


def test_the_layout_is_the_one_described(tmp_path: Path) -> None:
    vault = tmp_path / ".modelvault"
    store = LmdbStore.create(vault)
    assert sorted(entry.name for entry in vault.iterdir()) == ["current", "gen-1", "lock", "sessions", "writer"]
    assert (vault / "current").readlink() == Path("gen-1")
    with store.write() as transaction:
        transaction.put("refs", b"main", b"1")
    with lmdb.open(str(vault / "gen-1"), readonly=True) as plain, plain.begin() as reading:
        assert list(reading.cursor()) == [(b"\x01format", b"1"), (b"\x0amain", b"1")]


@pytest.mark.parametrize("occupant", ["vault", "file", "directory", "dangling link"])
def test_nothing_is_made_where_something_is(tmp_path: Path, occupant: str) -> None:
    vault = tmp_path / ".modelvault"
    if occupant == "vault":
        LmdbStore.create(vault)
    elif occupant == "file":
        vault.write_text("mine")
    elif occupant == "directory":
        vault.mkdir()
    else:
        vault.symlink_to("nowhere")
    with pytest.raises(InputError, match="exists already"):
        LmdbStore.create(vault)
    assert list(tmp_path.iterdir()) == [vault]


def test_a_place_that_is_missing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        LmdbStore.create(tmp_path / "absent" / ".modelvault")


def test_a_store_stays_where_it_was_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = LmdbStore.create(Path(".modelvault"))
    monkeypatch.chdir("/")
    with store.write() as transaction:
        transaction.put("refs", b"main", b"1")


def test_the_size_is_what_du_counts(tmp_path: Path) -> None:
    store = LmdbStore.create(tmp_path / ".modelvault")
    with store.write() as transaction:
        transaction.put("packs", b"key", bytes(3_000_000))
    blocks = sum(path.lstat().st_blocks for path in [*tmp_path.rglob("*")])
    assert store.disk_bytes() == blocks * 512 > 3_000_000


# Failures in the middle


class FailingEngine:
    """LMDB's transaction, except that one of its methods fails as it does on a full disk."""

    def __init__(self, engine: Any, method: str) -> None:
        self._engine = engine
        self._method = method

    def __getattr__(self, name: str) -> Any:
        if name == self._method:
            return self._fail
        return getattr(self._engine, name)

    def _fail(self, *arguments: object, **options: object) -> None:
        self._engine.abort()
        error = lmdb.Error(self._method)
        vars(error)["code"] = errno.EIO
        raise error


@pytest.mark.parametrize("method", ["put", "delete", "commit"])
@pytest.mark.parametrize("caught", [False, True], ids=["let through", "swallowed"])
def test_a_write_that_fails_abandons_all_of_its_transaction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, caught: bool
) -> None:
    store = LmdbStore.create(tmp_path / ".modelvault")
    begin = environment.Environment.begin

    def failing(self: environment.Environment, *, write: bool) -> Any:
        engine = begin(self, write=write)
        return FailingEngine(engine, method) if write else engine

    monkeypatch.setattr(environment.Environment, "begin", failing)
    monkeypatch.setattr(environment, "_free_bytes", lambda path: 0)
    with pytest.raises(NoSpaceError), store.write() as transaction:
        try:
            transaction.put("refs", b"main", b"1")
            transaction.delete("refs", b"main")
        except NoSpaceError:
            if not caught:
                raise
    monkeypatch.undo()
    with store.read() as reading:
        assert reading.count("refs") == 0
    with store.write() as transaction:  # and the lock is free
        transaction.put("refs", b"main", b"2")


def test_a_copy_that_lost_an_entry_does_not_become_current(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LmdbStore.create(tmp_path / ".modelvault")
    monkeypatch.setattr(lmdb_store, "_entries", lambda directory: 0)
    with pytest.raises(ModelVaultError, match="has 0 entries, expected 1"):
        store.compact()
    assert current_generation(tmp_path / ".modelvault").name == "gen-1"
    assert not list((tmp_path / ".modelvault").glob(".staging*"))


# Without the right to write


@pytest.fixture
def public() -> Iterator[Path]:
    """A directory that another user can reach, unlike pytest's."""
    place = Path(tempfile.mkdtemp())
    place.chmod(0o755)
    yield place
    shutil.rmtree(place)


def as_reader(vault: Path, work: Callable[[], None]) -> int:
    """Run it in a child that may not write to the vault; return its exit status."""
    child = os.fork()
    if not child:
        try:
            if os.getuid() == 0:
                os.setgroups([])
                os.setgid(NOBODY)
                os.setuid(NOBODY)
            work()
        except BaseException as error:  # noqa: BLE001 - the status tells, and the output why
            os.write(2, f"{error!r}\n".encode())
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def take_rights(vault: Path) -> None:
    for path in [vault, *vault.rglob("*")]:
        if not path.is_symlink():
            path.chmod(0o555 if path.is_dir() else 0o444)


def give_rights(vault: Path) -> None:
    vault.chmod(0o755)
    for path in vault.rglob("*"):
        if path.is_dir():
            path.chmod(0o755)


@pytest.mark.parametrize("complete", [True, False], ids=["complete", "without lock files"])
def test_who_may_not_write_reads(public: Path, complete: bool) -> None:
    vault = public / ".modelvault"
    store = LmdbStore.create(vault)
    with store.write() as transaction:
        transaction.put("refs", b"main", b"1")
    if not complete:
        (vault / "lock").unlink()
        (vault / "writer").unlink()
        (vault / "gen-1" / "lock.mdb").unlink()
    take_rights(vault)

    def work() -> None:
        reader = LmdbStore(vault)
        with reader.read() as outer, reader.read() as reading:
            assert reading.get("refs", b"main") == outer.get("refs", b"main") == b"1"
        assert reader.live_sessions() == []
        assert reader.disk_bytes() > 0
        with pytest.raises(InputError), reader.write():
            pass
        with pytest.raises(InputError), reader.open_session({}):
            pass
        with pytest.raises(InputError):
            reader.compact()

    try:
        assert as_reader(vault, work) == 0
    finally:
        give_rights(vault)


def test_a_reader_without_a_slot_and_a_writer_wait_for_each_other(
    public: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.getuid() != 0:
        pytest.skip("needs a second user")
    vault = public / ".modelvault"
    store = LmdbStore.create(vault)
    monkeypatch.setattr(lmdb_store, "PATIENCE", 0.1)
    with store.write() as transaction:
        transaction.put("refs", b"main", b"1")

        def wait_in_vain() -> None:
            with pytest.raises(LockedError, match="being written by process"), LmdbStore(vault).read():
                pass

        assert as_reader(vault, wait_in_vain) == 0

    entered, leave = os.pipe(), os.pipe()
    child = os.fork()
    if not child:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        with LmdbStore(vault).read() as reading:
            os.write(entered[1], b"1")
            os.read(leave[0], 1)
            os._exit(0 if reading.get("refs", b"main") == b"1" else 1)
    os.read(entered[0], 1)
    with pytest.raises(LockedError, match="another process"), store.write():
        pass
    with store.read() as also:  # readers do not wait
        assert also.get("refs", b"main") == b"1"
    os.write(leave[1], b"1")
    assert os.waitpid(child, 0)[1] == 0
    with store.write(timeout=60):
        pass
    for end in (*entered, *leave):
        os.close(end)


def test_a_place_that_may_not_be_written_gets_no_vault(public: Path) -> None:
    public.chmod(0o555)

    def work() -> None:
        with pytest.raises(InputError, match="Permission denied"):
            LmdbStore.create(public / ".modelvault")

    try:
        assert as_reader(public, work) == 0
    finally:
        public.chmod(0o755)


@pytest.mark.parametrize("closed", [".", "lock", "gen-1", "gen-1/data.mdb"])
def test_a_closed_vault_is_the_systems_refusal(public: Path, closed: str) -> None:
    vault = public / ".modelvault"
    LmdbStore.create(vault)
    take_rights(vault)
    (vault / closed).chmod(0)

    def work() -> None:
        with pytest.raises(InputError, match="Permission denied"), LmdbStore(vault).read():
            pass

    try:
        assert as_reader(vault, work) == 0
    finally:
        (vault / closed).chmod(0o755)
        give_rights(vault)
