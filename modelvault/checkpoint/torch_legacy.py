"""The layout of what torch.save wrote before version 1.6, and writes still when asked to.

Five pickles, one behind the other: a magic number, the version of the protocol, facts about the machine, the object,
and the list of the keys of its storages. Then each storage in the order of that list:

8 bytes   number of elements, little-endian
rest      the elements

How wide an element is, only the object's pickle tells, so a storage that it does not mention ends the reading.
Nothing in the pickles is run.
"""

from __future__ import annotations

from modelvault.checkpoint.layout import MAX_SEGMENTS, Layout, Segment, Source, opaque
from modelvault.checkpoint.pickle_symbols import Mapping, PickleError, read_pickle_at
from modelvault.checkpoint.torch_objects import StorageUse, storage_uses
from modelvault.tensors import DType

MAX_PICKLE_BYTES = 64 << 20
_FIRST_BYTES = 1 << 20
"""Read at first: most pickles are shorter, and what cannot be read there is tried once more with the limit."""
_MAGIC = (b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", b"L119547037146038801333356L\n.")
_COUNT = 8


def looks_like_torch_legacy(head: bytes) -> bool:
    """Whether a file that starts with `head` (32 bytes or more) starts with torch's magic number, pickled."""
    return any(0 <= head.find(magic) <= 12 for magic in _MAGIC)


def torch_legacy_layout(source: Source) -> Layout:
    """Return the layout of a file of the old format, opaque if its pickles cannot be read.

    The layout is what the file claims; `layout.checked` has the last word.
    """
    try:
        try:
            facts, root, keys, at = _pickles(source.read(0, _FIRST_BYTES))
        except PickleError:
            if source.size <= _FIRST_BYTES:
                raise
            facts, root, keys, at = _pickles(source.read(0, MAX_PICKLE_BYTES))
        uses = storage_uses(root)
    except PickleError as error:
        return opaque(source.size, f"old torch file not read: {error}")
    if not isinstance(keys, list) or len(keys) > MAX_SEGMENTS:
        return opaque(source.size, "old torch file without a list of storages")

    big = isinstance(facts, Mapping) and ("little_endian", False) in facts.pairs
    notes = ["big-endian storages: kept as bytes"] if big else []
    segments: list[Segment] = []
    for key in keys:
        use = uses.get(key) if isinstance(key, str) else None
        if use is None:
            notes.append(f"storage {len(segments)} of {len(keys)} is not in the pickle: the rest is not read")
            break
        count = source.read(at, _COUNT)
        at += _COUNT
        length = int.from_bytes(count, "little") * use.unit.size
        if len(count) < _COUNT or length > source.size - at:
            notes.append(f"storage {len(segments)} of {len(keys)} leaves the file: the rest is not read")
            break
        if length:
            segments.append(_segment(at, length, use, big))
        at += length
    return Layout(
        "torch-legacy (big-endian)" if big else "torch-legacy", source.size, tuple(segments), notes=tuple(notes)
    )


def _pickles(data: bytes) -> tuple[object, object, object, int]:
    """Return facts about the machine, the object, the keys of the storages, and where the storages begin."""
    values: list[object] = []
    at = 0
    for _ in range(5):
        value, at = read_pickle_at(data, at)
        values.append(value)
    _, _, facts, root, keys = values
    return facts, root, keys, at


def _segment(at: int, length: int, use: StorageUse, big: bool) -> Segment:
    """Return the segment of a storage."""
    if big:
        return Segment(at, length, DType.BYTES, (length,), use.name)
    return Segment(at, length, use.dtype, use.shape(length), use.name)
