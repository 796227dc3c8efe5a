"""The last operation that moved refs, taken back. Light: no numpy, no codec.

The reflog says where every ref went; where one was before is where it went the time before that, or nowhere. Taking
back is an operation like any other and is in the reflog itself, so it can be taken back too.
"""

from __future__ import annotations

from typing import NamedTuple

from modelvault.errors import InputError
from modelvault.ids import CommitId
from modelvault.objects.ref import Head, Move, ReflogEntry
from modelvault.repository import refs
from modelvault.repository.repository import Repository
from modelvault.store.base import ReadTransaction

_UNDO = "undo: "
_REDO = "redo: "


class Change(NamedTuple):
    """One ref by its full name: where it was before it was taken back, and where it is now; None: not there."""

    ref: str
    before: CommitId | None
    after: CommitId | None


class Undone(NamedTuple):
    """What was taken back.

    Attributes:
        entry: the operation.
        operation: under what name the taking back is in the reflog.
        changes: the refs that moved, HEAD last if its commit changed.
        head: where HEAD is now.
    """

    entry: ReflogEntry
    operation: str
    changes: tuple[Change, ...]
    head: Head


def undo(repository: Repository) -> Undone:
    """Take back the last operation that moved a ref. Files on disk and commits stay as they are.

    Raises:
        InputError: there is none, or the reflog or a commit that it leads to is gone.
    """
    with repository.store.write(timeout=repository.lock_timeout, waiting=repository.waiting) as txn:
        entry, previous = _last_and_previous(txn)
        at = refs.head_commit(txn)
        changes = [Change(ref, refs.read_ref(txn, ref), target) for ref, target in previous.items()]
        operation = _name(entry.operation)
        refs.move(txn, operation, [Move(change.ref, change.after) for change in changes], head=entry.before)
        now = refs.head_commit(txn)
        if now != at:
            changes.append(Change(refs.HEAD, at, now))
        return Undone(entry, operation, tuple(changes), refs.read_head(txn))


def _last_and_previous(txn: ReadTransaction) -> tuple[ReflogEntry, dict[str, CommitId | None]]:
    """Return the newest entry that moves a ref, and where each ref but HEAD was before it."""
    entries = refs.read_reflog(txn)
    last = next((entry for entry in entries if entry.moves), None)
    if last is None:
        raise InputError("nothing to undo: no branch or tag was made or moved yet")
    previous: dict[str, CommitId | None] = {ref: None for ref, _ in last.moves if ref != refs.HEAD}
    wanted = set(previous)
    for entry in entries:
        if not wanted:
            break
        for ref, target in entry.moves:
            if ref in wanted:
                previous[ref] = target
                wanted.remove(ref)
    if wanted and not refs.reflog_is_complete(txn):
        raise InputError(
            f"cannot undo {last.operation}: the reflog no longer says where {refs.describe(min(wanted))} was before",
            hint="modelvault log --all, then branch --force or tag --force",
        )
    for ref, target in previous.items():
        if target is not None and txn.get("commits", target) is None:
            raise InputError(f"cannot undo {last.operation}: {refs.describe(ref)} was at {target.hex()}, which is gone")
    return last, previous


def _name(operation: str) -> str:
    """Return what taking back an operation is called; a name must not grow with each turn.

    >>> _name("commit"), _name("undo: commit"), _name("redo: commit")
    ('undo: commit', 'redo: commit', 'undo: commit')
    """
    if operation.startswith(_UNDO):
        return _REDO + operation.removeprefix(_UNDO)
    return _UNDO + operation.removeprefix(_REDO)
