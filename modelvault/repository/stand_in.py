"""A file whose floats are rounded within a bound: what a lossy commit keeps in the place of the original.

It has the original's format, size and names, and differs in numbers and in the checksums that the container keeps of
them, so whatever reads the one reads the other. What is rounded is decided tensor by tensor: weights of two dimensions
and more; optimizer state, integers and every other part are exact; tensors of one dimension (biases, norms and their
running statistics) are exact too, or keep a relative bound of their own, since a step that is small for a weight can be
larger than the variance that a norm divides by.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from modelvault import codec
from modelvault.checkpoint import Source, part_of
from modelvault.codec import Bound
from modelvault.errors import UsageError
from modelvault.objects.template import SegmentHint, Template
from modelvault.repository.assemble import assemble, segment_places
from modelvault.repository.cuts import OPAQUE
from modelvault.repository.dissect import read_exactly
from modelvault.tensors import CHUNK_BYTES

Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Rounding:
    """How to round.

    Attributes:
        eps: the bound, greater than 0 and at most 1.
        bound: what it is measured by.
        vectors: the relative bound of one-dimensional tensors, besides the other one; 0 keeps them exactly.
    """

    eps: float
    bound: Bound = Bound.ABS
    vectors: float = 0.0

    def check(self) -> None:
        """Check the numbers.

        Raises:
            UsageError: one makes no sense.
        """
        if not 0 < self.eps <= 1:
            raise UsageError(f"a bound of {self.eps:g} makes no sense", hint="0 < EPS <= 1, such as 0.001")
        if not 0 <= self.vectors <= 1:
            raise UsageError(f"a relative bound of {self.vectors:g} makes no sense", hint="0 keeps vectors exact")


@dataclass(slots=True)
class Measured:
    """What rounding did, added up over files: largest differences, and how many numbers are not as they were."""

    max_abs: float = 0.0
    max_rel: float = 0.0
    changed: int = 0

    def add(self, other: codec.Rounded | Measured) -> None:
        """Take in what was measured elsewhere."""
        self.max_abs = max(self.max_abs, other.max_abs)
        self.max_rel = max(self.max_rel, other.max_rel)
        self.changed += other.changed


def write_stand_in(
    source: Source, template: Template, stem: bytes, rounding: Rounding, out: BinaryIO, progress: Progress | None = None
) -> Measured:
    """Write the stand-in of a file.

    Args:
        source: the file.
        template: its template, from its dissection.
        stem: its stem.
        rounding: how to round.
        out: where the stand-in goes.
        progress: told how many bytes were written.

    Raises:
        FileChangedError: the file became shorter meanwhile.
    """
    places = list(segment_places(template, stem))
    measured = Measured()

    def fill(number: int) -> Iterator[bytes]:
        segment, offset = places[number]
        for start in range(offset, offset + segment.length, CHUNK_BYTES):
            raw = read_exactly(source, start, min(CHUNK_BYTES, offset + segment.length - start))
            rounded = _rounded(raw, segment, rounding)
            if rounded is None:
                yield raw
            else:
                measured.add(rounded)
                yield rounded.raw

    for data in assemble(template, stem, fill):
        out.write(data)
        if progress is not None:
            progress(len(data))
    return measured


def is_rounded(segment: SegmentHint, rounding: Rounding) -> bool:
    """Return whether any of a tensor's numbers may change."""
    if segment.name.startswith(OPAQUE) or part_of(segment.name) != "weights" or not codec.is_roundable(segment.dtype):
        return False
    return len(segment.shape) > 1 or rounding.vectors > 0


def _rounded(raw: bytes, segment: SegmentHint, rounding: Rounding) -> codec.Rounded | None:
    if not is_rounded(segment, rounding):
        return None
    if len(segment.shape) > 1:
        return codec.round_elements(raw, segment.dtype, rounding.bound, rounding.eps)
    if rounding.bound is Bound.REL:
        return codec.round_elements(raw, segment.dtype, Bound.REL, min(rounding.vectors, rounding.eps))
    return codec.round_within_both(raw, segment.dtype, rounding.eps, rounding.vectors)
