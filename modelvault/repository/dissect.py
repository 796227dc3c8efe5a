"""A file cut into template, stem and slots: the first pass of a commit.

The file is read once from front to back, in pieces: its SHA-256, the id of every slot and the checksums that the
format repeats all come from that one reading. What the parsers said is only where to cut; every byte ends up either in
a slot or in the skeleton, and the template is run at once to see that the skeleton yields the file's own bytes.
"""

from __future__ import annotations

import bisect
import contextlib
import itertools
import math
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from modelvault import codec, ids
from modelvault.checkpoint import Layout, Part, Source, checked, part_of, read_layout
from modelvault.crc import crc32
from modelvault.errors import FileChangedError
from modelvault.ids import FileId, Hasher, TensorId
from modelvault.objects.template import EventKind, SegmentHint, Template
from modelvault.repository.assemble import assemble_piecewise
from modelvault.repository.cuts import OPAQUE, Pieces, cut_stretch
from modelvault.repository.threads import Aside, thread_count
from modelvault.tensors import CHUNK_BYTES, DType

GROUP_LIMIT = 16 << 10
"""Segments shorter than this share a slot with others of their part and dtype. One id, one record and one index entry
each would cost a 3.7 MB network (296 storages, 265 of them shorter) 16 KB a commit instead of 1.6 KB. A group has no
rows and one set of predictors: with a limit of 64 KiB its ten snapshots take 21.0 MB, with this one 20.7."""

OPAQUE_RUN = 256 << 10
"""Skeleton without an event for this long becomes opaque slots of up to one chunk. Shorter runs stay in the template,
where a patch finds what has moved."""

MAX_SKELETON = 32 << 20
"""A file whose skeleton is longer is opaque as a whole: templates are held in memory."""

_SMALL_WINDOW = 64 << 10
"""Pieces shorter than this are read several at a time. ShuffleNet's file, 3.7 MB, is put together from 3,000 of them: a
commit of it takes 0.077 s in place of 0.097, in turn."""

WINDOW_BYTES = 4 << 20
"""So much is read at a time, and goes to SHA-256 in one call. By the chunk, commits of 91 MB take 1.03 times as long on
one processor (means of depths 1 to 4, 0.251 and 0.244 s)."""

_UNHASHED_BYTES = 96 << 20
"""What is read before its SHA-256 is computed: meanwhile tensors are encoded already. Commits in two threads, seconds
(means of depths 1 to 4, in turn): of 91 MB with 40 MiB 0.164, 64 MiB 0.158, 96 MiB 0.156 (4 MiB took 1.05 times what
40 take); of 272 MB 0.607, 0.570 and 0.559. On one processor the caller computes it, in 0.98 of the time that a thread
takes."""

Progress = Callable[[int], None]

_Hashing = Callable[[bytes], Future[object]]


