"""What names point at, and every move of them.

Branches are kept under `heads/NAME`, tags under `tags/NAME`; HEAD is a record of its own. One reflog entry is written
for each operation that moves anything, in one sequence for the whole vault.
"""

from __future__ import annotations

from typing import NamedTuple

from modelvault import ids, wire
from modelvault.ids import CommitId

REF_KIND = 4
HEAD_KIND = 5
REFLOG_KIND = 6
VERSION = 1

_MAX_NAME = 1024


class Head(NamedTuple):
    """Where HEAD is.

    Attributes:
        branch: the branch it is on, or was on last.
        detached: the commit it stands on when it is on no branch, else None.
    """

    branch: str
    detached: CommitId | None = None

    def to_bytes(self) -> bytes:
        """Return the sealed record."""
        out = wire.Writer()
        out.text(self.branch)
        out.fixed(self.detached or b"")
        return wire.seal(HEAD_KIND, VERSION, out.getvalue())

    @classmethod
    def from_bytes(cls, data: bytes) -> Head:
        """Read a sealed record."""
        record = wire.Reader(wire.unseal(data, HEAD_KIND, VERSION))
        branch = record.text(_MAX_NAME)
        detached = CommitId(record.fixed(ids.ID_BYTES)) if record.remaining else None
        record.end()
        return cls(branch, detached)


class Move(NamedTuple):
    """One ref that moved: its full name (`heads/main`, `tags/best`, `HEAD`) and where to, None if it was deleted."""

    ref: str
    target: CommitId | None


class ReflogEntry(NamedTuple):
    """One operation that moved refs, or that changed which commits keep their bytes and moved none.

    Attributes:
        time_ms: milliseconds since the epoch, UTC.
        operation: what was done, in a few words.
        moves: what moved. A commit on the current branch moves HEAD with it.
        before: HEAD's record as it was, if the operation changed which branch or commit it is on.
    """

    time_ms: int
    operation: str
    moves: tuple[Move, ...]
    before: Head | None = None

    def to_bytes(self) -> bytes:
        """Return the sealed record."""
        out = wire.Writer()
        out.sint(self.time_ms)
        out.text(self.operation)
        # A commit moves its branch and HEAD to the same place: the id is written once.
        previous: CommitId | None = None
        out.uint(len(self.moves))
        for ref, target in self.moves:
            out.text(ref)
            if target is None:
                out.uint(0)
            elif target == previous:
                out.uint(2)
            else:
                out.uint(1)
                out.fixed(target)
            previous = target
        out.blob(self.before.to_bytes() if self.before is not None else b"")
        return wire.seal(REFLOG_KIND, VERSION, out.getvalue())

    @classmethod
    def from_bytes(cls, data: bytes) -> ReflogEntry:
        """Read a sealed record."""
        record = wire.Reader(wire.unseal(data, REFLOG_KIND, VERSION))
        time_ms, operation = record.sint(), record.text(_MAX_NAME)
        moves: list[Move] = []
        for _ in range(record.count(2)):
            ref, how = record.text(_MAX_NAME), record.uint(2)
            target: CommitId | None = None
            if how == 2:
                if not moves or moves[-1].target is None:
                    raise wire.WireError("a reflog entry repeats a target that is not there")
                target = moves[-1].target
            elif how == 1:
                target = CommitId(record.fixed(ids.ID_BYTES))
            moves.append(Move(ref, target))
        before = record.blob()
        record.end()
        return cls(time_ms, operation, tuple(moves), Head.from_bytes(before) if before else None)


def seal_target(target: CommitId) -> bytes:
    """Return the value of a ref that points at `target`."""
    return wire.seal(REF_KIND, VERSION, target)


def unseal_target(data: bytes) -> CommitId:
    """Return the commit a ref's value points at."""
    record = wire.Reader(wire.unseal(data, REF_KIND, VERSION))
    target = CommitId(record.fixed(ids.ID_BYTES))
    record.end()
    return target
