"""Branches and tags made, moved and deleted, and HEAD put on a branch. Light: no numpy, no codec."""

from __future__ import annotations

from typing import Literal

from modelvault.errors import UsageError, WouldLoseDataError
from modelvault.ids import CommitId
from modelvault.objects.ref import Head, Move
from modelvault.repository import history, refs, revisions
from modelvault.repository.names import check_ref
from modelvault.repository.repository import Repository
from modelvault.store.base import ReadTransaction

What = Literal["branch", "tag"]

_PREFIXES = {"branch": refs.BRANCHES, "tag": refs.TAGS}


def put(repository: Repository, what: What, name: str, revision: str, *, force: bool = False) -> CommitId:
    """Make a branch or tag, or move it; return where it is then.

    Raises:
        UsageError: it exists, and `force` is not set; or no such name is allowed.
        RevisionError: the revision names no commit.
    """
    check_ref(name, what)
    ref = _PREFIXES[what] + name
    with repository.store.write(timeout=repository.lock_timeout, waiting=repository.waiting) as txn:
        before = refs.read_ref(txn, ref)
        if before is not None and not force:
            raise UsageError(
                f"{what} {name} exists already, on {history.shorten(txn, before)}", hint="move it with --force"
            )
        target = revisions.resolve(txn, revision, repository.config).commit_id
        refs.move(txn, f"{what} {name}", [Move(ref, target)])
    return target


def delete(repository: Repository, what: What, name: str, *, force: bool = False) -> CommitId:
    """Delete a branch or tag; return where it was.

    Raises:
        UsageError: it does not exist, or HEAD is on it.
        WouldLoseDataError: a branch holds commits that nothing else does, and `force` is not set.
    """
    check_ref(name, what)
    ref = _PREFIXES[what] + name
    with repository.store.write(timeout=repository.lock_timeout, waiting=repository.waiting) as txn:
        before = refs.read_ref(txn, ref)
        if before is None:
            raise UsageError(f"there is no {what} {name}", hint=f"modelvault {what} lists them")
        head = refs.read_head(txn)
        if what == "branch" and head.detached is None and head.branch == name:
            raise UsageError(f"HEAD is on branch {name}", hint="switch to another branch first")
        if what == "branch" and not force and not _is_held_elsewhere(txn, name):
            raise WouldLoseDataError(
                f"branch {name} holds commits that no other branch or tag does",
                hint=f"modelvault branch --delete --force {name}",
            )
        refs.move(txn, f"{what} {name}", [Move(ref, None)])
    return before


def switch(repository: Repository, name: str, *, create: bool = False) -> CommitId | None:
    """Move HEAD to a branch; return the commit it is on then, None if the branch has none yet.

    Raises:
        UsageError: there is no such branch, or it is to be made and exists.
    """
    check_ref(name, "branch")
    with repository.store.write(timeout=repository.lock_timeout, waiting=repository.waiting) as txn:
        ref, tip = refs.BRANCHES + name, refs.head_commit(txn)
        exists = refs.read_ref(txn, ref) is not None
        if create and exists:
            raise UsageError(f"branch {name} exists already", hint=f"modelvault switch {name}")
        if not create and not exists and name != refs.read_head(txn).branch:
            raise UsageError(f"there is no branch {name}", hint=f"make it: modelvault switch -c {name}")
        moves = [Move(ref, tip)] if create and tip is not None else []
        if refs.read_head(txn) != Head(name) or moves:
            refs.move(txn, f"switch {name}", moves, head=Head(name))
        return refs.head_commit(txn)


def _is_held_elsewhere(txn: ReadTransaction, name: str) -> bool:
    """Return whether a branch's tip is reachable from another branch, a tag or HEAD."""
    tip = refs.read_ref(txn, refs.BRANCHES + name)
    starts = [target for other, target in refs.list_refs(txn, refs.BRANCHES).items() if other != name]
    starts += refs.list_refs(txn, refs.TAGS).values()
    head = refs.head_commit(txn)
    if head is not None:
        starts.append(head)
    return any(commit_id == tip for commit_id, _ in history.walk(txn, starts))
