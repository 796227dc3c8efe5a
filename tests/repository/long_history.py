"""A vault with a very long history, written record by record: `python -m tests.repository.long_history ROOT COUNT`.

One real commit of a small file, and then as many more as wanted that only look like it: their tensors are numbered,
lean on one another and lie in packs as those of a training run do, but nothing was encoded for them, so that a hundred
thousand of them are there in a minute. What reads records alone (log, report, gc) cannot tell them from real ones.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

from modelvault import ids, wire
from modelvault.ids import CommitId, FileId, TensorId
from modelvault.objects.commit import Commit, FileEntry
from modelvault.objects.payload import EXACT, Payload
from modelvault.objects.recipe import Recipe
from modelvault.objects.ref import Move
from modelvault.objects.tensor import Extent, TensorRecord, index_key
from modelvault.repository import history, refs
from modelvault.repository.packs import Packer, next_number
from modelvault.repository.repository import Repository, init_repository
from modelvault.store.base import WriteTransaction

from .networks import Run
from .vaults import commit

TENSORS = 24
"""Tensors of each commit, as many as ShuffleNet's 296 storages make."""

DEPTH = 16
_COMMITS_A_TRANSACTION = 500


def make(root: Path, count: int) -> Repository:
    """Make a vault with so many commits on its branch, each with tensors of its own."""
    repository = init_repository(root)
    first = commit(repository, Run({f"layer{n}.weight": 16_384 for n in range(TENSORS)}).file()).commit_id
    made = 1
    tip = first
    while made < count:
        some = min(_COMMITS_A_TRANSACTION, count - made)
        with repository.store.write(timeout=10) as txn:
            for number in range(made, made + some):
                tip = _one_more(txn, first, tip, number)
        made += some
    return repository


def _one_more(txn: WriteTransaction, first: CommitId, parent: CommitId, number: int) -> CommitId:
    """Write the records of one commit; the first of every 17 begins new chains."""
    pattern = history.read_commit(txn, first)
    entry = pattern.files[0]
    recipe = Recipe.from_bytes(txn.get("recipes", entry.file_id) or b"", entry.file_id)
    depth = number % (DEPTH + 1)
    start = next_number(txn, "tensors")
    packer = Packer(txn)
    for place, old in enumerate(recipe.tensors):
        data = txn.get("tensors", wire.sortable(start - len(recipe.tensors) + place if depth else old)) or b""
        like = TensorRecord.from_bytes(data)
        seed = hashlib.sha256(b"%d %d" % (number, place)).digest()
        extents: list[Extent] = []
        packer.add(extents, seed * 4)
        record = like._replace(
            tensor_id=TensorId(seed),
            base=start - len(recipe.tensors) + place if depth else 0,
            depth=depth,
            deltas=1 if depth else 0,
            extents=tuple(extents),
        )
        txn.put("tensors", wire.sortable(start + place), record.to_bytes())
        txn.put("index", index_key(record.tensor_id, start + place), b"")
    packer.close()
    txn.put("meta", b"next tensors", wire.sortable(start + len(recipe.tensors)))
    file_id = FileId(hashlib.sha256(b"%d" % number).digest())
    numbers = tuple(range(start, start + len(recipe.tensors)))
    txn.put("recipes", file_id, recipe._replace(tensors=numbers).to_bytes(file_id))
    made = Commit(
        (parent,),
        pattern.time_ms + number,
        0,
        pattern.author,
        f"epoch {number}",
        (FileEntry(entry.path, entry.size, False, file_id),),
        number,
        {"val_acc": number / (number + 100), "loss": 100 / (number + 100)},
    )
    data = made.to_bytes()
    commit_id = ids.commit_id(data)
    txn.put("commits", commit_id, data)
    txn.put("payloads", commit_id, Payload(EXACT, 5_000, 0, len(numbers), depth).to_bytes(commit_id))
    refs.move(txn, "commit", [Move("heads/main", commit_id)], time_ms=made.time_ms)
    return commit_id


if __name__ == "__main__":
    make(Path(sys.argv[1]), int(sys.argv[2]))
