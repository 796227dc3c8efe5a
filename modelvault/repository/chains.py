"""Which tensor leans on which, and changing that: under the write lock, with every depth put right at once.

Others write too: commits add tensors, a gc codes some anew. Table `stats` counts the changes of bases, so whoever holds
a picture of all chains knows whether it is still true. Light: records are read, no chunk is decoded.
"""

from __future__ import annotations

from collections.abc import Mapping

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
        self.references: dict[int, tuple[int, ...]] = {}
        self._children: dict[int, set[int]] = {}

    def refresh(self, txn: ReadTransaction) -> None:
        """Read what was added; read everything if anybody else changed a base."""
        count = _count(txn)
        if count != self._count:
            self._count, self._next = count, 1
            self.references, self._children = {}, {}
        for key, value in txn.scan("tensors", start=wire.sortable(self._next)):
            self._enter(wire.read_sortable(key), TensorRecord.from_bytes(value).references)
        self._next = next_number(txn, "tensors")

    def _enter(self, number: int, references: tuple[int, ...]) -> None:
        self.references[number] = references
        for reference in references:
            self._children.setdefault(reference, set()).add(number)

    def below(self, number: int) -> list[int]:
        """Return what leans on a tensor, each after all of these that it leans on itself."""
        found: list[int] = []
        entered = {number}
        stack = [(number, iter(self.children(number)))]
        while stack:
            at, rest = stack[-1]
            child = next(rest, None)
            if child is None:
                stack.pop()
                found.append(at)
            elif child not in entered:
                entered.add(child)
                stack.append((child, iter(self.children(child))))
        return found[-2::-1]

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
        depth = _depth(txn, number, after.references)
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
                places[above] = 1 + max(
                    places[one] if one in places else _stated_depth(txn, one) for one in record.references
                )
                if places[above] > max_depth and places[above] > record.depth:
                    raise TooDeepError(above)
                changed.append((above, record._replace(depth=places[above])))
        for above, record in [(number, after._replace(depth=depth)), *changed]:
            txn.put("tensors", wire.sortable(above), record.to_bytes())
        if after.references != old.references:
            note_rebased(txn)
            self._count += 1
            for reference in old.references:
                self._children.get(reference, set()).discard(number)
            self._enter(number, after.references)


def _stated_depth(txn: ReadTransaction, number: int) -> int:
    """Return the depth that a tensor's record states.

    Raises:
        StaleError: it is gone.
    """
    data = txn.get("tensors", wire.sortable(number))
    if data is None:
        raise StaleError
    return TensorRecord.from_bytes(data).depth


def _depth(txn: ReadTransaction, number: int, references: tuple[int, ...]) -> int:
    """Return the depth of a tensor that leans on these.

    Raises:
        StaleError: something that it would lean on is gone, leans on it by now, or is in a chain that does not end.
    """
    depths: dict[int, int] = {}

    def visit(one: int, path: int) -> int:
        if one not in depths:
            data = txn.get("tensors", wire.sortable(one))
            if data is None or one == number or path > 256:
                raise StaleError
            further = TensorRecord.from_bytes(data).references
            depths[one] = 1 + max((visit(other, path + 1) for other in further), default=-1)
        return depths[one]

    return 1 + max((visit(one, 1) for one in references), default=-1)


def depths_of(references: Mapping[int, tuple[int, ...]]) -> dict[int, int]:
    """Return the depths of tensors that lean so on one another; what never ends is as deep as there are tensors."""
    left = {number: len(behind) for number, behind in references.items()}
    above: dict[int, list[int]] = {}
    for number, behind in references.items():
        for one in behind:
            above.setdefault(one, []).append(number)
    depths = dict.fromkeys(references, 0)
    ready = [number for number, count in left.items() if not count]
    ready += [number for number in above if number not in left]  # damaged: fsck's to report
    while ready:
        one = ready.pop()
        for number in above.get(one, ()):
            depths[number] = max(depths[number], depths.get(one, 0) + 1)
            left[number] -= 1
            if not left[number]:
                ready.append(number)
    return depths | {number: len(left) for number, count in left.items() if count}


def too_deep(references: Mapping[int, tuple[int, ...]], limit: Mapping[int, int]) -> set[int]:
    """Return the tensors that are deeper than they may be, and all that these lean on."""
    todo = [number for number, depth in depths_of(references).items() if depth > limit[number]]
    found = set(todo)
    while todo:
        for one in references.get(todo.pop(), ()):
            if one not in found:
                found.add(one)
                todo.append(one)
    return found
