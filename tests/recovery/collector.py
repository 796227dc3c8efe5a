"""Processes that work on a vault while, or until, a gc of theirs is killed: `python -m tests.recovery.collector ...`.

`gc ROOT [--compact]` collects once and says so. `forget ROOT` forgets all but the newest two, brings them back, and so
on until it is killed. `commit ROOT SEED COUNT` commits epochs, forgets what is older than
two commits, and prints the id of each. `read ROOT` restores every branch's tip until its input is closed.
`repack ROOT DEPTH [--effort-max]` repacks once. `lossy ROOT` makes all exact commits but the tip lossy.
`unbundle ROOT FILE` brings a bundle in.
"""

from __future__ import annotations

import select
import sys
from pathlib import Path

from modelvault.repository import gc, retention
from modelvault.repository.gc import collect_garbage
from modelvault.repository.lossy import LossyRequest
from modelvault.repository.lossy_repack import choose, lossy_repack
from modelvault.repository.repack import Bounds, repack
from modelvault.repository.repository import open_repository
from modelvault.repository.retention import Policy
from modelvault.repository.unbundle import unbundle
from tests.repository.garbage import forget
from tests.repository.networks import Run
from tests.repository.vaults import commit, files_of, find


def _collect(root: Path, *, compact: bool) -> None:
    for name, value in (("BATCH_BYTES", 100_000), ("_MOVE_TENSORS", 4)):  # several transactions a step
        assert hasattr(gc, name)
        setattr(gc, name, value)
    print("begins", flush=True)
    done = collect_garbage(open_repository(root), grace=0, compact=compact)
    print(done.freed_bytes, flush=True)


def _forget(root: Path) -> None:
    repository = open_repository(root)
    print("begins", flush=True)
    while True:
        with repository.store.write(timeout=10) as txn:
            choices = retention.choose(txn, Policy(last=2), retention.ALL_PARTS, repository.config)
            retention.forget(txn, [choice for choice in choices if choice.parts])
        with repository.store.write(timeout=10) as txn:
            retention.bring_back(txn, [c for c in retention.choose_to_bring_back(txn, []) if c.parts])


def _repack(root: Path, depth: int, *, thorough: bool) -> None:
    print("begins", flush=True)
    print(repack(open_repository(root), Bounds(max_depth=depth, thorough=thorough)).recoded, flush=True)


def _lossy(root: Path) -> None:
    repository = open_repository(root)
    print("begins", flush=True)
    with repository.store.read() as txn:
        choices = choose(txn, [], repository.config)
    print(len(lossy_repack(repository, choices, LossyRequest(0.001)).turned), flush=True)


def _unbundle(root: Path, path: Path) -> None:
    repository = open_repository(root)
    print("begins", flush=True)
    print(len(unbundle(repository, path).commits), flush=True)


def _commit(root: Path, seed: int, count: int) -> None:
    repository = open_repository(root)
    run = Run({f"layer{n}.weight": 17_000 for n in range(3)} | {"bias": 100}, seed=seed)
    made = []
    for epoch, data in enumerate(run.epochs(count)):
        made.append(commit(repository, {f"run-{seed}.pt": data}, f"epoch {epoch} of run {seed}").commit_id)
        print(made[-1].hex(), flush=True)
        if epoch >= 2 and epoch % 5:
            forget(repository, [made[-3]])


def _read(root: Path) -> None:
    repository = open_repository(root)
    count = 0
    while not select.select([sys.stdin], [], [], 0)[0]:
        assert files_of(repository, find(repository, "kept"))
        count += 1
    print(count, flush=True)


def main(arguments: list[str]) -> None:
    command, root, *rest = arguments
    if command == "gc":
        _collect(Path(root), compact="--compact" in rest)
    elif command == "forget":
        _forget(Path(root))
    elif command == "repack":
        _repack(Path(root), int(rest[0]), thorough="--effort-max" in rest)
    elif command == "lossy":
        _lossy(Path(root))
    elif command == "unbundle":
        _unbundle(Path(root), Path(rest[0]))
    elif command == "commit":
        _commit(Path(root), int(rest[0]), int(rest[1]))
    else:
        _read(Path(root))


if __name__ == "__main__":
    main(sys.argv[1:])
