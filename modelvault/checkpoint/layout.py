"""How a file is laid out: which byte ranges are tensors, and what else can be derived.

A layout is a set of hints. Any disjoint, in-bounds segments make an exact round trip, so a parser that is
wrong or lied to costs ratio and never bytes. `checked` enforces the little that exactness, and a caller that
streams the file once from front to back, can rely on.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import Protocol

from modelvault.tensors import DType

MAX_SEGMENTS = 250_000
MAX_NAME = 256
"""Characters of a name: real ones stay below 200, and a hostile file must not grow its layout with them."""
_MAX_NOTES = 32


class Source(Protocol):
    """A file being read at random positions, never whole."""

    @property
    def size(self) -> int:
        """Length in bytes."""

    def read(self, offset: int, length: int) -> bytes:
        """Return `length` bytes at `offset`, fewer only at the end of the file."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A byte range that holds one tensor's storage, with what is known of it.

    `shape` multiplies to the number of elements, or is `(length // dtype.size,)` where nothing better is
    known. `name` is the first name under which the file refers to it ("" if it has none); it can be encoded
    as UTF-8.
    """

    offset: int
    length: int
    dtype: DType
    shape: tuple[int, ...]
    name: str


@dataclass(frozen=True, slots=True)
class Checksum:
    """Four bytes at `position` that ought to be the CRC-32 (little-endian) of the `length` bytes at `start`.

    It is a candidate: the file's own copies of the checksum agree with each other, the data was not read.
    Whoever wants to derive the four bytes computes the CRC while streaming the file and compares first.
    """

    position: int
    start: int
    length: int


@dataclass(frozen=True, slots=True)
class Layout:
    """The layout of one file.

    Attributes:
        format: what the file is; the names are listed in the specification. Where a file keeps its tensors in a way
            that cannot be predicted, brackets say so: "torch-zip (deflated)". "opaque" has no segments.
        size: length of the file in bytes.
        segments: in file order, disjoint, none empty.
        checksums: candidates in file order of `position`; each position lies after its range. A segment lies
            within a range or outside it; different ranges are disjoint, so one CRC runs at a time.
        stem: the text that the container repeats (a torch archive's root name), or b"".
        stem_positions: where it stands, read and compared, in file order.
        notes: what a curious user might want to know (why something stayed opaque), one line each.

    Segments, positions of checksums and of the stem never overlap, and no position lies in a range.
    """

    format: str
    size: int
    segments: tuple[Segment, ...] = ()
    checksums: tuple[Checksum, ...] = ()
    stem: bytes = b""
    stem_positions: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()


def opaque(size: int, *notes: str) -> Layout:
    """Return the layout of a file of which nothing is known."""
    return Layout("opaque", size, notes=notes)


def understood_share(layout: Layout) -> float:
    """Return the share of the file's bytes that lie in segments whose dtype is known.

    >>> understood_share(Layout("torch-zip", 100, (Segment(10, 80, DType.F32, (20,), "weight"),)))
    0.8
    """
    known = sum(segment.length for segment in layout.segments if segment.dtype is not DType.BYTES)
    return known / layout.size if layout.size else 0.0


_RANGE, _SEGMENT, _CHECKSUM, _STEM = range(4)  # at one offset a range comes before the segment it begins with


def checked(layout: Layout) -> Layout:
    """Return the layout without whatever breaks a promise of `Layout`, and a note on what was dropped.

    One sweep in file order over everything that claims bytes: a claim that starts before the last one kept
    ends, or leaves the file, is dropped; so is what crosses the end of a checksum's range. A checksum stands
    after its range, so the fate of the range is known when it comes up.
    """
    if len(layout.segments) > MAX_SEGMENTS:
        return opaque(layout.size, *layout.notes, f"more than {MAX_SEGMENTS} segments")

    ranges = {(checksum.start, checksum.length) for checksum in layout.checksums}
    claims = [(start, _RANGE, start + length, 0) for start, length in ranges]
    claims += [(s.offset, _SEGMENT, s.offset + s.length, i) for i, s in enumerate(layout.segments)]
    claims += [(c.position, _CHECKSUM, c.position + 4, i) for i, c in enumerate(layout.checksums)]
    if layout.stem:
        claims += [(at, _STEM, at + len(layout.stem), 0) for at in layout.stem_positions]
    claims.sort()

    segments: list[Segment] = []
    checksums: list[Checksum] = []
    stem_positions: list[int] = []
    kept: set[tuple[int, int]] = set()
    dropped = [0, 0, 0, 0]
    reach = 0  # where the last claim kept ends
    range_end = 0  # where the last range kept ends
    for start, kind, end, index in claims:
        inside = start < range_end
        if not reach <= start < end <= (range_end if inside else layout.size) or (inside and kind != _SEGMENT):
            dropped[kind] += 1
            continue
        if kind == _RANGE:
            kept.add((start, end - start))
            range_end = end
            continue  # what lies in it may claim its bytes
        if kind == _SEGMENT:
            segments.append(_sound(layout.segments[index]))
        elif kind == _CHECKSUM:
            checksum = layout.checksums[index]
            if checksum.start + checksum.length > start or (checksum.start, checksum.length) not in kept:
                dropped[_CHECKSUM] += 1
                continue
            checksums.append(checksum)
        else:
            stem_positions.append(start)
        reach = end

    notes = list(layout.notes)
    for kind, what in ((_SEGMENT, "segments"), (_CHECKSUM, "checksums"), (_STEM, "stem positions")):
        if dropped[kind]:
            notes.append(f"dropped {dropped[kind]} {what} that overlap or leave the file")
    if len(notes) > _MAX_NOTES:
        notes[_MAX_NOTES - 1 :] = [f"{len(notes) - _MAX_NOTES + 1} further notes"]
    return replace(
        layout,
        segments=tuple(segments),
        checksums=tuple(checksums),
        stem=layout.stem if stem_positions else b"",
        stem_positions=tuple(stem_positions),
        notes=tuple(_one_line(note) for note in notes),
    )


def clean_text(text: str) -> str:
    """Return `text` cut to `MAX_NAME` characters and without lone surrogates, which UTF-8 cannot hold.

    >>> clean_text("layer" + chr(0xD800))
    'layer?'
    """
    text = text[:MAX_NAME]
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def _one_line(note: str) -> str:
    """Return a note fit to be shown: names from a hostile file may hold line breaks and terminal codes."""
    note = clean_text(note)
    return note if note.isprintable() else "".join(char if char.isprintable() else "?" for char in note)


def _sound(segment: Segment) -> Segment:
    """Return the segment with a dtype and a shape that fit its length."""
    dtype, shape = segment.dtype, segment.shape
    if segment.length % dtype.size:
        dtype, shape = DType.BYTES, (segment.length,)
    elif len(shape) > 64 or min(shape, default=1) < 1 or prod(shape) * dtype.size != segment.length:
        shape = (segment.length // dtype.size,)
    name = clean_text(segment.name)
    if dtype is segment.dtype and shape == segment.shape and name == segment.name:
        return segment
    return replace(segment, dtype=dtype, shape=shape, name=name)
