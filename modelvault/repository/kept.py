"""How live tensors are kept at one moment, and what the versions take that they make up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from modelvault.objects.tensor import TensorRecord
from modelvault.repository.versions import Version


class State(NamedTuple):
    """How live tensors are kept.

    Attributes:
        nbytes: bytes of their frames.
        depth_max: the longest chain.
        depth_mean: over all live tensors.
        work_max: the most work units of a chain of a version.
        work_mean: over all versions.
    """

    nbytes: int
    depth_max: int
    depth_mean: float
    work_max: int
    work_mean: float

    @classmethod
    def of(cls, nbytes: int, depths: Sequence[int], works: Sequence[int]) -> State:
        """Return the state of so many bytes, and of what is known of each tensor and of each version."""
        return cls(
            nbytes,
            max(depths, default=0),
            sum(depths) / max(1, len(depths)),
            max(works, default=0),
            sum(works) / max(1, len(works)),
        )


class Kept:
    """Records of all live tensors, and versions, whose places are their numbers; at 0 of these stands nothing.

    Attributes:
        records: by the tensors' numbers.
        versions: what is planned as one.
    """

    def __init__(self, records: dict[int, TensorRecord], versions: list[Version]) -> None:
        self.records, self.versions = records, versions

    @property
    def stored_bytes(self) -> int:
        """Bytes of the frames of all tensors."""
        return sum(record.stored_bytes for record in self.records.values())

    def stored(self, number: int) -> int:
        """Return the bytes of a version's frames."""
        return sum(self.records[tensor].stored_bytes for tensor in self.versions[number].tensors)

    def depth(self, number: int) -> int:
        """Return the longest chain of a version."""
        return max(self.records[tensor].depth for tensor in self.versions[number].tensors)

    def shape(self, number: int) -> list[int]:
        """Return the lengths of a version's tensors."""
        return [self.records[tensor].nbytes for tensor in self.versions[number].tensors]

    def has_more(self, number: int, planned: int) -> bool:
        """Whether any tensor of a version leans on more than was planned: what `refine` found."""
        return any(len(self.records[tensor].references) > planned for tensor in self.versions[number].tensors)

    def work(self, number: int) -> int:
        """Return the work units that it takes to decode a version."""
        return sum(record.nbytes + record.stored_bytes for record in self._needed(number))

    def decoded(self, number: int) -> int:
        """Return the bytes that are decoded for a version."""
        return sum(record.nbytes for record in self._needed(number))

    def references(self, tensors: Mapping[int, object]) -> dict[int, tuple[int, ...]]:
        """Return what some tensors lean on."""
        return {number: self.records[number].references for number in tensors}

    def state(self) -> State:
        """Return what all of it comes to."""
        depths = [record.depth for record in self.records.values()]
        return State.of(self.stored_bytes, depths, [self.work(number) for number in range(1, len(self.versions))])

    def _needed(self, number: int) -> Iterator[TensorRecord]:
        """Yield what must be decoded for each tensor of a version, itself included."""
        for tensor in self.versions[number].tensors:
            needed, todo = {tensor}, [tensor]
            while todo:
                record = self.records.get(todo.pop())
                if record is None:
                    continue
                yield record
                todo.extend(one for one in record.references if one not in needed)
                needed.update(record.references)
