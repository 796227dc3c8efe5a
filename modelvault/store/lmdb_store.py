"""The store on disk: one LMDB database in a vault directory, generation after generation.

    .modelvault/
      current -> gen-1       the generation that counts; a symbolic link, replaced by an atomic rename
      gen-1/data.mdb         the database
      gen-1/lock.mdb         LMDB's own: reader slots and its mutex
      lock                   locked shared by every transaction, exclusively for the moment of a switch
      writer                 locked by the writer, and by a compaction while it copies; says who holds it
      sessions/              one locked file for each operation under way

All tables live in LMDB's main database: a key is one byte for the table, then the table's own key. LMDB's named
databases would look tidier, but a process must open a handle to each, and the binding keeps one only from a write
transaction: a reader would wait, with no time-out, for whoever writes (measured: all of the 1.5 s that a writer took).

Locks are held per transaction, and in one order: `writer`, then `lock`. Our writer lock stands in front of LMDB's,
which cannot be waited for with a time-out. A transaction that begins finds the generation that is current then, so a
process that lives long follows the compactions of others; a transaction that is open keeps the switch waiting, and a
switch that waits keeps nobody else. Compaction copies while readers read and writers wait, and only then switches.

Who may not write to the vault (a read-only medium, another user's files) reads without LMDB's reader slots. Nothing
then tells a writer which pages are still read, so such a reader shares the `writer` lock: it waits for a writer to
end, and the next writer waits for it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from modelvault.errors import (
    CorruptError,
    InputError,
    LockedError,
    ModelVaultError,
    NewerFormatError,
    NoVaultError,
)
from modelvault.store import free_pages, generations, sessions
from modelvault.store.base import (
    FORMAT_KEY,
    FORMAT_VERSION,
    MAX_KEY_BYTES,
    Holder,
    LiveSession,
    Table,
    Usage,
    check_entry,
    is_key,
)
from modelvault.store.environment import (
    Cursor,
    EngineError,
    Environment,
    Keeper,
    Transaction,
    create_environment,
    leave,
    open_environment,
    refused,
    structure_problems,
    translated,
)
from modelvault.store.locks import FileLock, holder_of, said_since, this_process
from modelvault.store.meta_page import MetaPage, read_meta_page
from modelvault.store.mountpoint import check_local

TABLE_BYTES: dict[Table, bytes] = {
    "meta": b"\x01",
    "commits": b"\x02",
    "payloads": b"\x03",
    "recipes": b"\x04",
    "templates": b"\x05",
    "tensors": b"\x06",
    "index": b"\x07",
    "latest": b"\x08",
    "packs": b"\x09",
    "refs": b"\x0a",
    "reflog": b"\x0b",
    "stats": b"\x0c",
    "sketches": b"\x0d",
}
"""The first byte of a key, by table. Part of the format: a number is never given to another table."""

PATIENCE = 60.0
"""How many seconds a transaction waits for a switch of generations, which takes milliseconds."""

_LOCK = "lock"
_WRITER = "writer"
_SESSIONS = "sessions"
_FORMAT = TABLE_BYTES["meta"] + FORMAT_KEY
_TRY_AGAIN = "try again when it has finished; a lock ends with its process, there is no file to delete"


_forks = 0
"""How many forks lie between this process and the one that imported this module. Counted, because asking the system
for the process id at every look-up took a tenth of the time of `log`."""


def _count_fork() -> None:
    global _forks
    _forks += 1


os.register_at_fork(after_in_child=_count_fork)


class LmdbTransaction:
    """A read transaction on one generation."""

    def __init__(self, environment: Environment, *, write: bool = False) -> None:
        self._environment = environment
        self._engine: Transaction | None = environment.begin(write=write)
        self._forks = _forks
        self._views: list[memoryview] = []
        self._changes = 0

    def get(self, table: Table, key: bytes) -> bytes | None:
        """Return a copy of the value, or None."""
        found = self._find(table, key)
        return None if found is None else bytes(found)

    def view(self, table: Table, key: bytes) -> memoryview | None:
        """Return the value without a copy, valid until the transaction ends or writes again, or None."""
        found = self._find(table, key)
        if found is not None:
            self._views.append(found)
        return found

    def scan(
        self, table: Table, *, prefix: bytes = b"", start: bytes | None = None, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """Yield (key, value) in key order; what is written meanwhile, ahead of where it stands, is seen."""
        if len(prefix) > MAX_KEY_BYTES:
            return
        low = TABLE_BYTES[table] + prefix
        origin = None if start is None else TABLE_BYTES[table] + start
        try:
            with self._live().cursor() as cursor:
                found = _seek_back(cursor, low, origin) if reverse else _seek(cursor, low, origin)
                while found:
                    key = bytes(cursor.key())
                    if not key.startswith(low):
                        return
                    changes = self._changes
                    yield key[1:], bytes(cursor.value())
                    self._live()
                    if self._changes == changes:
                        found = cursor.prev() if reverse else cursor.next()
                    else:  # the cursor's page may be another by now: find the place again
                        found = _before(cursor, key) if reverse else _after(cursor, key)
        except EngineError as error:
            raise self._translated(error) from error

    def sizes(self, table: Table) -> Iterator[tuple[bytes, int]]:
        """Yield (key, length of the value) of a whole table in key order; no value is read."""
        code = TABLE_BYTES[table]
        try:
            with self._live().cursor() as cursor:
                if cursor.set_range(code):
                    for key, value in cursor.iternext():
                        if key[0] != code[0]:
                            break
                        yield bytes(key[1:]), len(value)
        except EngineError as error:
            raise self._translated(error) from error

    def count(self, table: Table) -> int:
        """Return the number of entries."""
        code = TABLE_BYTES[table]
        number = 0
        try:
            with self._live().cursor() as cursor:
                if cursor.set_range(code):
                    for key in cursor.iternext(keys=True, values=False):
                        if key[:1] != code:
                            break
                        number += 1
        except EngineError as error:
            raise self._translated(error) from error
        return number

    def check_format(self) -> None:
        """Refuse a vault of a format that this code does not read.

        Raises:
            NewerFormatError: a later version wrote it.
            CorruptError: it does not say what format it has.
        """
        stored = self.get("meta", FORMAT_KEY)
        where = self._environment.directory
        if stored is None:
            raise CorruptError(f"the database in {where} does not say which format it has")
        if not stored.isdigit() or len(stored) > 9 or (version := int(stored)) == 0:
            raise CorruptError(f"the database in {where} has format {stored[:20]!r}, expected a number")
        if version > FORMAT_VERSION:
            raise NewerFormatError(
                f"the vault has format {version}, this program reads formats 1 to {FORMAT_VERSION}",
                hint="use the version of modelvault that wrote this vault, or a later one",
            )

    def abandon(self) -> None:
        """End the transaction; nothing it wrote remains. In a forked child it is left to the parent."""
        engine = self._end()
        if engine is not None and self._forks == _forks:
            engine.abort()

    def _find(self, table: Table, key: bytes) -> memoryview | None:
        engine = self._live()
        if not is_key(key):
            return None
        try:
            return engine.get(TABLE_BYTES[table] + key)
        except EngineError as error:
            raise self._translated(error) from error

    def _live(self) -> Transaction:
        if self._engine is None:
            raise RuntimeError("this transaction is over")
        if self._forks != _forks:
            raise RuntimeError("this transaction belongs to the process that forked this one")
        return self._engine

    def _end(self) -> Transaction | None:
        engine, self._engine = self._engine, None
        for view in self._views:
            try:
                view.release()
            except BufferError:
                pass  # an array was built on it, which must not be used any more
        self._views.clear()
        return engine

    def _translated(self, error: EngineError) -> ModelVaultError:
        return translated(error, self._environment.directory)


class LmdbWriteTransaction(LmdbTransaction):
    """The write transaction."""

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment, write=True)
        self._failure: ModelVaultError | None = None
        self._unwritten = 0

    def put(self, table: Table, key: bytes, value: bytes) -> None:
        """Set a value."""
        check_entry(table, key, value)
        engine = self._live()
        self._changes += 1
        self._unwritten += len(key) + len(value)
        try:
            engine.put(TABLE_BYTES[table] + key, value)
        except EngineError as error:
            raise self._translated(error) from error

    def delete(self, table: Table, key: bytes) -> bool:
        """Remove an entry; say whether there was one."""
        engine = self._live()
        if not is_key(key):
            return False
        self._changes += 1
        try:
            return engine.delete(TABLE_BYTES[table] + key)
        except EngineError as error:
            raise self._translated(error) from error

    def commit(self) -> None:
        """End the transaction; return when all it wrote is durable.

        Raises:
            ModelVaultError: nothing it wrote remains. That is so, too, when an earlier call failed and the caller
                went on: the error is the same again.
        """
        self._live()
        engine = self._end()
        assert engine is not None
        try:
            if self._failure is not None:
                engine.abort()
                raise self._failure
            engine.commit()
        except EngineError as error:
            raise self._translated(error) from error

    def _translated(self, error: EngineError) -> ModelVaultError:
        failure = translated(error, self._environment.directory, unwritten=self._unwritten)
        self._failure = self._failure or failure
        return failure


class LmdbStore:
    """Bytes by key in a vault directory.

    Args:
        directory: an existing vault, `.modelvault`.

    Raises:
        NoVaultError: there is no such directory.
        NetworkFileSystemError: it is on a network file system.
    """

    def __init__(self, directory: Path) -> None:
        if not directory.is_dir():
            raise NoVaultError(f"there is no vault at {directory}")
        check_local(directory)
        self._directory = directory.absolute()  # a process may change its directory later
        self._keeper = Keeper()

    @classmethod
    def create(cls, directory: Path) -> LmdbStore:
        """Make an empty store in a new vault directory, which appears whole or not at all.

        Raises:
            InputError: something is there already, or the place cannot be written to.
            NetworkFileSystemError: it is on a network file system.
            NoSpaceError: the disk is full.
        """
        vault = directory.absolute()
        if os.path.lexists(vault):
            raise InputError(f"{directory} exists already")
        try:
            check_local(vault.parent)
            with generations.Nursery(vault) as nursery:
                _furnish(nursery.directory)
                nursery.move_out()
        except OSError as error:
            raise refused(error, directory) from error
        return cls(directory)

    @contextmanager
    def read(self) -> Iterator[LmdbTransaction]:
        """Open a read transaction on the current generation."""
        with self._generation() as environment:
            transaction = LmdbTransaction(environment)
            try:
                transaction.check_format()
                yield transaction
            finally:
                transaction.abandon()

    @contextmanager
    def write(
        self, *, timeout: float = 0.0, waiting: Callable[[Holder | None], None] | None = None
    ) -> Iterator[LmdbWriteTransaction]:
        """Open the write transaction: committed durably when the block ends, abandoned when it raises."""
        with self._writer(timeout, waiting), self._generation(writer=True) as environment:
            transaction = LmdbWriteTransaction(environment)
            try:
                transaction.check_format()
                yield transaction
            except BaseException:
                transaction.abandon()
                raise
            transaction.commit()
            _fill_up(environment.directory)

    def kept_open(self) -> Keeper:
        """Keep open what transactions open, until the block ends or a transaction finds a new generation."""
        return self._keeper

    @contextmanager
    def open_session(self, floors: dict[str, int]) -> Iterator[sessions.SessionFile]:
        """Register an operation under way, with the lowest numbers it may write, and keep open what it opens."""
        try:
            session = sessions.SessionFile(self._directory / _SESSIONS, floors)
        except OSError as error:
            raise refused(error, self._directory / _SESSIONS) from error
        try:
            with self._keeper:
                yield session
        finally:
            session.close()

    def live_sessions(self) -> list[LiveSession]:
        """Return the sessions whose processes live; remove what dead ones left."""
        try:
            return sessions.live_sessions(self._directory / _SESSIONS)
        except OSError as error:
            raise refused(error, self._directory / _SESSIONS) from error

    def structure_problems(self, *, timeout: float = 0.0) -> list[str]:
        """Return what is wrong with the structure of the database file, read without mapping it."""
        with self._writer(timeout, None):
            return structure_problems(generations.current_generation(self._directory) / generations.DATA_FILE)

    def usage(self) -> Usage:
        """Return what the database file is made of, free pages left out."""
        with self._generation() as environment:
            return environment.usage()

    def copy_to(self, directory: Path) -> None:
        """Write a compacted copy of the vault's current state into a new vault directory.

        Raises:
            InputError: something is there already, or the place cannot be written to.
            NoSpaceError: the disk has no room for it.
        """
        vault = directory.absolute()
        if os.path.lexists(vault):
            raise InputError(f"{directory} exists already")
        try:
            check_local(vault.parent)
            with generations.Nursery(vault) as nursery:
                generation = generations.first_generation(nursery.directory)
                generation.mkdir()
                with self._generation() as environment:
                    environment.copy_to(generation)
                generations.sync(generation / generations.DATA_FILE)
                generations.sync(generation)
                _furnish_around(nursery.directory, generation)
                nursery.move_out()
        except OSError as error:
            raise refused(error, directory) from error

    def disk_bytes(self) -> int:
        """Return how many bytes the vault directory takes on disk, as `du` counts them."""
        try:
            return generations.bytes_on_disk(self._directory)
        except OSError as error:
            raise refused(error, self._directory) from error

    def writer(self) -> Holder | None:
        """Return who holds the lock for writing right now, None if nobody does."""
        path = self._directory / _WRITER
        try:
            lock = FileLock.acquire(path, shared=True, create=False)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise refused(error, path) from error
        if lock is None:
            return holder_of(path) or Holder(0, "unknown", time.time(), "unknown")
        lock.release()
        return None

    def compact(self, *, timeout: float = 0.0) -> None:
        """Copy what is live into a new generation, make it current and delete the old one.

        Raises:
            LockedError: a writer, or transactions that were open, did not end in time. Nothing has changed.
            NoSpaceError: the disk has no room for the copy. Nothing has changed.
        """
        deadline = time.monotonic() + timeout
        with self._writer(timeout, None):
            left = max(0.0, deadline - time.monotonic())
            try:
                generations.sweep(self._directory)
                staging = generations.stage(self._directory)
                try:
                    self._copy_into(staging)
                    self._switch_to(staging, left)
                except BaseException:
                    if staging.exists():
                        generations.discard(staging)
                    raise
                generations.sweep(self._directory)
            except OSError as error:
                raise refused(error, self._directory) from error

    def gives_back(self) -> bool:
        """Say whether the file system takes back parts of a file; nothing is changed."""
        return free_pages.takes_holes(generations.current_generation(self._directory) / generations.DATA_FILE)

    def give_back(self, *, timeout: float = 0.0) -> None:
        """Give the disk the pages that are free, as holes in the file, if the file system takes them.

        Raises:
            LockedError: a writer, or transactions that were open, did not end in time. Nothing has changed.
            CorruptError: the file's trees are damaged. Nothing has changed.
        """
        deadline = time.monotonic() + timeout
        with self.write(timeout=timeout) as transaction:
            # What the last transaction freed, LMDB falls back to; after one more it does not.
            transaction.put("meta", FORMAT_KEY, transaction.get("meta", FORMAT_KEY) or b"")
        with self._writer(max(0.0, deadline - time.monotonic()), None), self._alone(deadline - time.monotonic()):
            path = generations.current_generation(self._directory) / generations.DATA_FILE
            try:
                if free_pages.takes_holes(path):
                    free_pages.punch(path, free_pages.free_runs(path), read_meta_page(path).page_bytes)
            except OSError as error:
                raise refused(error, path) from error

    def _copy_into(self, staging: Path) -> None:
        with self._generation(writer=True) as environment:
            environment.copy_to(staging)
            copied = staging / generations.DATA_FILE
            generations.sync(copied)
            expected = environment.entries()
        found = _entries(staging)
        if found != expected:
            raise CorruptError(f"the copy of {environment.directory} has {found} entries, expected {expected}")

    def _switch_to(self, staging: Path, timeout: float) -> None:
        with self._alone(timeout):
            generations.publish(self._directory, staging)

    def _alone(self, timeout: float) -> FileLock:
        """Return a lock that keeps every transaction away."""
        timeout = max(0.0, timeout)
        exclusive = FileLock.acquire(self._directory / _LOCK, shared=False, timeout=timeout)
        if exclusive is None:
            raise LockedError(
                f"transactions on {self._directory} did not end within {timeout:g} seconds", hint=_TRY_AGAIN
            )
        return exclusive

    @contextmanager
    def _writer(self, timeout: float, waiting: Callable[[Holder | None], None] | None) -> Iterator[None]:
        path = self._directory / _WRITER
        try:
            lock = FileLock.acquire(
                path,
                shared=False,
                timeout=timeout,
                waiting=None if waiting is None else lambda: waiting(holder_of(path)),
            )
        except OSError as error:
            raise refused(error, path) from error
        if lock is None:
            raise self._written_by_another(holder_of(path))
        with lock:
            if not _writable(self._directory):
                raise InputError(f"{self._directory} may not be written by this user")
            lock.sign(this_process())
            try:
                yield
            finally:
                if lock.held:
                    lock.sign(None)

    @contextmanager
    def _generation(self, *, writer: bool = False) -> Iterator[Environment]:
        """Use the current generation's environment, under the locks that keep it current and readable."""
        with ExitStack() as stack:
            self._share(_LOCK, stack)
            try:
                directory = generations.current_generation(self._directory)
            except OSError as error:
                raise refused(error, self._directory) from error
            readonly = not _writable(directory)
            if readonly:
                self._share(_WRITER, stack)
            self._check_length(directory, alone=writer or readonly)
            environment = open_environment(directory, readonly=readonly)
            stack.callback(leave, environment)
            self._keeper.show(environment)
            yield environment

    def _share(self, name: str, stack: ExitStack) -> None:
        path = self._directory / name
        try:
            lock = FileLock.acquire(path, shared=True, timeout=PATIENCE)
        except OSError as error:
            if os.path.lexists(path) or _writable(self._directory):
                raise refused(error, path) from error
            return  # a copy on a read-only medium may lack the file, and nobody writes there
        if lock is None:
            raise self._written_by_another(holder_of(self._directory / _WRITER))
        stack.enter_context(lock)

    def _check_length(self, directory: Path, *, alone: bool) -> None:
        """Refuse a data file that lacks a page its trees lead to: touching such a page in the map kills the process.

        A transaction that gives back pages at the end of the file before it ever wrote them leaves the file shorter
        than its meta page counts, which is harmless. After each commit such a file is filled up, so one that is short
        was truncated, or its last writer was killed just then; the structural check tells which.

        Args:
            directory: the generation.
            alone: whether the caller's locks keep writers away.
        """
        path = directory / generations.DATA_FILE
        if _shortage(path) is None:
            return
        with ExitStack() as stack:
            if not alone:
                self._share(_WRITER, stack)
            short = _shortage(path)
            if short is None:
                return
            found, expected = short
            problems = structure_problems(path)
            if problems:
                raise CorruptError(
                    f"{path} is truncated: it has {found} bytes, expected {expected.file_bytes} ({problems[0]})",
                    hint="put back a backup of the vault, or clone it from a remote",
                )
            if _writable(path):
                generations.extend(path, expected.file_bytes)

    def _written_by_another(self, holder: Holder | None) -> LockedError:
        by = "another process" if holder is None else f"{holder} since {said_since(holder)}"
        return LockedError(f"{self._directory} is being written by {by}", hint=_TRY_AGAIN)


