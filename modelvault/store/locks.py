"""Advisory locks on files: taking them, waiting for them with an end, and who holds them.

A lock is a `flock` on an open file of its own, so threads exclude each other as processes do, and the kernel lets go
of it when its process dies: there are no stale locks and nothing to clean up. Which file guards what is for others.

A forked child inherits open files and with them their locks. Left alone, it would keep a vault locked after its parent
was killed, so a child closes its copies at once; closing a copy, unlike unlocking it, takes nothing from the parent.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from modelvault.store.base import Holder

HOLDER_BYTES = 1024
"""The holder's record is always this long: written in place, it needs no new block on a disk that is full."""

_COMMAND_CHARACTERS = 100  # six bytes each at worst, as JSON escapes them
_FIRST_PAUSE = 0.001
_LONGEST_PAUSE = 0.05


class FileLock:
    """A lock that is held until `release`, or until the process ends."""

    __slots__ = ("_descriptor", "path")

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor: int | None = descriptor
        _held.add(self)

    @classmethod
    def acquire(
        cls,
        path: Path,
        *,
        shared: bool,
        timeout: float = 0.0,
        waiting: Callable[[], None] | None = None,
        create: bool = True,
    ) -> FileLock | None:
        """Take the lock, waiting for it at most `timeout` seconds; return None if it was held all that time.

        The wait is made of attempts. An attempt leaves no queue behind, so somebody who waits for an exclusive lock
        never stands in the way of those who share it.

        Args:
            path: the file to lock.
            shared: whether others may share it.
            timeout: seconds; with 0 there is one attempt.
            waiting: called once, before the first pause.
            create: whether to create the file if there is none.

        Raises:
            OSError: the file can be neither created nor opened.
        """
        lock = cls(path, _open(path) if create else os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        try:
            deadline = time.monotonic() + timeout
            pause = _FIRST_PAUSE
            while not lock._try(shared=shared):
                left = deadline - time.monotonic()
                if left <= 0:
                    lock.release()
                    return None
                if waiting is not None:
                    waiting()
                    waiting = None
                time.sleep(min(pause, left))
                pause = min(pause * 1.5, _LONGEST_PAUSE)
        except BaseException:
            lock.release()
            raise
        return lock

    @property
    def held(self) -> bool:
        """Whether this process still holds the lock: not after a release, and not in a forked child."""
        return self._descriptor is not None

    @property
    def inode(self) -> int:
        """The number of the file that is locked, whatever its path leads to by now."""
        assert self._descriptor is not None
        return os.fstat(self._descriptor).st_ino

    def write(self, content: bytes) -> None:
        """Set what the file begins with."""
        assert self._descriptor is not None
        written = os.pwrite(self._descriptor, content, 0)
        if written != len(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), os.fspath(self.path))

    def sign(self, holder: Holder | None) -> None:
        """Write into the file who holds it (None: who shares it, which stays unsaid).

        A courtesy to those who wait, so a failure to write is no error.
        """
        import json  # readers sign nothing, and `log` is a reader

        record = b"" if holder is None else json.dumps(holder_record(holder)).encode("ascii")
        try:
            self.write(record.ljust(HOLDER_BYTES))
        except OSError:
            pass

    def release(self) -> None:
        """Let go of the lock; letting go twice, or in a forked child, does nothing."""
        descriptor, self._descriptor = self._descriptor, None
        _held.discard(self)
        if descriptor is None:
            return
        try:
            # Said out loud, because a close lets go only when no forked child holds a copy.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        finally:
            os.close(descriptor)

    def __enter__(self) -> FileLock:
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()

    def _try(self, *, shared: bool) -> bool:
        assert self._descriptor is not None
        try:
            fcntl.flock(self._descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _forget(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


_held: set[FileLock] = set()


def _forget_inherited() -> None:
    for lock in list(_held):
        lock._forget()
    _held.clear()


os.register_at_fork(after_in_child=_forget_inherited)


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        # flock asks for no permission to write, and a reader may have none.
        try:
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            raise error from None


def this_process() -> Holder:
    """Return what this process writes about itself into a lock."""
    arguments = list(sys.argv) or [""]
    command = " ".join([os.path.basename(arguments[0]), *arguments[1:]])[:_COMMAND_CHARACTERS]  # noqa: PTH119
    return Holder(os.getpid(), os.uname().nodename, time.time(), command)


def holder_of(path: Path) -> Holder | None:
    """Return who signed the lock file: its holder if it is held exclusively, the last one that was killed if not."""
    try:
        import json

        return parse_holder(json.loads(path.read_bytes()))
    except (OSError, ValueError):
        return None


def holder_record(holder: Holder) -> dict[str, object]:
    """Return the JSON object that `parse_holder` reads."""
    return {"pid": holder.pid, "host": holder.host, "since": holder.since, "command": holder.command}


def parse_holder(record: object) -> Holder | None:
    """Return the holder that a decoded JSON object describes, or None if it describes none."""
    if not isinstance(record, dict):
        return None
    pid, host, since, command = (record.get(field) for field in ("pid", "host", "since", "command"))
    if not (
        isinstance(pid, int) and isinstance(host, str) and isinstance(since, int | float) and isinstance(command, str)
    ):
        return None
    return Holder(pid, host, float(since), command)


def said_since(holder: Holder) -> str:
    """Return the local time since when it is held, as messages print it."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(holder.since))
