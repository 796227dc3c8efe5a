"""Open LMDB environments of this process, and the words for what goes wrong in them.

LMDB must not have one file open twice in a process (its locks belong to the process, and closing one environment
would drop those of the other), so there is one table of open environments, keyed by the data file's device and inode.
An environment is open while somebody uses it and closed when the last user leaves: what is closed keeps neither a
deleted generation's disk blocks nor mapped pages in memory, and cannot be inherited by a fork. Opening and closing
takes 0.3 ms, so an operation of many transactions has a `Keeper`, which keeps it from the first of them to its end.

A child that was forked while an environment was in use never touches, and above all never closes, the inherited one:
that would clear its parent's reader slots, and the parent's writer would then reuse pages its readers still read.

Which file is open, when, and under which locks of ours is for `lmdb_store`; together they are the only door to lmdb.
"""

from __future__ import annotations

import errno
import os
import sys
import threading
from pathlib import Path
from typing import TypeAlias

import lmdb

from modelvault.errors import (
    CorruptError,
    InputError,
    LockedError,
    ModelVaultError,
    NoSpaceError,
    UnsupportedError,
)
from modelvault.store.base import Usage
from modelvault.store.generations import DATA_FILE

Transaction: TypeAlias = "lmdb.Transaction[memoryview]"
Cursor: TypeAlias = "lmdb.Cursor[memoryview]"
EngineError = lmdb.Error

MAP_BYTES = min(1 << 40, sys.maxsize >> 2)
"""How much address space a data file may grow into. It costs nothing on Linux, mapped or not."""

SMALLEST_MAP_BYTES = 1 << 26
"""Where giving way to a limited address space ends; LMDB maps at least the file in any case."""

MAX_READERS = 512
"""Read transactions at one time, over all processes; a slot takes 64 bytes of the lock file."""

_SPARE_BYTES = 1 << 20
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
_NOT_ALLOWED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_CORRUPT = (lmdb.CorruptedError, lmdb.PageNotFoundError, lmdb.InvalidError, lmdb.VersionMismatchError)


class Environment:
    """An open environment, shared by all its users in this process."""

    __slots__ = ("_engine", "_kept", "_process", "_users", "directory", "identity", "readonly")

    def __init__(self, directory: Path, identity: tuple[int, int], *, readonly: bool) -> None:
        self.directory = directory
        self.identity = identity
        self.readonly = readonly
        self._process = os.getpid()
        self._users = 1
        self._kept = 0  # times, by operations between their transactions
        self._engine = _open(directory, readonly=readonly)

    def begin(self, *, write: bool) -> Transaction:
        """Begin a transaction of LMDB's.

        Raises:
            ModelVaultError: it cannot be begun; the class says why.
        """
        try:
            try:
                return self._engine.begin(write=write, buffers=True)
            except lmdb.ReadersFullError:
                self._engine.reader_check()  # slots that dead processes left
            except lmdb.MapResizedError:
                self._adopt_map_size()
            return self._engine.begin(write=write, buffers=True)
        except lmdb.Error as error:
            raise translated(error, self.directory) from error

    def copy_to(self, directory: Path) -> None:
        """Write a copy without free pages into an empty directory; neither it nor the directory is synced."""
        try:
            self._engine.copy(os.fspath(directory), compact=True)
        except lmdb.Error as error:
            raise translated(error, self.directory) from error

    def usage(self) -> Usage:
        """Return the pages that hold entries."""
        try:
            found, last_page = self._engine.stat(), self._engine.info()["last_pgno"]
        except lmdb.Error as error:
            raise translated(error, self.directory) from error
        tree_pages = found["branch_pages"] + found["leaf_pages"]
        blocks = (self.directory / DATA_FILE).stat().st_blocks
        return Usage(
            found["psize"], tree_pages, found["overflow_pages"], 2, found["depth"], last_page + 1, 512 * blocks
        )

    def entries(self) -> int:
        """Return how many entries there are in all tables together."""
        try:
            return self._engine.stat()["entries"]
        except lmdb.Error as error:
            raise translated(error, self.directory) from error

    def _adopt_map_size(self) -> None:
        """Follow a process with more address space that let the file outgrow our map."""
        with _mutex:
            if self._users > 1:  # a new map would pull the old one from under their transactions
                raise LockedError(
                    f"{self.directory / DATA_FILE} has outgrown what this process mapped of it",
                    hint="end this process's other transactions, then try again",
                )
            self._engine.set_mapsize(0)


_mutex = threading.Lock()
_open_environments: dict[tuple[int, int], Environment] = {}
_inherited: list[Environment] = []


def _set_inherited_aside() -> None:
    global _mutex
    _mutex = threading.Lock()  # another thread of the parent may have held it
    _inherited.extend(_open_environments.values())
    _open_environments.clear()


os.register_at_fork(after_in_child=_set_inherited_aside)


def open_environment(directory: Path, *, readonly: bool) -> Environment:
    """Return the environment in a directory, which must hold one; every call is paid back with a `leave`.

    Raises:
        ModelVaultError: it cannot be opened; the class says why.
    """
    try:
        status = (directory / DATA_FILE).stat()
    except OSError as error:
        raise refused(error, directory / DATA_FILE) from error
    identity = (status.st_dev, status.st_ino)
    with _mutex:
        environment = _open_environments.get(identity)
        if environment is not None:
            environment._users += 1
            return environment
        environment = Environment(directory, identity, readonly=readonly)
        _open_environments[identity] = environment
        return environment


def leave(environment: Environment) -> None:
    """Stop using an environment; the last to leave closes it."""
    if os.getpid() != environment._process:
        return
    with _mutex:
        environment._users -= 1
        _close_unused(environment)


