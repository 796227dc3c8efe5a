"""The generations of a vault's database: directories `gen-N`, and the pointer `current` to the one that counts.

A database that others have open must not be replaced under its name: LMDB's lock file would go on describing the old
one, and later writes would be lost. So a new database comes in a directory of its own, complete and synced, and
becomes current by the atomic rename of a symbolic link. This module knows names, links and syncing; when a switch is
allowed, and what a generation holds, is for the store.
"""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

from modelvault.errors import CorruptError

DATA_FILE = "data.mdb"
LOCK_FILE = "lock.mdb"

_CURRENT = "current"
_PREFIX = "gen-"
_STAGING = ".staging-"


def first_generation(vault: Path) -> Path:
    """Return where the first generation of a vault goes."""
    return vault / f"{_PREFIX}1"


def current_generation(vault: Path) -> Path:
    """Return the directory of the current generation.

    Raises:
        CorruptError: the pointer is missing or leads nowhere.
        OSError: this user may not look.
    """
    pointer = vault / _CURRENT
    try:
        target = pointer.readlink().name
    except FileNotFoundError:
        raise _lost(vault, f"{pointer} is missing") from None
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        raise _lost(vault, f"{pointer} is no symbolic link") from None
    if _number(target) is None:
        raise _lost(vault, f"{pointer} points to {target!r}, expected {_PREFIX}N")
    generation = vault / target
    if not generation.is_dir():
        raise _lost(vault, f"{pointer} points to {target}, which is missing")
    return generation


def stage(vault: Path) -> Path:
    """Make an empty directory for the generation after the current one."""
    number = _number(current_generation(vault).name)
    assert number is not None
    staging = vault / f"{_STAGING}{number + 1}"
    staging.mkdir()
    return staging


def publish(vault: Path, staging: Path) -> None:
    """Make a staged generation current, durably. Its files must be complete and synced."""
    generation = vault / (_PREFIX + staging.name.removeprefix(_STAGING))
    sync(staging)
    staging.rename(generation)
    point(vault, generation)


def point(vault: Path, generation: Path) -> None:
    """Set the pointer, durably."""
    link = vault / (_STAGING + _CURRENT)
    link.unlink(missing_ok=True)
    link.symlink_to(generation.name)
    sync(vault)  # the directory it leads to first
    link.rename(vault / _CURRENT)
    sync(vault)


def sweep(vault: Path) -> None:
    """Delete every generation but the current one, and what a killed compaction left."""
    current = current_generation(vault).name
    for entry in sorted(vault.iterdir()):
        if entry.name.startswith(_STAGING) or (_number(entry.name) is not None and entry.name != current):
            discard(entry)
    sync(vault)


def discard(path: Path) -> None:
    """Delete a directory, link or file."""
    if path.is_dir() and not path.is_symlink():
        import shutil  # brings in every compressor it can archive with, for commands that only read

        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Make a file's content, or a directory's entries, durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def extend(path: Path, length: int) -> None:
    """Make a file at least this long, with a hole at its end. Nobody else may be writing to it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        if os.fstat(descriptor).st_size < length:
            os.ftruncate(descriptor, length)
    finally:
        os.close(descriptor)


def bytes_on_disk(directory: Path) -> int:
    """Return the blocks a directory and all below it take, in bytes, as `du` counts them."""
    total = directory.lstat().st_blocks * 512
    for entry in os.scandir(directory):
        try:
            if entry.is_dir(follow_symlinks=False):
                total += bytes_on_disk(Path(entry.path))
            else:
                total += entry.stat(follow_symlinks=False).st_blocks * 512
        except FileNotFoundError:
            pass  # a session that ended while we counted
    return total


class Nursery:
    """A directory beside a vault's future place, where the vault is made before it appears there whole.

    A process that is killed meanwhile leaves one behind, unlocked; the next one to make a vault here deletes it.
    """

    def __init__(self, vault: Path) -> None:
        self._vault = vault
        prefix = f"{vault.name}.new-"
        for left in vault.parent.glob(prefix + "*"):
            _discard_dead(left)
        self.directory = vault.parent / f"{prefix}{os.getpid()}-{os.urandom(4).hex()}"
        self.directory.mkdir()
        self._descriptor = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)

    def __enter__(self) -> Nursery:
        return self

    def __exit__(self, *exception: object) -> None:
        try:
            if self.directory.exists():
                discard(self.directory)
        finally:
            os.close(self._descriptor)

    def move_out(self) -> None:
        """Give the vault its name, durably.

        Raises:
            OSError: something is in that place.
        """
        sync(self.directory)
        self.directory.rename(self._vault)
        sync(self._vault.parent)


def _discard_dead(directory: Path) -> None:
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        discard(directory)
    except OSError:
        pass  # somebody is making a vault in it, or it is not ours to delete
    finally:
        os.close(descriptor)


def _number(name: str) -> int | None:
    digits = name.removeprefix(_PREFIX)
    if digits == name or not (digits.isascii() and digits.isdigit()):
        return None
    return int(digits)


def _lost(vault: Path, what: str) -> CorruptError:
    left = sorted(entry.name for entry in vault.iterdir() if _number(entry.name) is not None)
    if left:
        hint = f"the vault still has {', '.join(left)}: put back a backup, or point current at the newest"
    else:
        hint = "no database is left in this vault: put back a backup, or clone it from a remote"
    return CorruptError(what, hint=hint)
