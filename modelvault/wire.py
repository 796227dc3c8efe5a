"""Numbers, strings and framed records as bytes, with a limit on everything that is read.

A reader never allocates on a number its input has not earned: every length is checked against the bytes that are
there. Integers are LEB128 varints; a record is a frame of kind, version, body and CRC-32. Nothing here knows what a
record means. The format is specified in docs/format/index.md, section "Conventions".
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from modelvault.crc import crc32
from modelvault.errors import CorruptError, NewerFormatError

if TYPE_CHECKING:
    from typing_extensions import Buffer

MAX_VARINT = 2**64 - 1
_CRC = struct.Struct("<I")
_F64 = struct.Struct("<d")


class WireError(CorruptError):
    """Bytes that cannot be read as what they should be."""


class Writer:
    """Collects fields into one byte string."""

    __slots__ = ("_parts",)

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def uint(self, value: int) -> None:
        """Write an unsigned integer up to 2**64 - 1 as a LEB128 varint of 1 to 10 bytes."""
        if not 0 <= value <= MAX_VARINT:
            raise ValueError(f"not an unsigned 64-bit integer: {value}")
        encoded = bytearray()
        while value > 0x7F:
            encoded.append(value & 0x7F | 0x80)
            value >>= 7
        encoded.append(value)
        self._parts.append(bytes(encoded))

    def sint(self, value: int) -> None:
        """Write a signed 64-bit integer, zigzag coded."""
        self.uint((value << 1) if value >= 0 else ((-value << 1) - 1))

    def float64(self, value: float) -> None:
        """Write eight bytes of IEEE 754 binary64, little-endian."""
        self._parts.append(_F64.pack(value))

    def fixed(self, data: Buffer) -> None:
        """Write bytes whose length the reader knows."""
        self._parts.append(bytes(data))

    def blob(self, data: Buffer) -> None:
        """Write bytes preceded by their length."""
        data = bytes(data)
        self.uint(len(data))
        self._parts.append(data)

    def text(self, value: str) -> None:
        """Write a string as UTF-8 preceded by its length in bytes; lone surrogates are kept."""
        self.blob(value.encode("utf-8", "surrogateescape"))

    def getvalue(self) -> bytes:
        """Return all that was written."""
        return b"".join(self._parts)


class Reader:
    """Reads fields from a byte string and never beyond it."""

    __slots__ = ("_data", "_position")

    def __init__(self, data: Buffer) -> None:
        self._data = bytes(data)
        self._position = 0

    @property
    def remaining(self) -> int:
        """How many bytes are left."""
        return len(self._data) - self._position

    def uint(self, limit: int = MAX_VARINT) -> int:
        """Read a varint in its shortest form that is not above `limit`.

        Raises:
            WireError: the input ends, the number is above the limit, or it is written longer than needed.
        """
        data, position = self._data, self._position
        value = shift = 0
        while True:
            try:
                byte = data[position]
            except IndexError:
                raise WireError("record ends inside a number") from None
            position += 1
            if byte < 0x80 and not shift:  # most numbers are one byte, and `log` reads eighteen a commit
                value = byte
                break
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
            shift += 7
            if shift > 63:
                raise WireError("number longer than 64 bits")
        if byte == 0 and shift:
            raise WireError("number not in its shortest form")
        if value > limit:
            raise WireError(f"number {value} is above its limit {limit}")
        self._position = position
        return value

    def sint(self) -> int:
        """Read a zigzag coded signed integer."""
        value = self.uint()
        return (value >> 1) if value & 1 == 0 else -((value + 1) >> 1)

    def float64(self) -> float:
        """Read eight bytes of IEEE 754 binary64, little-endian."""
        value: float = _F64.unpack(self.fixed(8))[0]
        return value

    def fixed(self, length: int) -> bytes:
        """Read exactly `length` bytes."""
        end = self._position + length
        if length < 0 or end > len(self._data):
            raise WireError(f"record ends early: {length} bytes wanted, {self.remaining} left")
        data = self._data[self._position : end]
        self._position = end
        return data

    def blob(self, limit: int = MAX_VARINT) -> bytes:
        """Read bytes preceded by their length, at most `limit` of them."""
        return self.fixed(self.uint(limit))

    def text(self, limit: int = MAX_VARINT) -> str:
        """Read a UTF-8 string of at most `limit` bytes."""
        try:
            return self.blob(limit).decode("utf-8", "surrogateescape")
        except UnicodeDecodeError as error:  # pragma: no cover - surrogateescape takes every byte
            raise WireError(f"not UTF-8: {error}") from None

    def count(self, item_bytes: int = 1) -> int:
        """Read how many items follow, each at least `item_bytes` long: never more than the input can hold."""
        return self.uint(self.remaining // item_bytes)

    def rest(self) -> bytes:
        """Read all that is left."""
        return self.fixed(self.remaining)

    def end(self) -> None:
        """Check that nothing is left."""
        if self.remaining:
            raise WireError(f"{self.remaining} bytes too many in a record")


def seal(kind: int, version: int, body: Buffer, key: bytes = b"") -> bytes:
    """Frame a record: kind byte, version byte, body, CRC-32 of the key and all before it (little-endian).

    A record whose key is part of what it means is sealed with it, so that it cannot pass for another's.
    """
    framed = bytes((kind, version)) + bytes(body)
    return framed + _CRC.pack(crc32(framed, crc32(key)))


def unseal(data: Buffer, kind: int, version: int, key: bytes = b"") -> bytes:
    """Return a record's body.

    Args:
        data: the framed record.
        kind: the kind of record expected here.
        version: the highest version of it that the caller can read.
        key: what it was sealed with.

    Raises:
        WireError: too short, wrong checksum or wrong kind.
        NewerFormatError: the record's version is above `version`.
    """
    data = bytes(data)
    if len(data) < 6:
        raise WireError(f"record too short: {len(data)} bytes")
    framed, (crc,) = data[:-4], _CRC.unpack(data[-4:])
    if crc32(framed, crc32(key)) != crc:
        raise WireError("record checksum does not match")
    if framed[0] != kind:
        raise WireError(f"record of kind {framed[0]}, expected kind {kind}")
    if not 1 <= framed[1] <= version:
        raise NewerFormatError(
            f"record of kind {kind} has version {framed[1]}, this program reads up to {version}",
            hint="use the version of modelvault that wrote this vault, or a later one",
        )
    return framed[2:]


def sortable(value: int) -> bytes:
    """Return a key of 1 to 9 bytes that sorts as the number does: a length byte, then big-endian bytes."""
    if not 0 <= value <= MAX_VARINT:
        raise ValueError(f"not an unsigned 64-bit integer: {value}")
    length = (value.bit_length() + 7) // 8
    return bytes((length,)) + value.to_bytes(length, "big")


def read_sortable(key: Buffer) -> int:
    """Return the number that `sortable` wrote.

    Raises:
        WireError: not such a key, or not in its shortest form.
    """
    key = bytes(key)
    if not key or key[0] != len(key) - 1 or key[0] > 8 or (len(key) > 1 and key[1] == 0):
        raise WireError(f"not a number key: {key.hex()}")
    return int.from_bytes(key[1:], "big")
