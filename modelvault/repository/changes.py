"""What a commit stores that its first parent does not, file by file. Light: only records are read."""

from __future__ import annotations

from typing import Literal, NamedTuple

from modelvault import wire
from modelvault.errors import CorruptError
from modelvault.ids import CommitId, FileId
from modelvault.objects.commit import Commit, FileEntry
from modelvault.objects.recipe import Recipe
from modelvault.objects.tensor import TensorRecord
from modelvault.repository import history
from modelvault.store.base import ReadTransaction

State = Literal["added", "changed", "same", "removed"]


class FileChange(NamedTuple):
    """One file against the parent's file of that path.

    Attributes:
        path: where it is.
        state: what became of it.
        size: its length, that of the parent's file if it was removed.
        tensors: stored tensors that it consists of.
        new: how many of them no file of the parent holds.
        new_bytes: their raw length.
        stored_bytes: bytes of their frames.
    """

    path: str
    state: State
    size: int
    tensors: int = 0
    new: int = 0
    new_bytes: int = 0
    stored_bytes: int = 0


def read_changes(txn: ReadTransaction, commit_id: CommitId, commit: Commit) -> list[FileChange]:
    """Return what became of each file since the first parent, sorted by path.

    Raises:
        CorruptError: a record it needs is missing or damaged.
    """
    parent = history.read_commit(txn, commit.parents[0]) if commit.parents else None
    before = {entry.path: entry for entry in parent.files} if parent is not None else {}
    kept = history.kept_files(txn, commit.parents[0], parent) if parent is not None else ()
    known = {number for entry in kept for number in _numbers(txn, entry.file_id)}
    after = {entry.path for entry in commit.files}
    stored = history.kept_files(txn, commit_id, commit)
    changes = [
        _change(txn, entry, before.get(entry.path), as_kept.file_id, known)
        for entry, as_kept in zip(commit.files, stored, strict=True)
    ]
    changes += [FileChange(path, "removed", entry.size) for path, entry in before.items() if path not in after]
    return sorted(changes)


def _change(
    txn: ReadTransaction, entry: FileEntry, before: FileEntry | None, stored: FileId, known: set[int]
) -> FileChange:
    numbers = _numbers(txn, stored)
    if before is not None and before.file_id == entry.file_id:
        return FileChange(entry.path, "same", entry.size, len(numbers))
    new = [_record(txn, number) for number in numbers if number not in known]
    return FileChange(
        entry.path,
        "added" if before is None else "changed",
        entry.size,
        len(numbers),
        len(new),
        sum(record.nbytes for record in new),
        sum(record.stored_bytes for record in new),
    )


def _numbers(txn: ReadTransaction, file_id: FileId) -> list[int]:
    """Return the stored tensors of a file, each once; those that were given up are left out."""
    data = txn.get("recipes", file_id)
    if data is None:
        return []  # forgotten, and gone with a gc; fsck tells where it is damage
    return [number for number in dict.fromkeys(Recipe.from_bytes(data, file_id).tensors) if number]


def _record(txn: ReadTransaction, number: int) -> TensorRecord:
    data = txn.get("tensors", wire.sortable(number))
    if data is None:
        raise CorruptError(f"tensor {number}: its record is missing", hint="run modelvault fsck")
    return TensorRecord.from_bytes(data)
