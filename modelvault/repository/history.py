"""Commits read and walked. Light: no numpy, no codec."""

from __future__ import annotations

import heapq
from collections.abc import Container, Iterable, Iterator

from modelvault import ids
from modelvault.errors import CorruptError
from modelvault.ids import CommitId
from modelvault.objects.commit import Commit, FileEntry
from modelvault.objects.payload import Payload
from modelvault.store.base import ReadTransaction

SHORT_BYTES = 4
"""Bytes of an id that are shown; `shorten` takes more where a vault has two that share them."""


def read_commit(txn: ReadTransaction, commit_id: CommitId) -> Commit:
    """Return a commit after checking its bytes against its id.

    Raises:
        CorruptError: it is missing or its bytes are not what the id names.
    """
    data = txn.get("commits", commit_id)
    if data is None:
        raise CorruptError(f"commit {commit_id.hex()[:16]} is missing", hint="run modelvault fsck")
    if ids.commit_id(data) != commit_id:
        raise CorruptError(
            f"commit {commit_id.hex()[:16]} is damaged: its bytes do not match its id",
            hint="run modelvault fsck",
        )
    return Commit.from_bytes(data)


def read_payload(txn: ReadTransaction, commit_id: CommitId) -> Payload:
    """Return how a commit's bytes are kept.

    Raises:
        CorruptError: the record is missing or damaged.
    """
    data = txn.get("payloads", commit_id)
    if data is None:
        raise CorruptError(f"payload record of commit {commit_id.hex()[:16]} is missing", hint="run modelvault fsck")
    try:
        return Payload.from_bytes(data, commit_id)
    except CorruptError as error:
        raise CorruptError(
            f"payload record of commit {commit_id.hex()[:16]} is damaged: {error}", hint="run modelvault fsck"
        ) from None


def kept_files(txn: ReadTransaction, commit_id: CommitId, commit: Commit) -> tuple[FileEntry, ...]:
    """Return a commit's files as they are kept: those that a stand-in was taken for have the stand-in's id.

    Where the payload record is damaged, which is fsck's to report, they are the files as committed.
    """
    try:
        return stood_in(commit, read_payload(txn, commit_id))
    except CorruptError:
        return commit.files


def read_as_kept(txn: ReadTransaction, commit_id: CommitId) -> Commit:
    """Return a commit with its files as they are kept.

    Raises:
        CorruptError: the record is missing or damaged.
    """
    commit = read_commit(txn, commit_id)
    return commit._replace(files=kept_files(txn, commit_id, commit))


def stood_in(commit: Commit, payload: Payload) -> tuple[FileEntry, ...]:
    """Return a commit's files as its payload keeps them."""
    if payload.lossy is None:
        return commit.files
    stand_ins = dict(payload.lossy.stand_ins)
    return tuple(entry._replace(file_id=stand_ins.get(entry.file_id, entry.file_id)) for entry in commit.files)


def walk(
    txn: ReadTransaction, starts: Iterable[CommitId], exclude: Container[CommitId] = ()
) -> Iterator[tuple[CommitId, Commit]]:
    """Yield every commit reachable from `starts`, newest first, each once, children before the parents they lead to."""
    heap: list[tuple[int, int, CommitId, Commit]] = []
    seen = set[CommitId]()

    def push(commit_id: CommitId) -> None:
        if commit_id not in seen and commit_id not in exclude:
            seen.add(commit_id)
            commit = read_commit(txn, commit_id)
            heapq.heappush(heap, (-commit.time_ms, len(seen), commit_id, commit))

    for start in starts:
        push(start)
    while heap:
        _, _, commit_id, commit = heapq.heappop(heap)
        yield commit_id, commit
        for parent in commit.parents:
            push(parent)


def topological(
    txn: ReadTransaction, starts: Iterable[CommitId], exclude: Container[CommitId] = ()
) -> Iterator[tuple[CommitId, Commit]]:
    """Yield as `walk` does, but never a commit before all of its children, whatever the clocks said."""
    commits = dict(walk(txn, starts, exclude))
    children = dict.fromkeys(commits, 0)
    for commit in commits.values():
        for parent in commit.parents:
            if parent in children:
                children[parent] += 1
    order = {commit_id: place for place, commit_id in enumerate(commits)}
    ready = [(-commits[c].time_ms, order[c], c) for c, count in children.items() if not count]
    heapq.heapify(ready)
    while ready:
        _, _, commit_id = heapq.heappop(ready)
        yield commit_id, commits[commit_id]
        for parent in commits[commit_id].parents:
            if parent in children:
                children[parent] -= 1
                if not children[parent]:
                    heapq.heappush(ready, (-commits[parent].time_ms, order[parent], parent))


def ancestors(txn: ReadTransaction, start: CommitId) -> set[CommitId]:
    """Return a commit and everything it descends from."""
    return {commit_id for commit_id, _ in walk(txn, [start])}


def by_prefix(txn: ReadTransaction, prefix: str) -> list[CommitId]:
    """Return the commits whose id begins with these hexadecimal digits."""
    even = bytes.fromhex(prefix[: len(prefix) // 2 * 2])
    return [CommitId(key) for key, _ in txn.scan("commits", prefix=even) if key.hex().startswith(prefix)]


def shorten(txn: ReadTransaction, commit_id: CommitId) -> str:
    """Return the shortest prefix of at least 8 digits that names this commit alone."""
    length = SHORT_BYTES
    while length < ids.ID_BYTES and sum(1 for _ in txn.scan("commits", prefix=commit_id[:length])) > 1:
        length += 1
    return commit_id[:length].hex()
