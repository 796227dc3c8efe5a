"""A second reader of vaults, written from docs/format alone: Python, lmdb, zstd and blake3, nothing of modelvault."""

from __future__ import annotations

import hashlib
import zlib
from pathlib import Path
from typing import NamedTuple

import lmdb
import zstandard
from blake3 import blake3

from tests.unit.codec.plain_decoder import decode

CHUNK = 1_048_576
DELTAS = (2, 3, 4, 17, 18, 19)


class File(NamedTuple):
    path: str
    size: int
    digest: bytes


class Fields:
    """The fields of one record, in order."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def uint(self) -> int:
        value = shift = 0
        while True:
            byte = self.data[self.at]
            self.at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    def sint(self) -> int:
        value = self.uint()
        return -(value + 1) // 2 if value & 1 else value // 2

    def take(self, length: int) -> bytes:
        assert self.at + length <= len(self.data)
        self.at += length
        return self.data[self.at - length : self.at]

    def blob(self) -> bytes:
        return self.take(self.uint())

    def rest(self) -> bytes:
        return self.take(len(self.data) - self.at)


def unsealed(data: bytes, kind: int, key: bytes = b"") -> bytes:
    assert zlib.crc32(key + data[:-4]) == int.from_bytes(data[-4:], "little")
    assert data[0] == kind
    assert data[1] == 1
    return data[2:-4]


def unpacked(data: bytes, dictionary: bytes = b"") -> bytes:
    if not data:
        return b""
    content = (
        zstandard.ZstdCompressionDict(dictionary, dict_type=zstandard.DICT_TYPE_RAWCONTENT) if dictionary else None
    )
    return zstandard.ZstdDecompressor(dict_data=content, max_window_size=1 << 31).decompress(data)


def number_key(number: int) -> bytes:
    length = (number.bit_length() + 7) // 8
    return bytes((length,)) + number.to_bytes(length, "big")


class Vault:
    """A vault that nobody else uses."""

    def __init__(self, directory: Path) -> None:
        environment = lmdb.open(str(directory / "current"), readonly=True, lock=False)
        with environment.begin() as transaction:
            self.entries = {bytes(key): bytes(value) for key, value in transaction.cursor()}
        environment.close()
        assert self.entries[b"\x01format"] == b"1"

    def tip(self) -> bytes:
        """Return the id of the commit HEAD is on."""
        head = self.entries.get(b"\x0aHEAD")
        if head is None:
            branch = b"main"
        else:
            fields = Fields(unsealed(head, 5))
            branch, detached = fields.blob(), fields.rest()
            if detached:
                return detached
        return unsealed(self.entries[b"\x0aheads/" + branch], 4)

    def commit(self, commit_id: bytes) -> tuple[list[bytes], str, list[File]]:
        """Return parents, message and files."""
        data = self.entries[b"\x02" + commit_id]
        assert blake3(data, derive_key_context="modelvault 2026-11 commit id v1").digest() == commit_id
        assert Fields(unsealed(self.entries[b"\x03" + commit_id], 1, commit_id)).uint() == 0  # exact
        fields = Fields(data)
        assert fields.take(1) == b"\x01"
        parents = [fields.take(32) for _ in range(fields.uint())]
        fields.sint(), fields.sint(), fields.blob()
        message = fields.blob().decode()
        files = []
        for _ in range(fields.uint()):
            path, size = fields.blob().decode(), fields.uint()
            files.append(File(path, size >> 1, fields.take(32)))
        return parents, message, files

    def file(self, wanted: File) -> bytes:
        fields = Fields(unsealed(self.entries[b"\x04" + wanted.digest], 3, wanted.digest))
        size, template, patch, stem = fields.uint(), fields.uint(), fields.blob(), fields.blob()
        runs = [(fields.uint(), fields.uint(), fields.uint()) for _ in range(fields.uint())]
        tensors = [number for first, length, _ in runs for number in range(first, first + length)]
        program = unpacked(unsealed(self.entries[b"\x05" + number_key(template)], 7))
        if patch:
            program = unpacked(patch, program)
        out = self.assembled(Fields(program), stem, [self.tensor(number) for number in tensors])
        assert len(out) == size == wanted.size
        assert hashlib.sha256(out).digest() == wanted.digest
        return out

    @staticmethod
    def assembled(fields: Fields, stem: bytes, slots: list[bytes]) -> bytes:
        fields.blob()  # format
        kinds = fields.blob()
        gaps = [fields.uint() for _ in kinds]
        count = kinds.count(0)
        lengths = [fields.uint() for _ in range(count)]
        of_slot = [fields.uint() for _ in range(count)]
        fields.take(count)  # dtypes
        for _ in range(count):
            [fields.uint() for _ in range(fields.uint())]  # shapes
        for _ in range(count):
            fields.blob()  # names
        checks, check = [], 0
        for _ in range(kinds.count(2)):
            check += fields.sint()
            checks.append(check)
        skeleton = Fields(fields.rest())
        used = [0] * len(slots)
        out, ranges, begin, segment, checksum = bytearray(), list[int](), 0, 0, 0
        for kind, gap in zip(kinds, gaps, strict=True):
            out += skeleton.take(gap)
            if kind == 0:
                slot, length = of_slot[segment], lengths[segment]
                out += slots[slot][used[slot] : used[slot] + length]
                used[slot] += length
                segment += 1
            elif kind == 1:
                out += stem
            elif kind == 2:
                out += ranges[checks[checksum]].to_bytes(4, "little")
                checksum += 1
            elif kind == 3:
                begin = len(out)
            else:
                assert kind == 4
                ranges.append(zlib.crc32(out[begin:]))
        assert used == [len(slot) for slot in slots]
        return bytes(out + skeleton.rest())

    def tensor(self, number: int) -> bytes:
        fields = Fields(unsealed(self.entries[b"\x06" + number_key(number)], 2))
        tensor_id, size, parameters, base = fields.take(32), fields.uint(), fields.blob(), fields.uint()
        if base:
            fields.uint(), fields.uint()
        reference = self.tensor(base) if base else b""
        frames = []
        for _ in range(fields.uint()):
            pack, offset = self.entries[b"\x09" + number_key(fields.uint())], fields.uint()
            for length in [fields.uint() for _ in range(fields.uint())]:
                frames.append(pack[offset : offset + length])
                offset += length
        assert fields.rest() == b""
        assert len(frames) == -(-size // CHUNK)
        raw = b""
        for place, frame in enumerate(frames):
            at = place * CHUNK
            below = [reference[at : at + CHUNK]] if frame[0] in DELTAS else []
            raw += decode(frame, min(CHUNK, size - at), parameters, below)
        assert blake3(raw, derive_key_context="modelvault 2026-11 tensor id v1").digest() == tensor_id
        return raw
