"""The layout of any zip archive: torch's, numpy's .npz, Keras' .keras, and those of nobody we know.

Torch archives, one alone or several in a row, have modules of their own. In the others each stored member is a
file, and its tensors are found as in that file. Compressed and encrypted members stay as they are: what inflates could
not be deflated again to the very same bytes. A local header stands in front of its data, so of a checksum's two
copies the directory's is the one that can be derived.
"""

from __future__ import annotations

from dataclasses import replace

from modelvault.checkpoint import hdf5_file, npy_file, torch_dcp, torch_zip
from modelvault.checkpoint.cursor import Window
from modelvault.checkpoint.layout import Checksum, Layout, Segment, Source, opaque
from modelvault.checkpoint.zip_directory import Entry, Record, ZipError, directory_format, locate, read_directory

SIGNATURE = b"PK\x03\x04"

_KERAS_WEIGHTS = b"model.weights.h5"
_KERAS_MEMBERS = frozenset({b"config.json", b"metadata.json"})


def zip_layout(source: Source) -> Layout:
    """Return the layout of a zip archive, opaque if its directory cannot be read.

    The layout is what the file claims; `layout.checked` has the last word.
    """
    try:
        entries = read_directory(source)
    except ZipError as error:
        several = torch_dcp.torch_dcp_layout(source)
        return several or opaque(source.size, f"zip archive not read: {error}")
    root = torch_zip.torch_root(entries)
    if root is not None:
        return torch_zip.torch_zip_layout(source, entries, root)

    form = directory_format(_kind(entries), entries)
    segments: list[Segment] = []
    checksums: list[Checksum] = []
    notes: list[str] = []
    unreadable = 0
    for entry in entries:
        if not entry.plain:
            unreadable += 1
            continue
        try:
            record = locate(source, entry)
        except ZipError as error:
            notes.append(f"{_text(entry.name)}: {error}")
            continue
        if entry.length:
            checksums += (Checksum(at, record.start, entry.length) for at in record.crc_positions)
        member = _member_layout(source, record)
        segments += (replace(segment, offset=record.start + segment.offset) for segment in member.segments)
        notes += (f"{_text(entry.name)}: {note}" for note in member.notes)
    if unreadable:
        notes.append(f"{unreadable} compressed or encrypted members left as they are")
    return Layout(form, source.size, tuple(segments), tuple(checksums), notes=tuple(notes))


def _kind(entries: list[Entry]) -> str:
    """Return what kind of archive has these members."""
    names = {entry.name for entry in entries}
    if names and all(name.endswith(b".npy") for name in names):
        return "npz"
    if _KERAS_WEIGHTS in names and names >= _KERAS_MEMBERS:
        return "keras"
    return "zip"


def _member_layout(source: Source, record: Record) -> Layout:
    """Return the layout of a stored member, its offsets counted from its own start."""
    window = Window(source, record.start, record.entry.length)
    head = window.read(0, 8)
    name = _text(record.entry.name)
    if head.startswith(npy_file.SIGNATURE):
        return npy_file.npy_layout(window, name.removesuffix(".npy"))
    if head == hdf5_file.SIGNATURE:
        # A .keras file has one; elsewhere the member's name keeps those of several apart.
        return hdf5_file.hdf5_layout(window, "" if record.entry.name == _KERAS_WEIGHTS else name)
    return opaque(window.size)


def _text(name: bytes) -> str:
    """Return a member's name to be shown."""
    return name.decode("utf-8", "replace")
