"""Where a stretch of unknown bytes is cut into pieces.

Two things may have happened to a file of which nothing is known since it was committed last. Something was put in or
taken out, and all behind it has moved: then pieces that end where the content says so (content-defined chunks) are
found again, and pieces at fixed places are not. Or numbers changed where they stand, and the size is the same: then
each piece wants to be compared with what stood in its place. So a stretch is cut by content the first time, and as
it was cut before while the file keeps its size.

Cuts are no part of the format: each piece is a slot of its own, whatever cut it.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence

from modelvault.checkpoint import Source
from modelvault.objects.template import Template
from modelvault.repository.assemble import segment_places
from modelvault.tensors import CHUNK_BYTES

OPAQUE = "@"
"""What the names of opaque slots begin with."""

SHORTEST_PIECE = 64 << 10
"""A shorter one at the end of a stretch stays in the skeleton, where a patch finds it."""

MIN_PIECE, MEAN_PIECE, MAX_PIECE = 128 << 10, 256 << 10, CHUNK_BYTES
"""With these, pieces are some 350 KiB long (minimum and mean add up) and one chunk each. 100 bytes in front of 20 MiB
of noise cost the first pieces: 2.4 % of the file. The records of a piece take about 60 bytes."""

Pieces = Sequence[tuple[int, int]]
"""(offset, length), in file order."""


class _Stretch:
    """A stretch of a source, read from front to back."""

    def __init__(self, source: Source, offset: int, length: int) -> None:
        self._source, self._at, self._end = source, offset, offset + length

    def read(self, size: int) -> bytes:
        """Return the next `size` bytes, fewer at the end."""
        data = self._source.read(self._at, min(size, self._end - self._at))
        self._at += len(data)
        return data


def cut_stretch(source: Source, offset: int, length: int, earlier: Pieces = ()) -> Iterator[tuple[int, int]]:
    """Yield (offset, length) of the pieces of a stretch, as they were cut earlier if that fits it."""
    end = offset + length
    inside = earlier[bisect.bisect_left(earlier, (offset, 0)) : bisect.bisect_left(earlier, (end, 0))]
    if _covers(inside, offset, end):
        yield from inside
        return
    from pyfastcdc import FastCDC  # most files have no such stretch

    cutter = FastCDC(MEAN_PIECE, min_size=MIN_PIECE, max_size=MAX_PIECE)
    for chunk in cutter.cut_stream(_Stretch(source, offset, length)):
        if chunk.length >= SHORTEST_PIECE:
            yield offset + chunk.offset, chunk.length


def opaque_pieces(template: Template, stem: bytes) -> list[tuple[int, int]]:
    """Return where the pieces of a file's unknown stretches are, from its template."""
    return [
        (position, segment.length)
        for segment, position in segment_places(template, stem)
        if segment.name.startswith(OPAQUE)
    ]


def _covers(pieces: Pieces, offset: int, end: int) -> bool:
    """Whether pieces make up a stretch, but for a short rest."""
    for start, length in pieces:
        if start != offset:
            return False
        offset += length
    return bool(pieces) and 0 <= end - offset < SHORTEST_PIECE
