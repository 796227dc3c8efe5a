"""How one file is rebuilt: which template, what differs from it, and which tensors fill its slots.

Recipes are replaceable encoding and part of no id; the file id under which a recipe is kept says what it must yield.
Tensor numbers are written as runs, since a commit's new tensors are numbered one after the other.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from modelvault import wire

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
        tensors: tensor numbers by slot.
    """

    size: int
    template: int
    patch: bytes
    stem: bytes
    tensors: tuple[int, ...]

    def to_bytes(self) -> bytes:
        """Return the sealed record."""
        out = wire.Writer()
        out.uint(self.size)
        out.uint(self.template)
        out.blob(self.patch)
        out.blob(self.stem)
        runs = list(_runs(self.tensors))
        out.uint(len(runs))
        for first, length in runs:
            out.uint(first)
            out.uint(length)
        return wire.seal(KIND, VERSION, out.getvalue())

    @classmethod
    def from_bytes(cls, data: bytes) -> Recipe:
        """Read a sealed record."""
        record = wire.Reader(wire.unseal(data, KIND, VERSION))
        size, template, patch, stem = record.uint(), record.uint(), record.blob(), record.blob()
        tensors: list[int] = []
        for _ in range(record.count(2)):
            first, length = record.uint(), record.uint()
            # Every tensor of a file holds at least one byte of it.
            if len(tensors) + length > min(size, MAX_TENSORS):
                raise wire.WireError(f"a recipe names more tensors than a file of {size} bytes can have")
            tensors.extend(range(first, first + length))
        record.end()
        return cls(size, template, patch, stem, tuple(tensors))


def _runs(numbers: Iterable[int]) -> Iterable[tuple[int, int]]:
    """Yield (first, length) of every run of consecutive numbers.

    >>> list(_runs([4, 5, 6, 2, 9, 10]))
    [(4, 3), (2, 1), (9, 2)]
    """
    first = length = 0
    for number in numbers:
        if length and number == first + length:
            length += 1
        else:
            if length:
                yield first, length
            first, length = number, 1
    if length:
        yield first, length