def _furnish(vault: Path) -> None:
    """Fill a new vault directory; what is in it is synced, the directory is not."""
    generation = generations.first_generation(vault)
    generation.mkdir()
    create_environment(generation, {_FORMAT: b"%d" % FORMAT_VERSION})
    generations.sync(generation / generations.DATA_FILE)
    generations.sync(generation)
    _furnish_around(vault, generation)


def _furnish_around(vault: Path, generation: Path) -> None:
    (vault / _SESSIONS).mkdir()
    for name in (_LOCK, _WRITER):
        (vault / name).touch()
    generations.point(vault, generation)


def _entries(directory: Path) -> int:
    environment = open_environment(directory, readonly=True)
    try:
        return environment.entries()
    finally:
        leave(environment)


def _fill_up(directory: Path) -> None:
    """Give a data file the length its meta page counts, right after a commit and under the writer lock."""
    path = directory / generations.DATA_FILE
    try:
        short = _shortage(path)
        if short is not None:
            generations.extend(path, short[1].file_bytes)
    except (OSError, ModelVaultError):
        pass  # the commit stands; whoever opens the file next checks it


def _shortage(path: Path) -> tuple[int, MetaPage] | None:
    """Return a data file's length and its meta page if it is shorter than that counts, or None."""
    try:
        expected = read_meta_page(path)
        found = path.stat().st_size
    except FileNotFoundError:
        raise CorruptError(f"{path} is missing", hint="put back a backup of the vault") from None
    except OSError as error:
        raise refused(error, path) from error
    return (found, expected) if found < expected.file_bytes else None


