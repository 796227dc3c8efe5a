"""The directory of a zip archive, with the file position of every field we care about.

`zipfile` tells what is in an archive but not where its checksums and names stand, repairs what it should
refuse, and reads a central directory of any size. This reader is strict, bounded and knows nothing of
checkpoints: the end record must close the file, the directory must hold exactly the entries announced, and a
record counts only if its local header says what the directory says. Archives of more than 4 GiB (zip64) are
read.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass

from modelvault.checkpoint.layout import Source

MAX_DIRECTORY_BYTES = 64 << 20
MAX_RECORDS = 500_000
"""Torch writes a record per storage; a checkpoint of a 100-billion-parameter model has some ten thousand."""

_END = struct.Struct("<4s4H2LH")  # signature, disk numbers, entries (here, all), size, offset, comment length
_END64_LOCATOR = struct.Struct("<4sLQL")  # signature, disk, offset of the zip64 end record, disks
_END64 = struct.Struct("<4sQ2H2L4Q")  # signature, its length, versions, disks, entries (here, all), size, offset
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_DESCRIPTOR = struct.Struct("<4sL")  # signature, CRC-32; the sizes that follow are of no use here
_EXTRA = struct.Struct("<2H")  # id, length

_MAX_COMMENT = 0xFFFF
_FULL_32 = 0xFFFFFFFF
_ZIP64_EXTRA = 1
_ENCRYPTED = 1
_HAS_DESCRIPTOR = 8
_STORED = 0
_DEFLATED = 8
_DIRECTORY_CRC = 16  # offset of the CRC-32 within a central directory entry


class ZipError(ValueError):
    """Not a zip archive as we read it."""


@dataclass(slots=True)
class Entry:
    """One entry of the central directory; `position` is where it starts in the file."""

    name: bytes
    position: int
    flags: int
    method: int
    crc: int
    compressed: int
    length: int
    header: int

    @property
    def plain(self) -> bool:
        """Whether the record's bytes stand in the file as they are."""
        return self.method == _STORED and not self.encrypted and self.compressed == self.length

    @property
    def encrypted(self) -> bool:
        """Whether the record is encrypted."""
        return bool(self.flags & _ENCRYPTED)

    @property
    def name_position(self) -> int:
        """Where the directory holds the name."""
        return self.position + _CENTRAL.size


@dataclass(slots=True)
class Record:
    """A plain record found through its local header.

    `crc_positions` are the copies of its CRC-32 that stand after the data. They are listed only if the copy
    beside the data (in front of it or behind it) equals the one in the directory.
    """

    entry: Entry
    start: int
    crc_positions: tuple[int, ...]

    @property
    def local_name_position(self) -> int:
        """Where the local header holds the name."""
        return self.entry.header + _LOCAL.size


def read_directory(source: Source) -> list[Entry]:
    """Return the entries of the central directory in its order.

    Raises:
        ZipError: the directory is missing, damaged, contradicts itself or is beyond the limits.
    """
    start, size, count = _find_directory(source)
    if size > MAX_DIRECTORY_BYTES or count > MAX_RECORDS:
        raise ZipError(f"directory of {size} bytes and {count} entries is beyond the limits")
    data = source.read(start, size)
    entries: list[Entry] = []
    at = 0
    for _ in range(count):
        if at + _CENTRAL.size > len(data):
            raise ZipError(f"directory ends within entry {len(entries)}")
        fields = _CENTRAL.unpack_from(data, at)
        (
            signature,
            _,
            _,
            flags,
            method,
            _,
            _,
            crc,
            compressed,
            length,
            name_length,
            extra_length,
            comment_length,
        ) = fields[:13]
        header = fields[16]
        extra_at = at + _CENTRAL.size + name_length
        following = extra_at + extra_length + comment_length
        if signature != b"PK\x01\x02" or following > len(data):
            raise ZipError(f"damaged directory entry {len(entries)}")
        if _FULL_32 in (compressed, length, header):
            extra = data[extra_at : extra_at + extra_length]
            length, compressed, header = _widen(extra, length, compressed, header)
        name = data[at + _CENTRAL.size : extra_at]
        entries.append(Entry(name, start + at, flags, method, crc, compressed, length, header))
        at = following
    if at != len(data):
        raise ZipError(f"directory holds more than the {count} entries announced")
    return entries


def archive_start(source: Source, end: int) -> int | None:
    """Return where the archive begins that ends at `end`, None if none does.

    Its own offsets count from there, so the place where its directory is and the one where it says that it is tell.
    """
    tail_at = max(0, end - _END.size - _END64_LOCATOR.size)
    tail = source.read(tail_at, end - tail_at)
    if len(tail) < _END.size:
        return None
    signature, _, _, _, _, size, offset, comment = _END.unpack_from(tail, len(tail) - _END.size)
    if signature != b"PK\x05\x06" or comment:
        return None
    directory_end = end - _END.size
    if len(tail) > _END.size and tail.startswith(b"PK\x06\x07"):
        # The zip64 end record stands right before its locator, as torch writes it.
        directory_end -= _END64_LOCATOR.size + _END64.size
        record = source.read(directory_end, _END64.size) if directory_end >= 0 else b""
        if not record.startswith(b"PK\x06\x06"):
            return None
        size, offset = _END64.unpack(record)[8:]
    start = directory_end - size - offset
    return start if 0 <= start < end else None


