"""The layout of an HDF5 file, as Keras writes it (`.weights.h5`, `.h5`): which datasets are one run of numbers.

A file is a graph of objects. The superblock names the root group; an object is a header, a row of messages:

dataspace     the dataset's dimensions
datatype      what its elements are
layout        where they are: within the header, in one run, in chunks
symbol table  the members of a group, old: a B-tree of nodes, and a heap that holds their names
link          one member of a group, new
continuation  where the header goes on

Only what is needed to find runs of little-endian numbers is read: superblocks 0 to 3, object headers 1 and 2, groups of
either kind. Datasets in chunks (compressed or not), strings, records, and the links of new groups of more than eight
members stay in the skeleton.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from modelvault.checkpoint.layout import MAX_NAME, Layout, Segment, Source, opaque
from modelvault.tensors import DType

SIGNATURE = b"\x89HDF\r\n\x1a\n"
MAX_OBJECTS = 50_000
"""Groups and datasets. A Keras model has three of them a variable: room for models of 10,000 layers."""
MAX_STEPS = 400_000
"""Messages, tree entries and quarter kilobytes that are read, in about half a second: ten a variable are usual."""
_MAX_BLOCK = 1 << 20  # bytes of an object header's block, or of the names in one group
_MAX_DEPTH = 64

_NOWHERE = (1 << 64) - 1
_DATASPACE, _DATATYPE, _LINK_INFO, _LINK, _LAYOUT = 1, 3, 2, 6, 8
_FILTERS, _CONTINUATION, _SYMBOL_TABLE = 11, 16, 17

_TREE = struct.Struct("<4s2BH2Q")  # signature, type, level, entries, siblings; then a key, a child, a key, ...
_SYMBOL_NODE = struct.Struct("<4s2BH")  # signature, version, reserved, entries
_SYMBOL = struct.Struct("<2Q2L16s")  # name's place in the heap, object header, cache type, reserved, scratch
_HEAP = struct.Struct("<4sB3s3Q")  # signature, version, reserved, size, free list, where the names are
_MESSAGE_1 = struct.Struct("<2HB3s")  # type, size, flags, reserved

_INTEGERS = {
    (1, False): DType.U8,
    (1, True): DType.I8,
    (2, False): DType.U16,
    (2, True): DType.I16,
    (4, False): DType.U32,
    (4, True): DType.I32,
    (8, False): DType.U64,
    (8, True): DType.I64,
}
_FLOATS = {  # bytes, place and width of the exponent, width of the mantissa, which is at 0
    (2, 10, 5, 10): DType.F16,
    (2, 7, 8, 7): DType.BF16,
    (4, 23, 8, 23): DType.F32,
    (8, 52, 11, 52): DType.F64,
}


class Hdf5Error(ValueError):
    """Not an HDF5 file as we read it."""


class _Object(NamedTuple):
    """What an object header says, as far as it was understood."""

    shape: tuple[int, ...] | None
    dtype: DType | None
    run: tuple[int, int] | None  # offset and length of the elements
    members: list[tuple[str, int]]  # name and address
    notes: list[str]


def hdf5_layout(source: Source, prefix: str = "") -> Layout:
    """Return the layout of an HDF5 file, opaque if its superblock cannot be read.

    Names are paths within the file, after `prefix`. The layout is what the file claims; `layout.checked` has the
    last word.
    """
    reader = _Reader(source)
    try:
        root = reader.root()
    except Hdf5Error as error:
        return opaque(source.size, f"HDF5 file not read: {error}")
    segments: list[Segment] = []
    notes: list[str] = []
    seen: set[int] = set()
    todo = [(prefix, root, 0)]
    while todo:
        path, address, depth = todo.pop()
        if address in seen:
            continue
        seen.add(address)
        if len(seen) > MAX_OBJECTS:
            notes.append(f"more than {MAX_OBJECTS} objects: the rest is not read")
            break
        try:
            item = reader.object(address)
        except Hdf5Error as error:
            notes.append(f"{path or '/'}: {error}")
            if reader.exhausted:
                break
            continue
        notes += (f"{path or '/'}: {note}" for note in item.notes)
        if item.run is not None and item.dtype is not None:
            offset, length = item.run
            segments.append(Segment(offset, length, item.dtype, item.shape or (), path))
        if depth < _MAX_DEPTH:
            below = ((f"{path}/{name}" if path else name, at, depth + 1) for name, at in item.members)
            todo += ((name[:MAX_NAME], at, level) for name, at, level in below)
    form = "hdf5"
    if not segments and (word := next((note for note in notes if note.endswith(_UNREAD)), None)):
        form = "hdf5 (big-endian)" if word.endswith(_BIG_ENDIAN) else "hdf5 (chunked)"
    return Layout(form, source.size, tuple(segments), notes=tuple(notes))


_CHUNKED = "stored in chunks, left as it is"
_BIG_ENDIAN = "big-endian, left as it is"
_UNREAD = (_CHUNKED, _BIG_ENDIAN)


class _Reader:
    """Reads objects by address; `exhausted` once so much was read that the file is not worth more."""

    __slots__ = ("_source", "_steps")

    def __init__(self, source: Source) -> None:
        self._source = source
        self._steps = MAX_STEPS

    @property
    def exhausted(self) -> bool:
        """Whether nothing more will be read."""
        return self._steps <= 0

    def root(self) -> int:
        """Return the address of the root group."""
        version = self._take(8, 1)[0]
        if version in (0, 1):
            sizes, base_at, root_at = self._take(13, 2), 24, 64
            if version == 1:
                base_at, root_at = 28, 68
        elif version in (2, 3):
            sizes, base_at, root_at = self._take(9, 2), 12, 36
        else:
            raise Hdf5Error(f"superblock of unknown version {version}")
        if sizes != b"\x08\x08":
            raise Hdf5Error(f"addresses of {sizes[0]} bytes and lengths of {sizes[1]}")
        if self._number(base_at):
            raise Hdf5Error("addresses do not count from the start of the file")
        return self._number(root_at)

    def object(self, address: int) -> _Object:
        """Return what the header at an address says."""
        shape: tuple[int, ...] | None = None
        dtype: DType | None = None
        run: tuple[int, int] | None = None
        members: list[tuple[str, int]] = []
        notes: list[str] = []
        filtered = False
        for kind, data in self._header(address):
            try:
                if kind == _DATASPACE:
                    shape = _dataspace(data)
                elif kind == _DATATYPE:
                    dtype, is_big = _datatype(data)
                    if is_big:
                        notes.append(_BIG_ENDIAN)
                elif kind == _LAYOUT:
                    version, layout = data[0], data[1]
                    if version in (3, 4) and layout == 1:
                        run = (int.from_bytes(data[2:10], "little"), int.from_bytes(data[10:18], "little"))
                    elif layout == 2:
                        notes.append(_CHUNKED)
                elif kind == _FILTERS:
                    filtered = True
                elif kind == _LINK:
                    members += _link(data)
                elif kind == _LINK_INFO:
                    heap_at = 10 if data[1] & 1 else 2
                    if int.from_bytes(data[heap_at : heap_at + 8], "little") != _NOWHERE:
                        notes.append("large group, its members are not read")
                elif kind == _SYMBOL_TABLE:
                    members += self._symbols(*struct.unpack_from("<2Q", data))
            except (IndexError, struct.error):
                raise Hdf5Error(f"message of type {kind} is too short") from None
        if filtered or run is None or run[0] == _NOWHERE or not run[1]:
            run = None
        return _Object(shape, dtype, run, members, notes)

    def _take(self, at: int, length: int) -> bytes:
        """Return bytes that must be there."""
        data = self._source.read(at, length) if at <= self._source.size else b""
        if len(data) < length:
            raise Hdf5Error(f"{length} bytes at {at} are not in the file")
        return data

    def _number(self, at: int) -> int:
        """Return the address or length that stands at a place."""
        return int.from_bytes(self._take(at, 8), "little")

    def _spend(self, steps: int) -> None:
        """Count what is read: objects may share their parts, and a small file can ask for much."""
        self._steps -= steps
        if self._steps <= 0:
            raise Hdf5Error(f"more than {MAX_STEPS} steps")

    # Messages

    def _header(self, address: int) -> Iterator[tuple[int, bytes]]:
        """Yield type and data of an object's messages."""
        head = self._take(address, 16)
        if head[:4] == b"OHDR":
            yield from self._header_2(address, head)
        elif head[0] == 1:
            # 16 bytes: version, reserved, messages (2), references (4), size (4), padding
            size = int.from_bytes(head[8:12], "little")
            blocks = [(address + 16, size)]
            for start, length in blocks:  # which grows
                yield from self._collect(self._messages_1(start, length), blocks)
        else:
            raise Hdf5Error(f"no object header at {address}")

    def _header_2(self, address: int, head: bytes) -> Iterator[tuple[int, bytes]]:
        flags = head[5]
        size_at = address + 6 + (16 if flags & 0x20 else 0) + (4 if flags & 0x10 else 0)
        width = 1 << (flags & 3)
        size = int.from_bytes(self._take(size_at, width), "little")
        ordered = bool(flags & 4)
        continued: list[tuple[int, int]] = []
        yield from self._collect(self._messages_2(size_at + width, size, ordered), continued)
        for start, length in continued:  # which grows
            if length < 8 or self._take(start, 4) != b"OCHK":
                raise Hdf5Error(f"object header does not go on at {start}")
            yield from self._collect(self._messages_2(start + 4, length - 8, ordered), continued)

    def _collect(
        self, messages: Iterator[tuple[int, bytes]], blocks: list[tuple[int, int]]
    ) -> Iterator[tuple[int, bytes]]:
        """Pass messages on, and note where continuations say that there are more."""
        for kind, data in messages:
            self._spend(1)
            if kind == _CONTINUATION and len(data) >= 16:
                blocks.append((int.from_bytes(data[:8], "little"), int.from_bytes(data[8:16], "little")))
            else:
                yield kind, data

    def _messages_1(self, start: int, length: int) -> Iterator[tuple[int, bytes]]:
        block = self._block(start, length)
        at = 0
        while at + _MESSAGE_1.size <= len(block):
            kind, size, _, _ = _MESSAGE_1.unpack_from(block, at)
            at += _MESSAGE_1.size
            yield kind, block[at : at + size]
            at += size

    def _messages_2(self, start: int, length: int, ordered: bool) -> Iterator[tuple[int, bytes]]:
        block = self._block(start, length)
        head = 6 if ordered else 4
        at = 0
        while at + head <= len(block):  # what is shorter is a gap
            kind, size = block[at], int.from_bytes(block[at + 1 : at + 3], "little")
            at += head
            yield kind, block[at : at + size]
            at += size

    def _block(self, start: int, length: int) -> bytes:
        if length > _MAX_BLOCK:
            raise Hdf5Error(f"block of {length} bytes at {start}")
        self._spend(1 + length // 256)
        return self._take(start, length)

    # Groups of the old kind

    def _symbols(self, tree: int, heap: int) -> Iterator[tuple[str, int]]:
        """Yield the members of a group."""
        signature, _, _, size, _, names_at = _HEAP.unpack(self._take(heap, _HEAP.size))
        if signature != b"HEAP":
            raise Hdf5Error(f"no heap of names at {heap}")
        names = self._block(names_at, size)
        nodes = [tree]
        seen: set[int] = set()
        for node in nodes:  # which grows
            if node in seen:
                continue
            seen.add(node)
            self._spend(1)
            if self._take(node, 4) == b"TREE":
                _, kind, _, count, _, _ = _TREE.unpack(self._take(node, _TREE.size))
                if kind:
                    raise Hdf5Error(f"tree at {node} is none of a group")
                self._spend(count)
                children = self._take(node + _TREE.size, 16 * count)
                nodes += struct.unpack(f"<{2 * count}Q", children)[1::2]
            else:
                yield from self._node(node, names)

    def _node(self, node: int, names: bytes) -> Iterator[tuple[str, int]]:
        """Yield the members that a node of the tree lists."""
        signature, _, _, count = _SYMBOL_NODE.unpack(self._take(node, _SYMBOL_NODE.size))
        if signature != b"SNOD":
            raise Hdf5Error(f"no symbols at {node}")
        self._spend(count)
        for name_at, address, _, _, _ in _SYMBOL.iter_unpack(
            self._take(node + _SYMBOL_NODE.size, count * _SYMBOL.size)
        ):
            if address != _NOWHERE:  # a soft link
                end = names.find(b"\0", name_at, name_at + 4 * MAX_NAME)
                yield names[name_at : max(end, name_at)].decode("utf-8", "replace"), address


def _dataspace(data: bytes) -> tuple[int, ...]:
    """Return a dataset's dimensions."""
    version, rank = data[0], data[1]
    if version not in (1, 2):
        raise Hdf5Error(f"dataspace of unknown version {version}")
    return struct.unpack_from(f"<{rank}Q", data, 8 if version == 1 else 4)


def _datatype(data: bytes) -> tuple[DType | None, bool]:
    """Return what the elements are, None if no numbers we know, and whether they are big-endian numbers."""
    kind, flags, size = data[0] & 15, data[1], int.from_bytes(data[4:8], "little")
    if kind == 8:  # an enumeration, before its names and values the type that they are of
        return _datatype(data[8:]) if data[8] & 15 == 0 else (None, False)
    if kind == 0:
        dtype = _INTEGERS.get((size, bool(flags & 8)))
    elif kind == 1:
        _, _, exponent_at, exponent, mantissa_at, mantissa = struct.unpack_from("<2H4B", data, 8)
        dtype = None if mantissa_at else _FLOATS.get((size, exponent_at, exponent, mantissa))
    else:
        return None, False
    is_big = bool(flags & 1) and size > 1
    return (None if is_big else dtype), is_big


def _link(data: bytes) -> Iterator[tuple[str, int]]:
    """Yield the member that a link leads to, if it leads to one in this file."""
    flags = data[1]
    at = 2
    kind = 0
    if flags & 8:
        kind = data[at]
        at += 1
    at += (8 if flags & 4 else 0) + (1 if flags & 16 else 0)
    width = 1 << (flags & 3)
    length = int.from_bytes(data[at : at + width], "little")
    at += width
    if data[0] == 1 and kind == 0 and at + length + 8 <= len(data):
        name = data[at : at + length].decode("utf-8", "replace")
        yield name, int.from_bytes(data[at + length : at + length + 8], "little")