def _writable(path: Path) -> bool:
    return os.access(path, os.R_OK | os.W_OK)


def _seek(cursor: Cursor, low: bytes, origin: bytes | None) -> bool:
    """Move to the first key from `low` and from `origin` on."""
    if origin is None or origin <= low:
        return cursor.set_range(low)
    cut = origin[: MAX_KEY_BYTES + 1]
    found = cursor.set_range(cut)
    if found and cut != origin and bytes(cursor.key()) == cut:
        return cursor.next()  # the longest key there can be still sorts before a longer origin
    return found


def _seek_back(cursor: Cursor, low: bytes, origin: bytes | None) -> bool:
    """Move to the last key that begins with `low`, or to the last not after `origin` if that comes first."""
    end = _successor(low)
    if origin is None or origin >= end:
        return _before(cursor, end)
    cut = origin[: MAX_KEY_BYTES + 1]
    if cursor.set_range(cut) and bytes(cursor.key()) == cut:
        return True
    return _before(cursor, cut)


def _after(cursor: Cursor, key: bytes) -> bool:
    found = cursor.set_range(key)
    if found and bytes(cursor.key()) == key:
        return cursor.next()
    return found


def _before(cursor: Cursor, key: bytes) -> bool:
    return cursor.prev() if cursor.set_range(key) else cursor.last()


def _successor(low: bytes) -> bytes:
    """Return the least byte string that sorts after everything that begins with `low`; a table's byte is below 255."""
    stem = low.rstrip(b"\xff")
    return stem[:-1] + bytes((stem[-1] + 1,))
