"""The layout of what torch.save and torch.jit.save write: a zip archive of uncompressed records.

    ROOT/data.pkl       a pickle that refers to storages by key
    ROOT/data/KEY       one storage, raw
    ROOT/constants.pkl  the same for the constants of TorchScript
    ROOT/constants/KEY
    ROOT/byteorder      "little" or "big"
    ROOT/version, ROOT/.data/serialization_id, ...

Where the storages are comes from the zip directory alone; the pickle adds dtype, shape and name. Nothing in
it is run: `pickle_symbols` reads it as data.
"""

from __future__ import annotations

from collections.abc import Iterable

from modelvault.checkpoint.layout import Checksum, Layout, Segment, Source
from modelvault.checkpoint.pickle_symbols import PickleError, read_pickle
from modelvault.checkpoint.torch_objects import StorageUse, storage_uses
from modelvault.checkpoint.zip_directory import Entry, Record, ZipError, directory_format, locate
from modelvault.tensors import DType

MAX_PICKLE_BYTES = 64 << 20
"""A data.pkl takes some 150 bytes a tensor; a larger one holds arrays of its own: not worth it."""
_PICKLES = (
    (b"data", ""),
    (b"constants", "constants"),
)  # of which records, and how names that come from it begin


def torch_root(entries: Iterable[Entry]) -> bytes | None:
    """Return the root of a torch archive, None if these are not the records of one."""
    return next((e.name.removesuffix(b"/data.pkl") for e in entries if e.name.endswith(b"/data.pkl")), None)


def torch_zip_layout(source: Source, entries: list[Entry], root: bytes) -> Layout:
    """Return the layout of a torch archive.

    The layout is what the file claims; `layout.checked` has the last word.
    """
    prefix = root + b"/"
    notes: list[str] = []
    unreadable = 0
    records: dict[bytes, Record] = {}  # by name without the root
    segments: list[Segment] = []
    checksums: list[Checksum] = []
    stem_positions: list[int] = []
    for entry in entries:
        under_root = entry.name.startswith(prefix)
        if under_root:
            stem_positions.append(entry.name_position)
        if not entry.plain:
            unreadable += 1
            continue
        try:
            record = locate(source, entry)
        except ZipError as error:
            notes.append(f"{_text(entry.name)}: {error}")
            continue
        if under_root:
            stem_positions.append(record.local_name_position)
            records[entry.name[len(prefix) :]] = record
        if entry.length:
            checksums += (Checksum(at, record.start, entry.length) for at in record.crc_positions)

    if unreadable:
        notes.append(f"{unreadable} compressed or encrypted records left as they are")

    form = directory_format("torch-zip", entries)
    if _content(source, records.get(b"byteorder"), 16) == b"big":
        form = "torch-zip (big-endian)"
        notes.append("big-endian storages: kept as bytes")
        uses = {}
    else:
        uses = _uses(source, records, notes)
    for name, record in records.items():
        folder, _, key = name.partition(b"/")
        if key and record.entry.length and any(folder == of for of, _ in _PICKLES):
            segments.append(_segment(name, record, uses.get(name)))
    return Layout(
        form,
        source.size,
        tuple(segments),
        tuple(checksums),
        root,
        tuple(stem_positions),
        tuple(notes),
    )


def _uses(source: Source, records: dict[bytes, Record], notes: list[str]) -> dict[bytes, StorageUse]:
    """Return what the archive's pickles say about its storages, by record name."""
    uses: dict[bytes, StorageUse] = {}
    for folder, name in _PICKLES:
        record = records.get(folder + b".pkl")
        if record is None:
            continue
        pickled = _content(source, record, MAX_PICKLE_BYTES)
        if pickled is None:
            notes.append(f"{_text(folder)}.pkl of {record.entry.length} bytes is too long to read")
            continue
        try:
            of_pickle = storage_uses(read_pickle(pickled), name)
        except PickleError as error:
            notes.append(f"{_text(folder)}.pkl: {error}")
            continue
        uses |= {folder + b"/" + key.encode("utf-8", "replace"): use for key, use in of_pickle.items()}
    return uses


def _segment(name: bytes, record: Record, use: StorageUse | None) -> Segment:
    """Return the segment of a storage; one that no tensor refers to goes by its record's name."""
    length = record.entry.length
    if use is None:
        return Segment(record.start, length, DType.BYTES, (length,), _text(name))
    return Segment(record.start, length, use.dtype, use.shape(length), use.name)


def _content(source: Source, record: Record | None, limit: int) -> bytes | None:
    """Return a record's bytes, None if there is no record or it is longer than `limit`."""
    if record is None or record.entry.length > limit:
        return None
    return source.read(record.start, record.entry.length)


def _text(name: bytes) -> str:
    """Return a record name to be shown."""
    return name.decode("utf-8", "replace")
