"""A store in memory, with the behaviour of the one on disk; it ends with its object.

Committed tables are never changed: a writer copies a table before its first change and puts the copy in place when it
commits. So a reader's snapshot is the tables it found, and costs nothing.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from modelvault.errors import InputError, LockedError
from modelvault.store.base import (
    FORMAT_KEY,
    FORMAT_VERSION,
    TABLES,
    Holder,
    LiveSession,
    Table,
    Usage,
    check_entry,
)
from modelvault.store.locks import said_since, this_process


@dataclass(slots=True)
class _Tree:
    """One table: its keys in order, and their values."""

    keys: list[bytes] = field(default_factory=list)
    values: dict[bytes, bytes] = field(default_factory=dict)

    def copy(self) -> _Tree:
        return _Tree(list(self.keys), dict(self.values))


class MemoryTransaction:
    """A transaction of a MemoryStore, over the tables it began with."""

    def __init__(self, trees: dict[Table, _Tree], *, writable: bool) -> None:
        self._trees = dict(trees)
        self._writable = writable
        self._own: set[Table] = set()
        self._views: list[memoryview] = []
        self._over = False

    def get(self, table: Table, key: bytes) -> bytes | None:
        """Return the value, or None."""
        return self._tree(table).values.get(key)

    def view(self, table: Table, key: bytes) -> memoryview | None:
        """Return the value as a view that ends with the transaction, or None."""
        value = self.get(table, key)
        if value is None:
            return None
        view = memoryview(value)
        self._views.append(view)
        return view

    def scan(
        self, table: Table, *, prefix: bytes = b"", start: bytes | None = None, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """Yield (key, value) in key order."""
        step = self._before if reverse else self._after
        key = step(table, prefix, start, inclusive=True)
        while key is not None:
            yield key, self._tree(table).values[key]
            key = step(table, prefix, key, inclusive=False)

    def sizes(self, table: Table) -> Iterator[tuple[bytes, int]]:
        """Yield (key, length of the value) of a whole table in key order."""
        for key, value in self.scan(table):
            yield key, len(value)

    def count(self, table: Table) -> int:
        """Return the number of entries."""
        return len(self._tree(table).keys)

    def put(self, table: Table, key: bytes, value: bytes) -> None:
        """Set a value."""
        check_entry(table, key, value)
        tree = self._own_tree(table)
        if key not in tree.values:
            insort(tree.keys, key)
        tree.values[key] = bytes(value)

    def delete(self, table: Table, key: bytes) -> bool:
        """Remove an entry; say whether there was one."""
        if key not in self._tree(table).values:
            return False
        tree = self._own_tree(table)
        del tree.values[key]
        del tree.keys[bisect_left(tree.keys, key)]
        return True

    def end(self) -> dict[Table, _Tree]:
        """End the transaction and return its tables."""
        self._over = True
        for view in self._views:
            _release(view)
        return self._trees

    def _tree(self, table: Table) -> _Tree:
        if self._over:
            raise RuntimeError("this transaction is over")
        return self._trees[table]

    def _own_tree(self, table: Table) -> _Tree:
        tree = self._tree(table)
        if not self._writable:
            raise RuntimeError("this transaction only reads")
        if table not in self._own:
            tree = self._trees[table] = tree.copy()
            self._own.add(table)
        return tree

    def _after(self, table: Table, prefix: bytes, start: bytes | None, *, inclusive: bool) -> bytes | None:
        keys = self._tree(table).keys
        low = prefix if start is None else max(prefix, start)
        position = bisect_left(keys, low) if inclusive else bisect_right(keys, low)
        if position == len(keys) or not keys[position].startswith(prefix):
            return None
        return keys[position]

    def _before(self, table: Table, prefix: bytes, start: bytes | None, *, inclusive: bool) -> bytes | None:
        keys = self._tree(table).keys
        # Keys that begin with the prefix stand in one run, after every key that sorts before the prefix itself.
        position = bisect_left(keys, True, key=lambda key: key > prefix and not key.startswith(prefix))
        if start is not None:
            position = min(position, bisect_right(keys, start) if inclusive else bisect_left(keys, start))
        if not position or not keys[position - 1].startswith(prefix):
            return None
        return keys[position - 1]


class MemorySession:
    """A session of a MemoryStore."""

    def __init__(self, sessions: dict[str, LiveSession], live: LiveSession) -> None:
        self._sessions = sessions
        self._live = live
        sessions[live.name] = live

    @property
    def name(self) -> str:
        """A name no other session of this store has."""
        return self._live.name

    def close(self) -> None:
        """End the session."""
        self._sessions.pop(self._live.name, None)


class MemoryStore:
    """Bytes by key in this process's memory."""

    def __init__(self) -> None:
        self._trees: dict[Table, _Tree] = {table: _Tree() for table in TABLES}
        format_version = b"%d" % FORMAT_VERSION
        self._trees["meta"] = _Tree([FORMAT_KEY], {FORMAT_KEY: format_version})
        self._writer = threading.Lock()
        self._holder: Holder | None = None
        self._sessions: dict[str, LiveSession] = {}
        self._session_count = 0
        self._session_mutex = threading.Lock()

    @contextmanager
    def read(self) -> Iterator[MemoryTransaction]:
        """Open a read transaction."""
        transaction = MemoryTransaction(self._trees, writable=False)
        try:
            yield transaction
        finally:
            transaction.end()

    @contextmanager
    def write(
        self, *, timeout: float = 0.0, waiting: Callable[[Holder | None], None] | None = None
    ) -> Iterator[MemoryTransaction]:
        """Open the write transaction."""
        self._take_writer(timeout, waiting)
        try:
            self._holder = this_process()
            transaction = MemoryTransaction(self._trees, writable=True)
            try:
                yield transaction
            except BaseException:
                transaction.end()
                raise
            self._trees = transaction.end()
        finally:
            self._holder = None
            self._writer.release()

    def kept_open(self) -> AbstractContextManager[None]:
        """Do nothing: nothing is ever closed."""
        return nullcontext()

    @contextmanager
    def open_session(self, floors: dict[str, int]) -> Iterator[MemorySession]:
        """Register an operation under way."""
        with self._session_mutex:
            self._session_count += 1
            name = f"session-{self._session_count}"
        session = MemorySession(self._sessions, LiveSession(name, this_process(), dict(floors)))
        try:
            yield session
        finally:
            session.close()

    def live_sessions(self) -> list[LiveSession]:
        """Return the open sessions."""
        return list(self._sessions.values())

    def structure_problems(self, *, timeout: float = 0.0) -> list[str]:
        """Return nothing: there is no file whose structure could be wrong."""
        del timeout
        return []

    def copy_to(self, directory: Path) -> None:
        """Refuse: there is no file."""
        raise InputError(f"a store in memory cannot be copied to {directory}")

    def usage(self) -> Usage:
        """Return nothing but a page size: there is no file."""
        return Usage(4096, 0, 0, 0, 0, 0, 0)

    def disk_bytes(self) -> int:
        """Return 0: nothing is on disk."""
        return 0

    def compact(self, *, timeout: float = 0.0) -> None:
        """Do nothing: memory of deleted entries is free already."""

    def gives_back(self) -> bool:
        """Say no: there is no file."""
        return False

    def give_back(self, *, timeout: float = 0.0) -> None:
        """Do nothing: memory of deleted entries is free already."""

    def _take_writer(self, timeout: float, waiting: Callable[[Holder | None], None] | None) -> None:
        if self._writer.acquire(blocking=False):
            return
        if timeout > 0:
            deadline = time.monotonic() + timeout
            if waiting is not None:
                waiting(self._holder)
            if self._writer.acquire(timeout=max(0.0, deadline - time.monotonic())):
                return
        holder = self._holder
        by = f"{holder} since {said_since(holder)}" if holder is not None else "another thread"
        raise LockedError(f"the store is being written by {by}", hint="try again when it has finished")


def _release(view: memoryview) -> None:
    try:
        view.release()
    except BufferError:
        pass  # somebody built on it; the bytes live as long as that does