class Slot(NamedTuple):
    """What fills one slot of a file's template.

    Attributes:
        name: the tensor's name, or the group's.
        part: the class of tensors it belongs to.
        dtype: what its elements are, as far as known.
        row: words of a row, if it is one tensor of several rows; else 0.
        nbytes: length in bytes.
        ranges: (offset, length) of its pieces in the file, in slot order.
        starts: where each piece begins in the slot.
        tensor_id: digest of its bytes.
        rows: words of a row of each piece, 0 where it is one row.
    """

    name: str
    part: Part
    dtype: DType
    row: int
    nbytes: int
    ranges: tuple[tuple[int, int], ...]
    starts: tuple[int, ...]
    tensor_id: TensorId
    rows: tuple[int, ...] = ()

    def runs(self, start: int, stop: int) -> list[codec.Run]:
        """Return the pieces of a group between two of its bytes; none if it is no group."""
        if len(self.rows) < 2:
            return []
        word = codec.word_bytes(self.dtype)
        found = []
        for begin, end, row in zip(self.starts, (*self.starts[1:], self.nbytes), self.rows, strict=True):
            first, last = max(begin, start), min(end, stop)
            if first < last:
                found.append(codec.Run((last - first) // word, row, (first - begin) // word))
        return found if sum(run.words for run in found) * word == stop - start else []


@dataclass(frozen=True, slots=True)
class Dissection:
    """One file, cut up.

    Attributes:
        hashed: SHA-256 of the file, which may still be computed.
        size: its length in bytes.
        template: its shape and skeleton.
        stem: the text that the template's stem events write.
        slots: what fills the template's slots.
        understood: bytes that lie in tensors whose dtype is known.
        notes: what the parsers had to say.
    """

    hashed: Future[FileId]
    size: int
    template: Template
    stem: bytes
    slots: tuple[Slot, ...]
    understood: int
    notes: tuple[str, ...]

    @property
    def file_id(self) -> FileId:
        """SHA-256 of the file. Whoever asks waits until it is there."""
        return self.hashed.result()


@dataclass(slots=True)
class _OpenSlot:
    name: str
    part: Part
    dtype: DType
    hasher: Hasher = field(default_factory=ids.tensor_hasher)
    ranges: list[tuple[int, int]] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)


class _Piece(NamedTuple):
    """A stretch of the file: one segment, or skeleton between two of them (segment None)."""

    offset: int
    length: int
    hint: SegmentHint | None


def dissect(source: Source, progress: Progress | None = None, earlier: Pieces = ()) -> Dissection:
    """Read a file through and cut it up.

    Args:
        earlier: how the unknown stretches of a file of this size were cut that this one may be a later state of.

    Raises:
        FileChangedError: it became shorter while it was read.
    """
    layout = checked(read_layout(source))  # what follows relies on its promises, whatever the parser
    if _skeleton_bytes(layout) > MAX_SKELETON:
        layout = Layout("opaque", layout.size, notes=(*layout.notes, "skeleton too long: kept opaque"))
    pieces, slots = _cut(source, layout, earlier)
    ranges = _checked_ranges(layout)
    reading = _Reading(source, pieces, slots, ranges, progress)
    hashed = reading.run()
    template = _build_template(layout, pieces, ranges, reading)
    stem = layout.stem
    _verify(source, pieces, template, stem)
    return Dissection(
        hashed,
        layout.size,
        template,
        stem,
        tuple(
            Slot(
                slot.name,
                slot.part,
                slot.dtype,
                slot.rows[0] if len(slot.rows) == 1 else 0,
                sum(length for _, length in slot.ranges),
                tuple(slot.ranges),
                tuple(itertools.accumulate((length for _, length in slot.ranges[:-1]), initial=0)),
                TensorId(slot.hasher.digest()),
                tuple(slot.rows),
            )
            for slot in slots
        ),
        sum(segment.length for segment in layout.segments if segment.dtype is not DType.BYTES),
        layout.notes,
    )


def _row(dtype: DType, shape: tuple[int, ...]) -> int:
    """Return how many words a row has: all dimensions but the first; 0 if there is no other."""
    return math.prod(shape[1:]) * (2 if dtype.kind == "complex" else 1) if len(shape) > 1 else 0


def _skeleton_bytes(layout: Layout) -> int:
    """Return how much skeleton a template of this layout would hold."""
    total = 0
    for _, length, is_run in _quiet_runs(layout):
        if not is_run:
            total += length
    return total


def _quiet_runs(layout: Layout) -> Iterator[tuple[int, int, bool]]:
    """Yield (offset, length, whether it becomes opaque slots) of every stretch that holds no event."""
    stops = [(segment.offset, segment.offset + segment.length) for segment in layout.segments]
    stops += [(position, position + len(layout.stem)) for position in layout.stem_positions]
    for check in layout.checksums:
        stops += [(check.position, check.position + 4), (check.start, check.start)]
        stops += [(check.start + check.length, check.start + check.length)]
    end = 0
    for start, stop in [*sorted(stops), (layout.size, layout.size)]:
        if start > end:
            yield end, start - end, start - end >= OPAQUE_RUN
        end = max(end, stop)


def _cut(source: Source, layout: Layout, earlier: Pieces) -> tuple[list[_Piece], list[_OpenSlot]]:
    """Cut the file into segments and skeleton, and give each segment its slot."""
    found: list[tuple[int, int, DType, tuple[int, ...], str]] = [
        (segment.offset, segment.length, segment.dtype, segment.shape, segment.name) for segment in layout.segments
    ]
    opaque = 0
    for offset, length, is_run in _quiet_runs(layout):
        if not is_run:
            continue
        for start, size in cut_stretch(source, offset, length, earlier):
            found.append((start, size, DType.BYTES, (size,), f"{OPAQUE}{opaque}"))
            opaque += 1
    found.sort()
    slots: list[_OpenSlot] = []
    groups: dict[tuple[str, DType], int] = {}
    pieces: list[_Piece] = []
    end = 0
    for offset, length, dtype, shape, name in found:
        part: Part = "other" if name.startswith(OPAQUE) else part_of(name)
        if length < GROUP_LIMIT:
            if (part, dtype) not in groups:
                groups[part, dtype] = len(slots)
                slots.append(_OpenSlot(f"small {part}", part, dtype))
            number = groups[part, dtype]
        else:
            number = len(slots)
            slots.append(_OpenSlot(name, part, dtype))
        slots[number].ranges.append((offset, length))
        slots[number].rows.append(_row(dtype, shape))
        if offset > end:
            pieces.append(_Piece(end, offset - end, None))
        pieces.append(_Piece(offset, length, SegmentHint(length, number, dtype, shape, name)))
        end = offset + length
    if layout.size > end:
        pieces.append(_Piece(end, layout.size - end, None))
    return pieces, slots


def _checked_ranges(layout: Layout) -> list[tuple[int, int]]:
    """Return the disjoint byte ranges whose CRC-32 the layout's checksums claim to be, in file order."""
    ranges: list[tuple[int, int]] = []
    for start, length in sorted({(check.start, check.length) for check in layout.checksums if check.length}):
        if not ranges or start >= sum(ranges[-1]):
            ranges.append((start, length))
    return ranges


class _Reading:
    """The one pass over the file."""

    def __init__(
        self,
        source: Source,
        pieces: list[_Piece],
        slots: list[_OpenSlot],
        ranges: list[tuple[int, int]],
        progress: Progress | None,
    ) -> None:
        self._source, self._pieces, self._slots, self._ranges = source, pieces, slots, ranges
        self._progress = progress
        self.skeleton: dict[int, bytes] = {}  # offset of a skeleton piece -> its bytes
        self.crcs = [0] * len(ranges)
        self._range = 0  # the first that is not behind us

    def run(self) -> Future[FileId]:
        """Read everything; return the file's id, which may be there a little later."""
        file_hash = ids.file_hasher()
        # SHA-256 is the slowest of the three digests and independent of the others: it gets a thread of its own.
        with contextlib.closing(Aside(_UNHASHED_BYTES // WINDOW_BYTES if thread_count() > 1 else 0)) as aside:
            for offset, data, hint in self._blocks(partial(aside.call, file_hash.update)):
                if hint is not None:
                    self._slots[hint.slot].hasher.update(data)
                self._update_crcs(offset, data)
                if self._progress is not None:
                    self._progress(len(data))
            return aside.call(lambda: FileId(file_hash.digest()))

    def _blocks(self, hashing: _Hashing) -> Iterator[tuple[int, memoryview, SegmentHint | None]]:
        """Yield the pieces, each in parts where windows end."""
        windows = self._windows(hashing)
        start, window = 0, memoryview(b"")
        for piece in self._pieces:
            parts = []
            offset, end = piece.offset, piece.offset + piece.length
            while offset < end:
                if offset == start + len(window):
                    start, window = offset, memoryview(next(windows))
                data = window[offset - start : end - start]
                if piece.hint is None:
                    parts.append(data)
                yield offset, data, piece.hint
                offset += len(data)
            if piece.hint is None:
                self.skeleton[piece.offset] = b"".join(parts)

    def _windows(self, hashing: _Hashing) -> Iterator[bytes]:
        for offset in range(0, self._source.size, WINDOW_BYTES):
            window = read_exactly(self._source, offset, min(WINDOW_BYTES, self._source.size - offset))
            hashing(window)
            yield window

    def _update_crcs(self, offset: int, data: memoryview) -> None:
        """Feed the checked ranges that this block touches; blocks come in file order."""
        end = offset + len(data)
        while self._range < len(self._ranges):
            start, length = self._ranges[self._range]
            if start >= end:
                return
            piece = data[max(0, start - offset) : max(0, start + length - offset)]
            self.crcs[self._range] = crc32(piece, self.crcs[self._range])
            if start + length > end:
                return
            self._range += 1


class _Window:
    """Reads a file from front to back, and more of it at a time than short pieces ask for."""

    def __init__(self, source: Source) -> None:
        self._source, self._start, self._data = source, 0, b""

    def read(self, offset: int, length: int) -> bytes:
        """Return `length` bytes.

        Raises:
            FileChangedError: there are fewer.
        """
        if length >= _SMALL_WINDOW:
            return read_exactly(self._source, offset, length)
        inside = offset - self._start
        if not 0 <= inside <= len(self._data) - length:
            size = max(length, min(_SMALL_WINDOW, self._source.size - offset))
            self._start, self._data, inside = offset, read_exactly(self._source, offset, size), 0
        return self._data[inside : inside + length]


def read_exactly(source: Source, offset: int, length: int) -> bytes:
    """Return `length` bytes of a file that is known to have them.

    Raises:
        FileChangedError: it has not, any more.
    """
    data = source.read(offset, length)
    if len(data) != length:
        raise FileChangedError(f"the file became shorter while it was read (at byte {offset + len(data)})")
    return data


def _build_template(layout: Layout, pieces: list[_Piece], ranges: list[tuple[int, int]], reading: _Reading) -> Template:
    """Turn pieces, verified checksums and stems into a template's program."""
    skeleton_at = sorted(reading.skeleton)

    def skeleton_bytes(position: int, length: int) -> bytes:
        """Return bytes that lie in one skeleton piece, or fewer if they do not."""
        place = bisect.bisect_right(skeleton_at, position) - 1
        if place < 0:
            return b""
        inside = position - skeleton_at[place]
        return reading.skeleton[skeleton_at[place]][inside : inside + length]

    # (position, rank, end, kind, value): at one place a range closes before another opens, and opens before its bytes.
    written = [(p.offset, 2, p.offset + p.length, EventKind.SEGMENT, 0) for p in pieces if p.hint is not None]
    written += [
        (position, 2, position + len(layout.stem), EventKind.STEM, 0)
        for position in layout.stem_positions
        if skeleton_bytes(position, len(layout.stem)) == layout.stem
    ]
    numbers = {bounds: number for number, bounds in enumerate(ranges)}
    verified = [
        (check.position, numbers[check.start, check.length])
        for check in layout.checksums
        if (check.start, check.length) in numbers
        and skeleton_bytes(check.position, 4) == reading.crcs[numbers[check.start, check.length]].to_bytes(4, "little")
    ]
    used = {number: place for place, number in enumerate(sorted({number for _, number in verified}))}
    events = [*written]
    for number in used:
        start, length = ranges[number]
        events.append((start, 1, start, EventKind.OPEN, 0))
        events.append((start + length, 0, start + length, EventKind.CLOSE, 0))
    events += [(position, 2, position + 4, EventKind.CHECKSUM, used[number]) for position, number in verified]
    events.sort()

    kinds, gaps, checks, kept = bytearray(), [], [], []
    end = 0
    for position, _, stop, kind, value in events:
        kinds.append(kind)
        gaps.append(position - end)
        kept.append(skeleton_bytes(end, position - end) if position > end else b"")
        if kind == EventKind.CHECKSUM:
            checks.append(value)
        end = stop
    kept.append(skeleton_bytes(end, layout.size - end) if layout.size > end else b"")
    hints = tuple(piece.hint for piece in pieces if piece.hint is not None)
    return Template(layout.format, bytes(kinds), tuple(gaps), hints, tuple(checks), b"".join(kept))


def _verify(source: Source, pieces: list[_Piece], template: Template, stem: bytes) -> None:
    """Run the template as checkout will, and compare every byte outside the segments with the file's own.

    The segments' bytes are compared chunk by chunk when they are encoded. They are read here only if checksums are
    computed from them.

    Raises:
        FileChangedError: they differ: the file changed between the two readings.
    """
    segments = [piece for piece in pieces if piece.hint is not None]
    window = _Window(source)
    position, inside = 0, False

    def fill(number: int) -> Iterator[bytes]:
        nonlocal position, inside
        piece = segments[number]
        if not template.checks:
            position += piece.length
            return
        inside = True
        for offset in range(piece.offset, piece.offset + piece.length, CHUNK_BYTES):
            yield window.read(offset, min(CHUNK_BYTES, piece.offset + piece.length - offset))
        inside = False

    for data in assemble_piecewise(Template.from_bytes(template.to_bytes()), stem, fill):
        if not inside and window.read(position, min(len(data), source.size - position)) != data:
            raise FileChangedError(f"the file changed while it was read (near byte {position})")
        position += len(data)
    if position != source.size:
        raise FileChangedError(f"the file changed while it was read: {position} bytes of {source.size} accounted for")
