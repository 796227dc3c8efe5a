"""Programs that the recovery tests start, and kill.

python -m tests.recovery.programs write VAULT [--compact N]    until killed; prints each number when it is durable
python -m tests.recovery.programs count VAULT KEY TIMES        adds TIMES entries under KEY, one transaction each
python -m tests.recovery.programs compact VAULT TIMES
python -m tests.recovery.programs give-back VAULT TIMES
python -m tests.recovery.programs die STEP create|compact VAULT    kills itself before its STEP-th file operation
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from modelvault.store.lmdb_store import LmdbStore
from tests.recovery import history

ROOT = Path(__file__).parents[2]
PATIENCE = 120.0


def start(*arguments: object) -> subprocess.Popen[str]:
    """Start one of the programs in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.recovery.programs", *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )


def _write(vault: Path, compact_each: int) -> None:
    store = LmdbStore(vault)
    with store.open_session({"packs": 0}):
        while True:
            with store.write(timeout=PATIENCE) as transaction:
                number = history.append(transaction)
            print(number, flush=True)
            if compact_each and number % compact_each == 0:
                store.compact(timeout=PATIENCE)


def _count(vault: Path, name: str, times: int) -> None:
    store = LmdbStore(vault)
    for number in range(times):
        with store.write(timeout=PATIENCE) as transaction:
            transaction.put("index", f"{name}-{number:06}".encode(), b"x" * 500)
        with store.read() as reading:
            assert reading.get("index", f"{name}-{number:06}".encode()) is not None


def _compact(vault: Path, times: int) -> None:
    store = LmdbStore(vault)
    for _ in range(times):
        store.compact(timeout=PATIENCE)
        print("compacted", flush=True)


def _give_back(vault: Path, times: int) -> None:
    store = LmdbStore(vault)
    for _ in range(times):
        with store.write(timeout=PATIENCE) as transaction:
            transaction.put("packs", b"passing", bytes(100_000))
        with store.write(timeout=PATIENCE) as transaction:
            transaction.delete("packs", b"passing")
        store.give_back(timeout=PATIENCE)


def _die(step: int, what: str, vault: Path) -> None:
    left = step

    def counted(operation: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **options: Any) -> Any:
            nonlocal left
            left -= 1
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)
            return operation(*arguments, **options)

        return run

    store = LmdbStore(vault) if what == "compact" else None
    # What pathlib and shutil call in the end, whichever way round.
    for name in ("fsync", "mkdir", "rename", "replace", "symlink", "unlink", "rmdir"):
        setattr(os, name, counted(getattr(os, name)))
    if store is None:
        LmdbStore.create(vault)
    else:
        store.compact()


def main(arguments: list[str]) -> None:
    command, *rest = arguments
    if command == "write":
        _write(Path(rest[0]), int(rest[2]) if len(rest) > 1 else 0)
    elif command == "count":
        _count(Path(rest[0]), rest[1], int(rest[2]))
    elif command == "compact":
        _compact(Path(rest[0]), int(rest[1]))
    elif command == "give-back":
        _give_back(Path(rest[0]), int(rest[1]))
    else:
        _die(int(rest[0]), rest[1], Path(rest[2]))


if __name__ == "__main__":
    main(sys.argv[1:])
