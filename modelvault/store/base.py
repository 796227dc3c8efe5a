"""What a store is: bytes by key in named tables, under transactions, across generations.

A store knows nothing of commits, tensors or codecs: it keeps bytes and says when they are durable. Two stores exist,
`LmdbStore` on disk and `MemoryStore`; the contract that both pass is tests/contract/test_store_contract.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, get_args

Table = Literal[
    "meta",  # format version and counters
    "commits",
    "payloads",
    "recipes",
    "templates",
    "tensors",  # tensor number -> record
    "index",  # tensor id prefix + number -> nothing; can be rebuilt from `tensors`
    "latest",  # where a tensor of this name, dtype and size was last stored; can be thrown away
    "packs",
    "refs",
    "reflog",
    "stats",
    "sketches",  # what is in a tensor, hashed -> the first and the last tensor like it; can be thrown away
]
TABLES: tuple[Table, ...] = get_args(Table)

FORMAT_VERSION = 1
"""The format this code writes; it reads every format from 1 to this one."""

FORMAT_KEY = b"format"
"""Where table `meta` holds the format version, as decimal ASCII digits."""

MAX_KEY_BYTES = 510
"""Longest key: LMDB 0.9 takes 511 bytes, and `LmdbStore` spends one of them on the table."""

MAX_VALUE_BYTES = 64 << 20
"""Longest value. Packs stay near 1 MiB; records of very large files may be longer."""


class Holder(NamedTuple):
    """Who holds a lock: process id, host name, since when (seconds since the epoch) and the command it runs."""

    pid: int
    host: str
    since: float
    command: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} ({self.command})"


class ReadTransaction(Protocol):
    """A consistent view of the store; short-lived, because a long one keeps freed pages from being reused.

    Looking up a key that no store can hold (empty, or longer than `MAX_KEY_BYTES`) finds nothing. Using a transaction
    that is over raises RuntimeError.
    """

    def get(self, table: Table, key: bytes) -> bytes | None:
        """Return a copy of the value, or None."""

    def view(self, table: Table, key: bytes) -> memoryview | None:
        """Return the value without a copy, or None.

        It is valid until the transaction ends or writes again. What was cut from it or built on it (a slice, an array)
        points into memory that is gone after that.
        """

    def scan(
        self, table: Table, *, prefix: bytes = b"", start: bytes | None = None, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """Yield (key, value) in key order; what the transaction writes ahead of where it stands is seen.

        Args:
            table: which table.
            prefix: only keys that begin with it.
            start: begin at the first key not before this one (reverse: at the last key not after it).
            reverse: from the highest key down.
        """

    def sizes(self, table: Table) -> Iterator[tuple[bytes, int]]:
        """Yield (key, length of the value) of a whole table in key order; no value is read."""

    def count(self, table: Table) -> int:
        """Return the number of entries, which takes a walk over their keys."""


class WriteTransaction(ReadTransaction, Protocol):
    """The one writer: sees its own writes; all of them become durable together, or none."""

    def put(self, table: Table, key: bytes, value: bytes) -> None:
        """Set a value.

        Raises:
            ValueError: the key is empty, or key or value are longer than a store takes.
            NoSpaceError: the disk is full; the transaction is lost, everything before it is not.
        """

    def delete(self, table: Table, key: bytes) -> bool:
        """Remove an entry; say whether there was one."""


class Usage(NamedTuple):
    """What a store's file is made of.

    Attributes:
        page_bytes: size of a page.
        tree_pages: pages that hold keys and short values.
        overflow_pages: pages that hold values too long for those.
        fixed_pages: pages that every file has.
        depth: pages from the root of the tree down to an entry.
        file_pages: pages the file counts, free ones and holes too.
        file_bytes: what the file takes on disk, free pages and all, without holes.
    """

    page_bytes: int
    tree_pages: int
    overflow_pages: int
    fixed_pages: int
    depth: int
    file_pages: int
    file_bytes: int

    def overflow(self, key: bytes, length: int) -> int:
        """Return how many overflow pages an entry takes: none if it is short."""
        if 8 + 1 + len(key) + length <= (self.page_bytes - _PAGE_HEADER) // 2 - 2:
            return 0
        return -(-(length + _PAGE_HEADER) // self.page_bytes)


_PAGE_HEADER = 16
"""LMDB's page header; an entry longer than half of what is left of a page goes to overflow pages."""