def directory_format(name: str, entries: Iterable[Entry]) -> str:
    """Return the name of a format, with a word on what keeps its records from being read.

    >>> directory_format("npz", [Entry(b"a.npy", 0, 0, 8, 0, 20, 30, 0)])
    'npz (deflated)'
    """
    unread = [entry for entry in entries if not entry.plain]
    if any(entry.encrypted for entry in unread):
        return f"{name} (encrypted)"
    if any(entry.method == _DEFLATED for entry in unread):
        return f"{name} (deflated)"
    return f"{name} (compressed)" if unread else name


def locate(source: Source, entry: Entry) -> Record:
    """Find a plain record's data through its local header.

    Raises:
        ZipError: the local header is missing or contradicts the directory.
    """
    head = source.read(entry.header, _LOCAL.size + len(entry.name))
    if len(head) < _LOCAL.size + len(entry.name):
        raise ZipError("local header is beyond the end of the file")
    signature, _, flags, method, _, _, crc, _, _, name_length, extra_length = _LOCAL.unpack_from(head)
    if signature != b"PK\x03\x04" or name_length != len(entry.name) or head[_LOCAL.size :] != entry.name:
        raise ZipError("local header names another record")
    if method != entry.method or flags != entry.flags:
        raise ZipError("local header contradicts the directory")
    start = entry.header + _LOCAL.size + name_length + extra_length
    end = start + entry.length
    if end > source.size:
        raise ZipError("record leaves the file")

    in_directory = entry.position + _DIRECTORY_CRC
    crc_positions: tuple[int, ...] = ()
    if flags & _HAS_DESCRIPTOR:
        descriptor = source.read(end, _DESCRIPTOR.size)
        if descriptor == _DESCRIPTOR.pack(b"PK\x07\x08", entry.crc):
            crc_positions = (end + 4, in_directory)
    elif crc == entry.crc:
        crc_positions = (in_directory,)
    return Record(entry, start, crc_positions)


def _find_directory(source: Source) -> tuple[int, int, int]:
    """Return the central directory's offset, size and number of entries."""
    tail_at = max(0, source.size - _END.size)
    tail = source.read(tail_at, _END.size)
    if not (tail.startswith(b"PK\x05\x06") and tail.endswith(b"\0\0")):  # there may be a comment
        tail_at = max(0, tail_at - _MAX_COMMENT)
        tail = source.read(tail_at, source.size - tail_at)
    at = tail.rfind(b"PK\x05\x06")
    while at >= 0:
        # A comment may contain the signature: the end record is the one whose comment ends with the file.
        if at + _END.size <= len(tail) and at + _END.size + _END.unpack_from(tail, at)[7] == len(tail):
            break
        at = tail.rfind(b"PK\x05\x06", 0, at)
    if at < 0:
        raise ZipError("no end record")
    _, disk, first_disk, count_here, count, size, start, _ = _END.unpack_from(tail, at)
    end = tail_at + at
    # Readers follow a locator wherever there is one; torch writes it for small archives too.
    locator_at = end - _END64_LOCATOR.size
    locator = source.read(locator_at, _END64_LOCATOR.size) if locator_at >= 0 else b""
    if locator.startswith(b"PK\x06\x07") and len(locator) == _END64_LOCATOR.size:
        end = _END64_LOCATOR.unpack(locator)[2]
        record = source.read(end, _END64.size)
        if len(record) < _END64.size or not record.startswith(b"PK\x06\x06"):
            raise ZipError("no zip64 end record")
        _, length, _, _, disk, first_disk, count_here, count, size, start = _END64.unpack(record)
        if end + 12 + length != locator_at:  # not this archive's: there is another one in front of it
            raise ZipError("zip64 end record does not stand before its locator")
    if disk or first_disk or count_here != count:
        raise ZipError("archive spans several files")
    if start + size != end:
        raise ZipError("directory does not end at the end record")
    return start, size, count


def _widen(extra: bytes, *fields: int) -> tuple[int, ...]:
    """Return the fields with those that are full replaced, in order, by values of the zip64 extra field."""
    at = 0
    while at + _EXTRA.size <= len(extra):
        kind, length = _EXTRA.unpack_from(extra, at)
        at += _EXTRA.size
        if kind == _ZIP64_EXTRA:
            count = len(extra[at : at + length]) // 8
            if count < fields.count(_FULL_32):
                raise ZipError("zip64 extra field is too short")
            values = iter(struct.unpack_from(f"<{count}Q", extra, at))
            return tuple(next(values) if field == _FULL_32 else field for field in fields)
        at += length
    raise ZipError("no zip64 extra field")
