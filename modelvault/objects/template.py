"""What files of one shape share: the skeleton, and where tensors, checksums and the stem stand in it.

A template is a program that writes a file from front to back. Each event is preceded by a gap of skeleton bytes; no
position is absolute, so that a stem of another length shifts nothing. Files of one training run differ from their
template in a few bytes, or in none.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

from modelvault import wire
from modelvault.tensors import BY_CODE, DType

KIND = 7
VERSION = 1

_MAX_NAME = 1 << 16
_MAX_DIMS = 64


class EventKind(enum.IntEnum):
    """What stands between two gaps of the skeleton."""

    SEGMENT = 0  # the next segment: bytes of a slot
    STEM = 1  # the recipe's stem
    CHECKSUM = 2  # CRC-32 of a range that is closed already, little-endian
    OPEN = 3  # a checked range begins here; the first is number 0
    CLOSE = 4  # the open range ends here


class SegmentHint(NamedTuple):
    """One tensor's storage in the file: its length in bytes, which slot it takes them from, and what is known of it."""

    length: int
    slot: int
    dtype: DType
    shape: tuple[int, ...]
    name: str


class Template(NamedTuple):
    """A file's shape.

    Attributes:
        format: which parser understood it ("opaque" if none did).
        kinds: one `EventKind` a byte, in file order.
        gaps: skeleton bytes before each event; what is left of the skeleton follows the last one.
        segments: one for each SEGMENT event.
        checks: the range number of each CHECKSUM event.
        skeleton: every byte that no event writes.
    """

    format: str
    kinds: bytes
    gaps: tuple[int, ...]
    segments: tuple[SegmentHint, ...]
    checks: tuple[int, ...]
    skeleton: bytes

    @property
    def slots(self) -> int:
        """How many tensors fill it."""
        return max((segment.slot for segment in self.segments), default=-1) + 1

    def to_bytes(self) -> bytes:
        """Return the template's bytes, column by column so that they compress well; they are packed, then sealed."""
        out = wire.Writer()
        out.text(self.format)
        out.blob(self.kinds)
        for gap in self.gaps:
            out.uint(gap)
        for segment in self.segments:
            out.uint(segment.length)
        for segment in self.segments:
            out.uint(segment.slot)
        out.fixed(bytes(segment.dtype.code for segment in self.segments))
        for segment in self.segments:
            out.uint(len(segment.shape))
            for size in segment.shape:
                out.uint(size)
        for segment in self.segments:
            out.text(segment.name)
        previous = 0
        for check in self.checks:
            out.sint(check - previous)
            previous = check
        out.fixed(self.skeleton)
        return out.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Template:
        """Read a template's bytes and check that its program can run.

        Raises:
            WireError: not a template, or a program that reads a checksum before its range is closed, opens a range
                inside another, leaves one open, or has larger gaps than skeleton.
        """
        record = wire.Reader(data)
        form, kinds = record.text(_MAX_NAME), record.blob()
        if kinds and max(kinds) > max(EventKind):
            raise wire.WireError(f"unknown event kind {max(kinds)} in a template")
        gaps = tuple(record.uint() for _ in kinds)
        count = kinds.count(EventKind.SEGMENT)
        lengths = [record.uint() for _ in range(count)]
        slots = [record.uint(count) for _ in range(count)]
        codes = record.fixed(count)
        shapes = [tuple(record.uint() for _ in range(record.uint(_MAX_DIMS))) for _ in range(count)]
        names = [record.text(_MAX_NAME) for _ in range(count)]
        checks, previous = [], 0
        for _ in range(kinds.count(EventKind.CHECKSUM)):
            previous += record.sint()
            checks.append(previous)
        skeleton = record.rest()
        try:
            dtypes = [BY_CODE[code] for code in codes]
        except KeyError as error:
            raise wire.WireError(f"unknown dtype code {error.args[0]} in a template") from None
        template = cls(
            form,
            kinds,
            gaps,
            tuple(map(SegmentHint, lengths, slots, dtypes, shapes, names)),
            tuple(checks),
            skeleton,
        )
        template._check()
        return template

    def _check(self) -> None:
        if sum(self.gaps) > len(self.skeleton):
            raise wire.WireError("a template's gaps are longer than its skeleton")
        if set(range(self.slots)) != {segment.slot for segment in self.segments}:
            raise wire.WireError("a template leaves out a slot")
        opened = closed = 0
        checks = iter(self.checks)
        for kind in self.kinds:
            if kind == EventKind.OPEN:
                opened += 1
            elif kind == EventKind.CLOSE:
                closed += 1
            elif kind == EventKind.CHECKSUM and not 0 <= next(checks) < closed:
                raise wire.WireError("a template uses a checksum before its range is closed")
            if not closed <= opened <= closed + 1:
                raise wire.WireError("a template's checked ranges overlap")
        if opened != closed:
            raise wire.WireError("a template leaves a checked range open")
