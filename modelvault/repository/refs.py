"""HEAD, branches, tags, and the reflog that remembers every move of them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from modelvault import wire
from modelvault.errors import CorruptError
from modelvault.ids import CommitId
from modelvault.objects.ref import Head, Move, ReflogEntry, seal_target, unseal_target
from modelvault.store.base import ReadTransaction, WriteTransaction

HEAD = "HEAD"
BRANCHES = "heads/"
TAGS = "tags/"
REMOTES = "remotes/"
DEFAULT_BRANCH = "main"


def read_head(txn: ReadTransaction) -> Head:
    """Return where HEAD is; a vault without commits is on the default branch."""
    data = txn.get("refs", HEAD.encode())
    return Head.from_bytes(data) if data is not None else Head(DEFAULT_BRANCH)


def head_commit(txn: ReadTransaction) -> CommitId | None:
    """Return the commit HEAD stands on, None before the first."""
    head = read_head(txn)
    return head.detached or read_ref(txn, BRANCHES + head.branch)


def read_ref(txn: ReadTransaction, ref: str) -> CommitId | None:
    """Return what a ref points at, by its full name."""
    data = txn.get("refs", ref.encode("utf-8", "surrogateescape"))
    if data is None:
        return None
    try:
        return unseal_target(data)
    except CorruptError as error:
        raise CorruptError(f"ref {ref} is damaged: {error}", hint="run modelvault fsck") from None


def list_refs(txn: ReadTransaction, prefix: str) -> dict[str, CommitId]:
    """Return short name -> target of all refs under a prefix, sorted by name."""
    return {
        key[len(prefix) :].decode("utf-8", "surrogateescape"): unseal_target(value)
        for key, value in txn.scan("refs", prefix=prefix.encode())
    }


def names_of(txn: ReadTransaction) -> dict[CommitId, list[str]]:
    """Return every commit's decorations in reading order: `HEAD -> main`, tags, other branches."""
    head, decorations = read_head(txn), dict[CommitId, list[str]]()
    tip = head_commit(txn)
    if tip is not None:
        decorations[tip] = ["HEAD" if head.detached else f"HEAD -> {head.branch}"]
    for name, target in list_refs(txn, TAGS).items():
        decorations.setdefault(target, []).append(f"tag: {name}")
    for name, target in list_refs(txn, BRANCHES).items():
        if head.detached or name != head.branch:
            decorations.setdefault(target, []).append(name)
    return decorations


def move(
    txn: WriteTransaction,
    operation: str,
    moves: Sequence[Move],
    *,
    head: Head | None = None,
    time_ms: int | None = None,
) -> None:
    """Move refs and write one reflog entry.

    Args:
        txn: the transaction that everything becomes durable in.
        operation: what is being done, for the reflog.
        moves: branches and tags by full name; a target of None deletes.
        head: HEAD's new place, if it changes. HEAD's own moves are logged when its commit changes.
        time_ms: now, unless given.
    """
    before, head_before = head_commit(txn), read_head(txn)
    for ref, target in moves:
        key = ref.encode("utf-8", "surrogateescape")
        if target is None:
            txn.delete("refs", key)
        else:
            txn.put("refs", key, seal_target(target))
    if head is not None:
        txn.put("refs", HEAD.encode(), head.to_bytes())
    after = head_commit(txn)
    logged = list(moves)
    if after != before or head is not None:
        logged.append(Move(HEAD, after))
    moment = time_ms if time_ms is not None else time.time_ns() // 1_000_000
    newest = next(txn.scan("reflog", reverse=True), None)
    sequence = wire.read_sortable(newest[0]) + 1 if newest else 1
    txn.put(
        "reflog",
        wire.sortable(sequence),
        ReflogEntry(
            moment, operation, tuple(logged), head_before if head not in (None, head_before) else None
        ).to_bytes(),
    )


def read_reflog(txn: ReadTransaction) -> Iterator[ReflogEntry]:
    """Yield every operation that moved a ref or forgot something, newest first."""
    for _, value in txn.scan("reflog", reverse=True):
        yield ReflogEntry.from_bytes(value)


def reflog_is_complete(txn: ReadTransaction) -> bool:
    """Return whether the reflog still has its first entry: what it does not know then never was."""
    oldest = next(txn.scan("reflog"), None)
    return oldest is None or wire.read_sortable(oldest[0]) == 1


def find_ref(txn: ReadTransaction, name: str) -> str | None:
    """Return the full name of what a user calls HEAD, @ or NAME; a deleted ref is found as long as the reflog knows it.

    A branch goes before a tag and a tag before a remote's branch, and what is there before what was.
    """
    if name in (HEAD, "@"):
        return HEAD
    full = [prefix + name for prefix in (BRANCHES, TAGS, REMOTES)]
    found = next((ref for ref in full if read_ref(txn, ref) is not None), None)
    if found is None:
        logged = {ref for entry in read_reflog(txn) for ref, _ in entry.moves}
        found = next((ref for ref in full if ref in logged), None)
    return found


def describe(ref: str) -> str:
    """Return a ref's full name as people say it.

    >>> describe("heads/main"), describe("tags/best"), describe("HEAD")
    ('branch main', 'tag best', 'HEAD')
    """
    for prefix, what in ((BRANCHES, "branch"), (TAGS, "tag"), (REMOTES, "remote branch")):
        if ref.startswith(prefix):
            return f"{what} {ref[len(prefix) :]}"
    return ref


def past_targets(txn: ReadTransaction, ref: str) -> Iterator[CommitId | None]:
    """Yield what a ref pointed at, newest first: the value now is number 0."""
    for entry in read_reflog(txn):
        for name, target in entry.moves:
            if name == ref:
                yield target
