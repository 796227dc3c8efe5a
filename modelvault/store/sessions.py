"""Session files: operations under way, each known by a file that its process holds locked.

A session file is complete and locked before it gets the name under which it counts, so a file that can be locked is
one whose process is gone. Its content is JSON: the holder, and the floors that the operation recorded. What floors
mean is for those who write and collect objects.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from modelvault.errors import CorruptError
from modelvault.store.base import LiveSession
from modelvault.store.locks import FileLock, holder_record, parse_holder, this_process

_UNFINISHED = ".new-"


class SessionFile:
    """A session of this process, live until it is closed or the process ends."""

    __slots__ = ("_directory", "_lock", "_name", "_process")

    def __init__(self, directory: Path, floors: dict[str, int]) -> None:
        self._directory = directory
        self._process = os.getpid()
        holder = this_process()
        self._name = f"{holder.pid}-{time.time_ns():x}-{os.urandom(4).hex()}"
        record = holder_record(holder) | {"floors": floors}
        import json

        self._lock = _locked_file(directory, self._name, json.dumps(record).encode("ascii"))

    @property
    def name(self) -> str:
        """A name no other session of this vault has."""
        return self._name

    def close(self) -> None:
        """End the session; in a forked child this does nothing, the session is its parent's."""
        if os.getpid() != self._process:
            return
        try:
            (self._directory / self._name).unlink(missing_ok=True)
        finally:
            self._lock.release()


def live_sessions(directory: Path) -> list[LiveSession]:
    """Return the sessions whose processes live, and remove what dead ones left.

    Raises:
        CorruptError: a live session's file cannot be read, so nobody knows what must be kept for it.
        OSError: the directory cannot be read.
    """
    try:
        names = sorted(entry.name for entry in os.scandir(directory))
    except FileNotFoundError:
        return []
    return [session for name in names if (session := _live(directory / name, name)) is not None]


def _live(path: Path, name: str) -> LiveSession | None:
    try:
        content = path.read_bytes()
        # Shared, so that two processes that look at once do not take each other for the owner.
        lock = FileLock.acquire(path, shared=True, create=False)
    except FileNotFoundError:
        return None  # ended while we looked
    if lock is not None:
        with lock:
            try:
                path.unlink(missing_ok=True)
            except PermissionError:
                pass  # not ours to tidy up; dead it is all the same
        return None
    if name.startswith(_UNFINISHED):
        return None
    try:
        import json

        record = json.loads(content)
        holder = parse_holder(record)
        floors = record["floors"] if holder else None
    except (ValueError, KeyError):
        holder = floors = None
    if holder is None or not isinstance(floors, dict) or not all(isinstance(n, int) for n in floors.values()):
        raise CorruptError(
            f"the session file {path} cannot be read, but its process is alive",
            hint="let the operation that holds it end, then try again",
        )
    return LiveSession(name, holder, {str(key): value for key, value in floors.items()})


def _locked_file(directory: Path, name: str, content: bytes) -> FileLock:
    unfinished = directory / (_UNFINISHED + name)
    while True:
        directory.mkdir(exist_ok=True)
        lock = FileLock.acquire(unfinished, shared=False)
        if lock is None:
            time.sleep(0.001)  # somebody asks whether this file is dead
            continue
        try:
            lock.write(content)
            unfinished.rename(directory / name)
            if (directory / name).stat().st_ino == lock.inode:
                return lock
        except FileNotFoundError:
            pass  # taken for dead between its creation and its lock: start again
        except BaseException:
            unfinished.unlink(missing_ok=True)
            lock.release()
            raise
        lock.release()
