"""How one file is rebuilt: which template, what differs from it, and which tensors fill its slots.

Recipes are replaceable encoding and part of no id; the file id under which a recipe is kept says what it must yield.
Tensor numbers are written as runs, since a commit's new tensors are numbered one after the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from modelvault import wire
from modelvault.ids import FileId

PARTS = ("weights", "optimizer", "other")
"""The parts of a file by their codes: the classes of tensors that have a retention of their own."""

KIND = 3
VERSION = 1

MAX_TENSORS = 1 << 22
"""Most tensors of one file: 4 TiB of opaque chunks. A run of a few bytes must not make a reader allocate more."""


class Recipe(NamedTuple):
    """The recipe of one file.

    Attributes:
        size: length of the file in bytes.
        template: number of the template it leans on.
        patch: what turns that template's bytes into this file's own, or b"" when they are the same.
        stem: the text to put where the template says "stem".
        tensors: tensor numbers by slot; 0 where the bytes were given up with their part.
        parts: the part of each slot, one code a byte (`PARTS`).
    """

    size: int
    template: int
    patch: bytes
    stem: bytes
    tensors: tuple[int, ...]
    parts: bytes

    @property
    def is_whole(self) -> bool:
        """Whether no part of it was given up."""
        return 0 not in self.tensors

    def to_bytes(self, file_id: FileId) -> bytes:
        """Return the record, sealed with the id of the file it yields."""
        out = wire.Writer()
        out.uint(self.size)
        out.uint(self.template)
        out.blob(self.patch)
        out.blob(self.stem)
        runs = list(_runs(self.tensors, self.parts))
        out.uint(len(runs))
        for first, length, part in runs:
            out.uint(first)
            out.uint(length)
            out.uint(part)
        return wire.seal(KIND, VERSION, out.getvalue(), file_id)

    @classmethod
    def from_bytes(cls, data: bytes, file_id: bytes) -> Recipe:
        """Read the record sealed with this file id."""
        record = wire.Reader(wire.unseal(data, KIND, VERSION, file_id))
        size, template, patch, stem = record.uint(), record.uint(), record.blob(), record.blob()
        tensors: list[int] = []
        parts = bytearray()
        for _ in range(record.count(3)):
            first, length, part = record.uint(), record.uint(), record.uint(len(PARTS) - 1)
            # Every tensor of a file holds at least one byte of it.
            if len(tensors) + length > min(size, MAX_TENSORS):
                raise wire.WireError(f"a recipe names more tensors than a file of {size} bytes can have")
            tensors.extend(range(first, first + length) if first else [0] * length)
            parts += bytes((part,)) * length
        record.end()
        return cls(size, template, patch, stem, tuple(tensors), bytes(parts))


def _runs(numbers: Sequence[int], parts: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield (first, length, part) of every run of consecutive numbers, or of zeros, of one part.

    >>> list(_runs([4, 5, 6, 2, 0, 0], bytes([0, 0, 1, 1, 1, 1])))
    [(4, 2, 0), (6, 1, 1), (2, 1, 1), (0, 2, 1)]
    """
    first = length = run_part = 0
    for number, part in zip(numbers, parts, strict=True):
        follows = number == (first + length if first else 0)
        if length and follows and part == run_part:
            length += 1
        else:
            if length:
                yield first, length, run_part
            first, length, run_part = number, 1, part
    if length:
        yield first, length, run_part