class Session(Protocol):
    """An operation under way that writes objects before anything refers to them.

    While it is live, gc keeps every tensor and pack whose number is not below the floors it recorded.
    """

    @property
    def name(self) -> str:
        """A name no other session of this vault has."""

    def close(self) -> None:
        """End the session."""


class LiveSession(NamedTuple):
    """A session that some live process holds open: its name, its holder and the floors it recorded."""

    name: str
    holder: Holder
    floors: dict[str, int]


class Store(Protocol):
    """Bytes by key, transactional. Safe to share between threads; every transaction belongs to one thread."""

    def read(self) -> AbstractContextManager[ReadTransaction]:
        """Open a read transaction on the current generation."""

    def write(
        self, *, timeout: float = 0.0, waiting: Callable[[Holder | None], None] | None = None
    ) -> AbstractContextManager[WriteTransaction]:
        """Open the write transaction: committed durably when the block ends, abandoned when it raises.

        Args:
            timeout: how many seconds to wait for another writer.
            waiting: called once, with the holder if it is known, when there is something to wait for.

        Raises:
            LockedError: another writer held the lock all that time.
            NoSpaceError: the disk is full; nothing of this transaction remains.
        """

    def kept_open(self) -> AbstractContextManager[None]:
        """Keep open what transactions open, for an operation that has many. No lock is held and nobody waits for it."""

    def open_session(self, floors: dict[str, int]) -> AbstractContextManager[Session]:
        """Register an operation under way, with the lowest numbers it may write; what it opens is kept open."""

    def live_sessions(self) -> list[LiveSession]:
        """Return the sessions whose processes live; remove what dead ones left."""

    def structure_problems(self, *, timeout: float = 0.0) -> list[str]:
        """Return what is wrong with the structure that holds the entries, checked while no writer is at work.

        Damage there can kill a process that reads through it, so this comes before a check of the contents.

        Raises:
            LockedError: a writer held the lock all that time.
        """

    def disk_bytes(self) -> int:
        """Return how many bytes the store takes on disk, as `du` counts them (0 in memory)."""

    def usage(self) -> Usage:
        """Return what the file is made of, free pages left out: what a compaction would copy."""

    def copy_to(self, directory: Path) -> None:
        """Write a compacted copy of the current state into a directory that is not there yet.

        Raises:
            InputError: something is there already, or the store has no file to copy.
            NoSpaceError: the disk has no room for it.
        """

    def compact(self, *, timeout: float = 0.0) -> None:
        """Copy what is live into a new generation, make it current and delete the old one.

        Raises:
            LockedError: operations under way did not end in time.
        """

    def gives_back(self) -> bool:
        """Say whether `give_back` does anything here."""

    def give_back(self, *, timeout: float = 0.0) -> None:
        """Give the disk what the file keeps of free pages, without a copy, where the file system can do that.

        Raises:
            LockedError: operations under way did not end in time.
        """


def is_key(key: bytes) -> bool:
    """Say whether a store can hold an entry under this key."""
    return 0 < len(key) <= MAX_KEY_BYTES


def check_entry(table: Table, key: bytes, value: bytes) -> None:
    """Refuse what no store takes.

    Raises:
        ValueError: the key is empty, or key or value are too long.
    """
    if not is_key(key):
        raise ValueError(f"table {table}: a key has 1 to {MAX_KEY_BYTES} bytes, this one {len(key)}")
    if len(value) > MAX_VALUE_BYTES:
        raise ValueError(f"table {table}: a value has at most {MAX_VALUE_BYTES} bytes, this one {len(value)}")
