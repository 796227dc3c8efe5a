"""The layout of a `.distcp` file, in which torch's distributed checkpoints keep what one rank wrote.

It is one torch archive after the other, each written by `torch.save` for one tensor or object. Which is which stands
in another file (`.metadata`), so tensors go by their place in this one. An archive says at its end how long it
is: the file is read from its end, archive by archive, up to its beginning.
"""

from __future__ import annotations

from dataclasses import replace

from modelvault.checkpoint import torch_zip
from modelvault.checkpoint.cursor import Window
from modelvault.checkpoint.layout import Checksum, Layout, Segment, Source
from modelvault.checkpoint.zip_directory import ZipError, archive_start, read_directory

MAX_ARCHIVES = 50_000


def torch_dcp_layout(source: Source) -> Layout | None:
    """Return the layout of a file that is nothing but several archives, None if it is none.

    The layout is what the file claims; `layout.checked` has the last word.
    """
    bounds = _bounds(source)
    if len(bounds) < 2:
        return None
    segments: list[Segment] = []
    checksums: list[Checksum] = []
    stems: list[int] = []
    notes: list[str] = []
    stem = b""
    for number, (start, length) in enumerate(bounds):
        window = Window(source, start, length)
        try:
            entries = read_directory(window)
        except ZipError as error:
            notes.append(f"archive {number} not read: {error}")
            continue
        root = torch_zip.torch_root(entries)
        if root is None:
            notes.append(f"archive {number} is none of torch's")
            continue
        layout = torch_zip.torch_zip_layout(window, entries, root)
        # All have the root "archive": what torch calls one that it writes to a stream.
        stem = stem or layout.stem
        if layout.stem == stem:
            stems += (start + at for at in layout.stem_positions)
        for segment in layout.segments:
            name = f"{number}.{segment.name}" if segment.name else str(number)
            segments.append(replace(segment, offset=start + segment.offset, name=name))
        checksums += (Checksum(start + c.position, start + c.start, c.length) for c in layout.checksums)
        notes += (f"archive {number}: {note}" for note in layout.notes)
    return Layout("torch-dcp", source.size, tuple(segments), tuple(checksums), stem, tuple(stems), tuple(notes))


def _bounds(source: Source) -> list[tuple[int, int]]:
    """Return offset and length of the archives that make up the file, none if they do not."""
    bounds: list[tuple[int, int]] = []
    end = source.size
    while end:
        start = archive_start(source, end)
        if start is None or len(bounds) == MAX_ARCHIVES:
            return []
        bounds.append((start, end - start))
        end = start
    bounds.reverse()
    return bounds
