"""Which tensor leans on which, and changing that: under the write lock, with every depth put right at once.

Others write too: commits add tensors, a gc codes some anew. Table `stats` counts the changes of bases, so whoever holds
a picture of all chains knows whether it is still true. Light: records are read, no chunk is decoded.
"""

from __future__ import annotations

from collections.abc import Iterator

from modelvault import wire
from modelvault.objects.tensor import TensorRecord
from modelvault.repository.packs import next_number
from modelvault.store.base import ReadTransaction, WriteTransaction

_REBASED = b"rebased"


def note_rebased(txn: WriteTransaction) -> None:
    """Note that a tensor was put on another base."""
    txn.put("stats", _REBASED, wire.sortable(_count(txn) + 1))


def _count(txn: ReadTransaction) -> int:
    data = txn.get("stats", _REBASED)
    return wire.read_sortable(data) if data else 0


class TooDeepError(Exception):
    """A change would make a chain longer than allowed; `number` leans on what changes and is in the way."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class StaleError(Exception):
    """A record is not what the change was made for: somebody else changed or removed it meanwhile."""


class Chains:
    """A picture of every chain of the vault, brought up to date in each transaction."""

    def __init__(self) -> None:
        self._count = -1
        self._next = 1
        self.bases: dict[int, int] = {}
        self._children: dict[int, set[int]] = {}

    def refresh(self, txn: ReadTransaction) -> None:
        """Read what was added; read everything if anybody else changed a base."""
        count = _count(txn)
        if count != self._count:
            self._count, self._next = count, 1
            self.bases, self._children = {}, {}
        for key, value in txn.scan("tensors", start=wire.sortable(self._next)):
            self._enter(wire.read_sortable(key), TensorRecord.from_bytes(value).base)
        self._next = next_number(txn, "tensors")

    def _enter(self, number: int, base: int) -> None:
        self.bases[number] = base
        if base:
            self._children.setdefault(base, set()).add(number)

    def below(self, number: int) -> Iterator[int]:
        """Yield what leans on a tensor, bases first."""
        stack = list(self._children.get(number, ()))
        while stack:
            found = stack.pop()
            yield found
            stack.extend(self._children.get(found, ()))

    def children(self, number: int) -> list[int]:
        """Return what leans on a tensor directly."""
        return sorted(self._children.get(number, ()))

    def put(self, txn: WriteTransaction, number: int, before: bytes, after: TensorRecord, max_depth: int) -> None:
        """Put a tensor's new record in the place of its old one; its depth, and those above it, are worked out here.

        Args:
            txn: holds the write lock.
            number: the tensor.
            before: the record as it was when the change was made.
            after: the new one; its `depth` is not looked at.
            max_depth: the longest chain allowed.

        Raises:
            StaleError: the record has changed, or a reference is gone, or leans on this tensor by now.
            TooDeepError: something that leans on this tensor would be too deep.
        """
        self.refresh(txn)
        if txn.get("tensors", wire.sortable(number)) != before:
            raise StaleError
        depth, base = 0, after.base
        while base:
            depth += 1
            if base == number or depth > 256:
                raise StaleError
            data = txn.get("tensors", wire.sortable(base))
            if data is None:
                raise StaleError
            base = TensorRecord.from_bytes(data).base
        if depth > max_depth:
            raise TooDeepError(number)
        old = TensorRecord.from_bytes(before)
        changed: list[tuple[int, TensorRecord]] = []
        if depth != old.depth:
            places = {number: depth}
            for above in self.below(number):
                data = txn.get("tensors", wire.sortable(above))
                if data is None:
                    continue  # collected meanwhile
                record = TensorRecord.from_bytes(data)
                places[above] = places[record.base] + 1
                if places[above] > max_depth and places[above] > record.depth:
                    raise TooDeepError(above)
                changed.append((above, record._replace(depth=places[above])))
        for above, record in [(number, after._replace(depth=depth)), *changed]:
            txn.put("tensors", wire.sortable(above), record.to_bytes())
        if after.base != old.base:
            note_rebased(txn)
            self._count += 1
            self._children.get(old.base, set()).discard(number)
            self._enter(number, after.base)
