"""A file whose floats are rounded within a bound: what a lossy commit keeps in the place of the original.

It has the original's format, size and names, and differs in numbers and in the checksums that the container keeps of
them, so whatever reads the one reads the other. What is rounded is decided tensor by tensor: weights of two dimensions
and more; integers and every other part are exact. Tensors of one dimension (biases, norms and their running statistics)
are exact too, or keep a relative bound of their own, since a step that is small for a weight can be larger than the
variance that a norm divides by. Optimizer state is exact, or keeps a bound in units of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from modelvault import codec
from modelvault.checkpoint import Source, part_of
from modelvault.codec import Bound, step_exponent
from modelvault.errors import UsageError
from modelvault.objects.template import SegmentHint, Template
from modelvault.repository.assemble import assemble, segment_places
from modelvault.repository.cuts import OPAQUE
from modelvault.repository.dissect import read_exactly
from modelvault.repository.proposal import Proposal
from modelvault.tensors import CHUNK_BYTES, DType

__all__ = [
    "Anchor",
    "Bound",
    "Measured",
    "Rounding",
    "hold",
    "is_rounded",
    "round_weights",
    "step_exponent",
    "write_stand_in",
]

Progress = Callable[[int], None]

Anchor = Callable[[SegmentHint], tuple[Source, int] | None]
"""Gives the same tensor in the file that came before, and where it begins there; None if there is no such tensor."""

_SECOND_MOMENTS = ("exp_avg_sq", "max_exp_avg_sq")
_FIRST_MOMENTS = {"exp_avg": "exp_avg_sq"}
_IN_UNITS_OF_THEIR_OWN = ("momentum_buffer",)


@dataclass(frozen=True, slots=True)
class Rounding:
    """How to round.

    Attributes:
        eps: the bound, greater than 0 and at most 1.
        bound: what it is measured by.
        vectors: the relative bound of one-dimensional tensors, besides the other one; 0 keeps them exactly.
        optimizer: what share of its unit a number of the optimizer's state may differ by; 0 keeps it exactly. The unit
            of a second moment is its own magnitude, that of a first one the root of the second, that of a momentum
            buffer the root of its mean square.
        proposal: what to take for weights in place of what rounding gives; those it does not know stay exact.
    """

    eps: float
    bound: Bound = Bound.ABS
    vectors: float = 0.0
    optimizer: float = 0.0
    proposal: Proposal | None = None

    def check(self) -> None:
        """Check the numbers.

        Raises:
            UsageError: one makes no sense.
        """
        if not 0 < self.eps <= 1:
            raise UsageError(f"a bound of {self.eps:g} makes no sense", hint="0 < EPS <= 1, such as 0.001")
        if not 0 <= self.vectors <= 1:
            raise UsageError(f"a relative bound of {self.vectors:g} makes no sense", hint="0 keeps vectors exact")
        if not 0 <= self.optimizer <= 1:
            raise UsageError(
                f"a share of {self.optimizer:g} makes no sense", hint="0 keeps the optimizer's state exact"
            )
        if self.proposal is not None and self.bound is Bound.PAPER:
            raise UsageError("the paper's formula leaves nothing to choose", hint="--bound abs has the same bound")

    def bounds(self, dimensions: int) -> dict[Bound, float]:
        """Return the bounds of weights in a tensor of so many dimensions; none where they stay exact."""
        if dimensions > 1:
            return {self.bound: self.eps}
        if not self.vectors:
            return {}
        if self.bound is Bound.REL:
            return {Bound.REL: min(self.vectors, self.eps)}
        return {Bound.ABS: self.eps, Bound.REL: self.vectors}


@dataclass(slots=True)
class Measured:
    """What rounding did, added up over files: largest differences, and how many numbers are not as they were.

    The differences are those of numbers that the bound holds for: optimizer state has units of its own.
    """

    max_abs: float = 0.0
    max_rel: float = 0.0
    changed: int = 0
    proposed: int = 0  # tensors that something was proposed for

    def add(self, other: codec.Rounded | Measured) -> None:
        """Take in what was measured elsewhere."""
        self.max_abs = max(self.max_abs, other.max_abs)
        self.max_rel = max(self.max_rel, other.max_rel)
        self.changed += other.changed
        if isinstance(other, Measured):
            self.proposed += other.proposed


def write_stand_in(
    source: Source,
    template: Template,
    stem: bytes,
    rounding: Rounding,
    out: BinaryIO,
    progress: Progress | None = None,
    anchor: Anchor | None = None,
) -> Measured:
    """Write the stand-in of a file.

    Args:
        source: the file.
        template: its template, from its dissection.
        stem: its stem.
        rounding: how to round.
        out: where the stand-in goes.
        progress: told how many bytes were written.
        anchor: gives what `Bound.PAPER` counts its multiples from.

    Raises:
        FileChangedError: the file became shorter meanwhile.
    """
    places = list(segment_places(template, stem))
    measured = Measured()
    state = _OptimizerState(source, places, rounding)

    def fill(number: int) -> Iterator[bytes]:
        segment, offset = places[number]
        for start in range(offset, offset + segment.length, CHUNK_BYTES):
            raw = read_exactly(source, start, min(CHUNK_BYTES, offset + segment.length - start))
            if part_of(segment.name) == "optimizer":
                rounded = state.rounded(raw, segment, start, offset)
                measured.changed += rounded.changed if rounded is not None else 0
            else:
                rounded = _rounded(raw, segment, rounding, anchor, start - offset)
                if rounded is not None:
                    measured.add(rounded)
                    measured.proposed += rounding.proposal is not None and start == offset
            yield raw if rounded is None else rounded.raw

    for data in assemble(template, stem, fill):
        out.write(data)
        if progress is not None:
            progress(len(data))
    return measured


def is_rounded(segment: SegmentHint, rounding: Rounding) -> bool:
    """Return whether any of a weight tensor's numbers may change."""
    if segment.name.startswith(OPAQUE) or part_of(segment.name) != "weights" or not codec.is_roundable(segment.dtype):
        return False
    return len(segment.shape) > 1 or rounding.vectors > 0