def _close_unused(environment: Environment) -> None:
    if not environment._users and not environment._kept:
        del _open_environments[environment.identity]
        environment._engine.close()


class Keeper:
    """Keeps an environment open between transactions, the last it was shown, while somebody is in it."""

    def __init__(self) -> None:
        self._entered = 0
        self._environment: Environment | None = None

    def __enter__(self) -> None:
        with _mutex:
            self._entered += 1

    def __exit__(self, *exception: object) -> None:
        with _mutex:
            self._entered -= 1
            if not self._entered:
                self._exchange(None)

    def show(self, environment: Environment) -> None:
        """Keep this one from now on, which the caller has open; a compaction put it in the place of another."""
        with _mutex:
            if self._entered and environment is not self._environment:
                self._exchange(environment)

    def _exchange(self, environment: Environment | None) -> None:
        before, self._environment = self._environment, environment
        if environment is not None:
            environment._kept += 1
        if before is not None and before._process == os.getpid():
            before._kept -= 1
            _close_unused(before)


def create_environment(directory: Path, entries: dict[bytes, bytes]) -> None:
    """Make a new environment with these entries in an empty directory.

    Raises:
        ModelVaultError: it cannot be made; the class says why.
    """
    try:
        engine = _mapped(directory, readonly=False)
        try:
            with engine.begin(write=True) as transaction:
                for key, value in entries.items():
                    transaction.put(key, value)
        finally:
            engine.close()
    except lmdb.Error as error:
        raise translated(error, directory) from error


def structure_problems(path: Path) -> list[str]:
    """Return what is wrong with the structure of a data file at rest, without mapping it.

    Reads every page of the trees. Without lmdb 3's checker, that the file was not checked is what is wrong.
    """
    try:
        from lmdb.verify import VerifyError, verify
    except ImportError:
        return ["this version of lmdb has no structural check"]
    try:
        return list(verify(os.fspath(path), subdir=False))  # type: ignore[no-untyped-call]
    except VerifyError as error:
        return [str(error)]


def translated(error: lmdb.Error, path: Path, *, unwritten: int = 0) -> ModelVaultError:
    """Return our error for one of LMDB's.

    Args:
        error: what LMDB said.
        path: the environment's directory.
        unwritten: how many bytes the transaction was going to write.
    """
    code = getattr(error, "code", 0)
    if "already open in this process" in str(error):
        # The binding's own table, which a child inherits with its parent's open environments.
        return UnsupportedError(
            f"{path} was in use when this process was forked, so it cannot be opened here",
            hint="fork before the transaction, or use the start method spawn or forkserver",
        )
    if isinstance(error, _CORRUPT):
        return CorruptError(f"the database in {path} is damaged: {error}", hint="put back a backup of the vault")
    if isinstance(error, lmdb.MapFullError):
        return UnsupportedError(
            f"the database in {path} does not fit the address space this process may map",
            hint="lift the limit on virtual memory (ulimit -v unlimited)",
        )
    if isinstance(error, lmdb.ReadersFullError):
        return LockedError(
            f"{path} has {MAX_READERS} read transactions open, more it does not take",
            hint="end some of the processes that read it",
        )
    if code in _NO_ROOM or (_is_write_failure(error, code) and _free_bytes(path) < unwritten + _SPARE_BYTES):
        return no_space(path)
    if isinstance(error, lmdb.ReadonlyError) or code in _NOT_ALLOWED:
        return InputError(f"{path} may not be written by this user: {error}")
    return ModelVaultError(f"LMDB cannot go on with {path}: {error}")


def refused(error: OSError, path: Path) -> ModelVaultError:
    """Return our error for what the operating system said about a path."""
    if error.errno in _NO_ROOM:
        return no_space(path)
    return InputError(f"cannot use {path}: {error.strerror or error}")


def no_space(path: Path) -> NoSpaceError:
    """Return the error for a disk that is full."""
    return NoSpaceError(
        f"no space left for {path}; nothing of this transaction remains, what was there before is intact",
        hint="free some space on this disk, then try again",
    )


def _is_write_failure(error: lmdb.Error, code: int) -> bool:
    # LMDB 0.9 reports a short write as EIO, LMDB 1.0 with a code of its own that the binding only names.
    return code == errno.EIO or isinstance(error, lmdb.DiskError) or "SHORT_WRITE" in str(error)


def _free_bytes(path: Path) -> int:
    try:
        status = os.statvfs(path)
    except OSError:
        return 0
    return status.f_bavail * status.f_frsize


def _open(directory: Path, *, readonly: bool) -> lmdb.Environment:
    try:
        engine = _mapped(directory, readonly=readonly)
        if not readonly:
            engine.reader_check()  # a dead reader's slot keeps freed pages from being used again
    except lmdb.Error as error:
        raise translated(error, directory) from error
    return engine


def _mapped(directory: Path, *, readonly: bool) -> lmdb.Environment:
    map_bytes = MAP_BYTES
    while True:
        try:
            # Durability is LMDB's default: data and meta page are synced before a commit returns, and nothing is
            # written through the map. Reading ahead stays on: packs are long, and on a cold disk it read 1 MiB values
            # at 560 to 2,000 MB/s against 60 MB/s without.
            return lmdb.open(
                os.fspath(directory),
                map_size=map_bytes,
                readonly=readonly,
                lock=not readonly,
                create=False,
                mode=0o666,
                max_readers=MAX_READERS,
            )
        except lmdb.MemoryError as error:
            if map_bytes <= SMALLEST_MAP_BYTES:
                raise UnsupportedError(
                    f"the database in {directory} does not fit the address space this process may map",
                    hint="lift the limit on virtual memory (ulimit -v unlimited)",
                ) from error
            map_bytes //= 4
