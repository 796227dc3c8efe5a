"""A vault on disk, opened: where it is, its store and its configuration."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

from modelvault.errors import InputError, LockedError, NoVaultError
from modelvault.repository import config
from modelvault.repository.names import VAULT_DIRECTORY
from modelvault.store.base import FORMAT_VERSION, Holder, Store
from modelvault.store.lmdb_store import LmdbStore

__all__ = [
    "DEFAULT_LOCK_TIMEOUT",
    "FORMAT_VERSION",
    "Repository",
    "find_directory",
    "init_repository",
    "open_repository",
    "repository_at",
]

DEFAULT_LOCK_TIMEOUT = 600.0
"""Seconds to wait for another writer. A commit of 10 GB takes minutes; a trainer would rather wait than die."""

_READERS_SECONDS = 5.0
"""How long open transactions are waited for before free pages become holes: they last milliseconds."""


class Repository:
    """One vault.

    Args:
        directory: the `.modelvault` directory.
        store: where its bytes are.
        lock_timeout: seconds to wait for another writer.
        waiting: told who holds the lock when there is something to wait for.
    """

    def __init__(
        self,
        directory: Path,
        store: Store,
        lock_timeout: float = DEFAULT_LOCK_TIMEOUT,
        waiting: Callable[[Holder | None], None] | None = None,
    ) -> None:
        self.directory, self.store = directory, store
        self.lock_timeout, self.waiting = lock_timeout, waiting

    @property
    def root(self) -> Path:
        """The directory that paths in snapshots are relative to."""
        return self.directory.parent

    def give_back(self) -> None:
        """Give the disk what is free in the vault's file. Readers that do not end soon keep it there for the next time,
        and for what is written until then."""
        with contextlib.suppress(LockedError):
            self.store.give_back(timeout=min(_READERS_SECONDS, self.lock_timeout))

    @cached_property
    def config(self) -> config.Config:
        """What config.yaml says."""
        return config.read_config(self.directory)


def find_directory(start: Path) -> Path:
    """Return the vault directory of `start` or of the nearest directory above it.

    MODELVAULT_DIR, if set, names the directory that holds the vault instead.

    Raises:
        NoVaultError: there is none.
    """
    named = os.environ.get("MODELVAULT_DIR")
    if named:
        place = Path(named)
        candidates = [place if place.name == VAULT_DIRECTORY else place / VAULT_DIRECTORY]
    else:
        absolute = start.absolute()
        candidates = [directory / VAULT_DIRECTORY for directory in (absolute, *absolute.parents)]
    for candidate in candidates:
        if candidate.is_dir():
            return candidate
    where = f"in {named} (MODELVAULT_DIR)" if named else f"in {start.absolute()} or above"
    raise NoVaultError(f"there is no vault {where}", hint="make one: modelvault init")


def repository_at(directory: Path) -> Repository:
    """Open the vault in a `.modelvault` directory."""
    return Repository(directory, LmdbStore(directory))


def open_repository(start: Path) -> Repository:
    """Open the vault of a directory or of the nearest one above it."""
    return repository_at(find_directory(start))


def init_repository(root: Path) -> Repository:
    """Make a vault in `root`, which is created if it is not there.

    Raises:
        InputError: there is one already, or the directory cannot be made.
    """
    directory = root / VAULT_DIRECTORY
    if directory.exists():
        raise InputError(f"there is a vault already: {directory}", hint="use it, or choose another directory")
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make {root}: {error.strerror}") from None
    store = LmdbStore.create(directory)
    config.write_default(directory)
    return Repository(directory, store)