def _rounded(
    raw: bytes, segment: SegmentHint, rounding: Rounding, anchor: Anchor | None, position: int
) -> codec.Rounded | None:
    if not is_rounded(segment, rounding):
        return None
    if rounding.proposal is not None:
        return _taken(raw, segment, rounding, rounding.proposal, position)
    if len(segment.shape) > 1:
        before = anchor(segment) if anchor is not None and rounding.bound is Bound.PAPER else None
        if before is not None:
            source, offset = before
            return codec.anchored(raw, read_exactly(source, offset + position, len(raw)), segment.dtype, rounding.eps)
    return _nearest(raw, segment.dtype, len(segment.shape), rounding)


def _nearest(raw: bytes, dtype: DType, dimensions: int, rounding: Rounding) -> codec.Rounded:
    if dimensions > 1:
        return codec.round_elements(raw, dtype, rounding.bound, rounding.eps)
    if rounding.bound is Bound.REL:
        return codec.round_elements(raw, dtype, Bound.REL, min(rounding.vectors, rounding.eps))
    return codec.round_within_both(raw, dtype, rounding.eps, rounding.vectors)


def round_weights(raw: bytes, dtype: DType, dimensions: int, rounding: Rounding) -> bytes:
    """Return the numbers of a tensor of weights as a stand-in has them where nothing else is proposed."""
    return _nearest(raw, dtype, dimensions, rounding).raw if rounding.bounds(dimensions) else raw


def hold(raw: bytes, proposed: bytes, dtype: DType, dimensions: int, rounding: Rounding) -> bytes:
    """Return proposed numbers wherever the bounds hold for them, and those that there are elsewhere."""
    return codec.hold(raw, proposed, dtype, rounding.bounds(dimensions)).raw


def _taken(
    raw: bytes, segment: SegmentHint, rounding: Rounding, proposal: Proposal, position: int
) -> codec.Rounded | None:
    found = proposal.find(segment.name)
    if found is None or found.original[position : position + len(raw)] != raw:
        return None
    new = found.new[position : position + len(raw)]
    return codec.hold(raw, new, segment.dtype, rounding.bounds(len(segment.shape)))


class _OptimizerState:
    """Rounds what an optimizer remembers, each kind of it in units of its own; kinds that are not known stay exact."""

    def __init__(self, source: Source, places: list[tuple[SegmentHint, int]], rounding: Rounding) -> None:
        self._source, self._share = source, rounding.optimizer
        self._places = {segment.name: (segment, offset) for segment, offset in places}
        self._units: dict[int, float] = {}  # offset of a tensor -> root mean square

    def rounded(self, raw: bytes, segment: SegmentHint, start: int, offset: int) -> codec.Rounded | None:
        """Round what stands at `start` in the file, in the tensor that begins at `offset`; None if it stays exact."""
        owner, _, kind = segment.name.rpartition(".")
        if not self._share or not codec.is_roundable(segment.dtype):
            return None
        if kind in _SECOND_MOMENTS:
            return codec.round_elements(raw, segment.dtype, Bound.REL, self._share)
        if kind in _FIRST_MOMENTS:
            other, at = self._places.get(f"{owner}.{_FIRST_MOMENTS[kind]}", (None, 0))
            if other is None or (other.dtype, other.length) != (segment.dtype, segment.length):
                return None
            second = read_exactly(self._source, at + start - offset, len(raw))
            return codec.round_moment(raw, second, segment.dtype, self._share)
        if kind in _IN_UNITS_OF_THEIR_OWN:
            unit = self._unit(segment, offset)
            return codec.round_in_units(raw, segment.dtype, unit, self._share)
        return None

    def _unit(self, segment: SegmentHint, offset: int) -> float:
        if offset not in self._units:
            total = 0.0
            for start in range(offset, offset + segment.length, CHUNK_BYTES):
                size = min(CHUNK_BYTES, offset + segment.length - start)
                total += codec.sum_of_squares(read_exactly(self._source, start, size), segment.dtype)
            count = max(1, segment.length // codec.word_bytes(segment.dtype))
            self._units[offset] = math.sqrt(total / count)
        return self._units[offset]
