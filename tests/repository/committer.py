"""A process that commits epochs and says so: `python -m tests.repository.committer ROOT SEED COUNT [PUTS]`.

Prints the id of each commit when it is acknowledged. With PUTS, it kills itself inside a transaction, before that many
values were put, or right before the commit of the transaction that follows if the number is negative.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from modelvault.repository import encode
from modelvault.repository.repository import open_repository
from modelvault.store.base import Table
from modelvault.store.lmdb_store import LmdbWriteTransaction

from .networks import Run
from .vaults import commit


def main(root: str, seed: str, count: str, puts: str = "") -> None:
    """Commit `count` epochs of run `seed`."""
    if puts:
        die_after(int(puts))
    encode.BATCH_BYTES = 200_000  # several transactions a commit
    repository = open_repository(Path(root))
    run = Run({f"layer{n}.weight": 25_000 for n in range(6)} | {"bias": 100}, seed=int(seed))
    for epoch, data in enumerate(run.epochs(int(count))):
        done = commit(repository, {f"run-{seed}.pt": data}, f"epoch {epoch} of run {seed}")
        print(done.commit_id.hex(), flush=True)


def die_after(puts: int) -> None:
    """Have this process killed inside a write transaction."""
    put, end = LmdbWriteTransaction.put, LmdbWriteTransaction.commit
    left = abs(puts)

    def counted_put(self: LmdbWriteTransaction, table: Table, key: bytes, value: bytes) -> None:
        nonlocal left
        left -= 1
        if left <= 0 and puts > 0:
            os.kill(os.getpid(), signal.SIGKILL)
        put(self, table, key, value)

    def counted_end(self: LmdbWriteTransaction) -> None:
        if left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)
        end(self)

    LmdbWriteTransaction.put = counted_put  # type: ignore[method-assign]
    LmdbWriteTransaction.commit = counted_end  # type: ignore[method-assign]


if __name__ == "__main__":
    main(*sys.argv[1:])
