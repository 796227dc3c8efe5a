"""What it takes to restore a commit: the tensors its files lean on, who stored them first, and the work of decoding.

Light: records are read, no chunk is decoded.
"""

from __future__ import annotations

from typing import NamedTuple

from modelvault import wire
from modelvault.ids import CommitId, FileId
from modelvault.objects.recipe import Recipe
from modelvault.repository import cost, history, refs
from modelvault.repository.checkout import read_recipe
from modelvault.repository.chunks import read_tensor
from modelvault.store.base import ReadTransaction


class Link(NamedTuple):
    """What a restore takes from one commit.

    Attributes:
        commit_id: the oldest commit whose files hold these tensors; None: none that is kept.
        short: its id, as short as it may be; empty without one.
        subject: the first line of its message; empty without one.
        tensors: how many of its tensors are decoded.
        read_bytes: bytes of their frames.
        decoded_bytes: bytes that come out.
        depth: the longest chain below one of them.
    """

    commit_id: CommitId | None
    short: str
    subject: str
    tensors: int
    read_bytes: int
    decoded_bytes: int
    depth: int


class RestoreCost(NamedTuple):
    """What it takes to restore a commit; every tensor counts once.

    Attributes:
        links: what is taken from each commit, from the commit itself down to where its chains end.
    """

    links: tuple[Link, ...]

    @property
    def read_bytes(self) -> int:
        """Bytes of frames that are read."""
        return sum(link.read_bytes for link in self.links)

    @property
    def decoded_bytes(self) -> int:
        """Bytes that are decoded, those of references among them."""
        return sum(link.decoded_bytes for link in self.links)

    @property
    def depth(self) -> int:
        """The longest chain."""
        return max((link.depth for link in self.links), default=0)

    @property
    def work(self) -> int:
        """Work units, the same on every machine."""
        return self.read_bytes + self.decoded_bytes

    @property
    def seconds(self) -> float:
        """About how long that takes."""
        return cost.seconds(self.work)


def restore_cost(txn: ReadTransaction, commit_id: CommitId) -> RestoreCost:
    """Return what it takes to restore all files of a commit.

    Raises:
        CorruptError: a record it needs is missing or damaged, or a chain does not end.
    """
    commit = history.read_commit(txn, commit_id)
    todo: list[int] = []
    for entry in history.kept_files(txn, commit_id, commit):
        todo.extend(number for number in read_recipe(txn, entry.file_id).tensors if number)
    own = frozenset(todo)
    records = {}
    while todo:
        number = todo.pop()
        if number not in records:
            records[number] = read_tensor(txn, number)
            todo.extend(records[number].references)
    owners = _owners(txn, commit_id, frozenset(records))
    sums: dict[CommitId | None, list[int]] = {}
    for number, record in records.items():
        total = sums.setdefault(owners.get(number), [0, 0, 0, 0, 0])
        total[0] += 1
        total[1] += record.stored_bytes
        total[2] += record.nbytes
        total[3] = max(total[3], record.depth)
        total[4] += number in own
    in_order = sorted(sums.items(), key=lambda pair: (pair[0] != commit_id, -pair[1][3], -pair[1][4]))
    return RestoreCost(tuple(Link(owner, *_said(txn, owner), *total[:4]) for owner, total in in_order))


def _said(txn: ReadTransaction, owner: CommitId | None) -> tuple[str, str]:
    if owner is None:
        return "", ""
    return history.shorten(txn, owner), history.read_commit(txn, owner).subject


def _owners(txn: ReadTransaction, commit_id: CommitId, numbers: frozenset[int]) -> dict[int, CommitId]:
    """Return the oldest commit that holds each of these tensors: of its own line, else of any."""
    found: dict[int, CommitId] = {}
    seen: dict[CommitId, None] = {}
    tips = refs.list_refs(txn, refs.BRANCHES) | refs.list_refs(txn, refs.TAGS)
    for line in ([commit_id], list(tips.values())):
        missing = numbers - found.keys()
        if not missing:
            break
        for other, commit in history.walk(txn, line, seen):
            seen[other] = None
            for entry in history.kept_files(txn, other, commit):
                found |= dict.fromkeys(missing & _tensors(txn, entry.file_id), other)
    return found


def _tensors(txn: ReadTransaction, file_id: FileId) -> frozenset[int]:
    value = txn.get("recipes", file_id)
    if value is None:
        return frozenset()  # forgotten, and collected
    try:
        return frozenset(Recipe.from_bytes(value, file_id).tensors)
    except wire.WireError:
        return frozenset()  # another commit's, which fsck names
