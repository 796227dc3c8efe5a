"""What the checkpoint tests share: hand-made archives, the fixtures, and what every layout must keep."""

from __future__ import annotations

import bisect
import io
import itertools
import json
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

from modelvault.checkpoint import Layout
from modelvault.checkpoint.layout import MAX_NAME

FIXTURES = Path(__file__).parents[2] / "fixtures" / "torch-2.13"
FORMATS = {
    "gguf",
    "hdf5",
    "keras",
    "npy",
    "npz",
    "onnx",
    "opaque",
    "safetensors",
    "torch-dcp",
    "torch-legacy",
    "torch-zip",
    "zip",
}
FIXTURE_FILES = sorted(path for path in FIXTURES.iterdir() if path.suffix in (".pt", ".safetensors"))
FORMAT_FIXTURES = FIXTURES.parent / "formats"


@dataclass(frozen=True)
class Stored:
    """One storage as the format's own library found it."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    length: int
    sha256: str


def expectations() -> dict[str, list[Stored]]:
    """What torch found in each fixture."""
    files = json.loads((FIXTURES / "expectations.json").read_text())["files"]
    return {file: _stored(storages) for file, storages in files.items()}


def format_expectations() -> dict[str, tuple[str, list[Stored]]]:
    """The format of each fixture of the other formats, and what their own libraries found in it."""
    files = json.loads((FORMAT_FIXTURES / "expectations.json").read_text())["files"]
    return {
        file: (found["format"], _stored(found["tensors"]))
        for file, found in files.items()
        if found["format"] in FORMATS
    }


def _stored(found: list[dict[str, Any]]) -> list[Stored]:
    return [Stored(s["name"], s["dtype"], tuple(s["shape"]), s["length"], s["sha256"]) for s in found]


FORMAT_FILES = [FORMAT_FIXTURES / name for name in format_expectations()]


@dataclass(frozen=True)
class Member:
    """A record to be written; an int as data is a hole of that many zero bytes."""

    name: str
    data: bytes | int
    flags: int = 8
    method: int = 0
    crc: int | None = None
    local_crc: int | None = None
    local_name: str | None = None
    stated_length: int | None = None
    stated_header: int | None = None
    zip64: bool = False


def write_archive(
    file: BinaryIO,
    members: Iterable[Member],
    *,
    comment: bytes = b"",
    zip64: bool = False,
    stated_count: int | None = None,
) -> None:
    """Write a zip archive as torch does, with whatever lies the members tell."""
    directory = io.BytesIO()
    count = 0
    for member in members:
        count += 1
        name = member.name.encode()
        local_name = (member.local_name or member.name).encode()
        length = member.data if isinstance(member.data, int) else len(member.data)
        crc = member.crc
        if crc is None:
            crc = zlib.crc32(member.data) if isinstance(member.data, bytes) else 0
        header = file.tell()
        local_crc = member.local_crc
        if local_crc is None:
            local_crc = 0 if member.flags & 8 else crc
        fields = (0, member.flags, member.method, 0, 0, local_crc, 0, 0, len(local_name), 0)
        file.write(struct.pack("<4s5H3L2H", b"PK\x03\x04", *fields) + local_name)
        if isinstance(member.data, int):
            file.seek(length, io.SEEK_CUR)
        else:
            file.write(member.data)
        if member.flags & 8:
            file.write(struct.pack("<4sLQQ", b"PK\x07\x08", crc, length, length))
        length = length if member.stated_length is None else member.stated_length
        header = header if member.stated_header is None else member.stated_header
        extra, short_length, short_header = b"", length, header
        if member.zip64 or length >= 0xFFFFFFFF or header >= 0xFFFFFFFF:
            extra = struct.pack("<HHQQQ", 1, 24, length, length, header)
            short_length = short_header = 0xFFFFFFFF
        fixed = (0, 0, member.flags, member.method, 0, 0, crc, short_length, short_length)
        lengths = (len(name), len(extra), 0, 0, 0, 0, short_header)
        directory.write(struct.pack("<4s6H3L5H2L", b"PK\x01\x02", *fixed, *lengths) + name + extra)
    start, size = file.tell(), len(directory.getvalue())
    file.write(directory.getvalue())
    count = count if stated_count is None else stated_count
    if zip64:
        end = file.tell()
        file.write(struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, size, start))
        file.write(struct.pack("<4sLQL", b"PK\x06\x07", 0, end, 1))
        count, size, start = 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF
    file.write(struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, count, count, size, start, len(comment)) + comment)


def archive(members: Iterable[Member], **options: int | bytes | None) -> bytes:
    """Return a zip archive as bytes."""
    file = io.BytesIO()
    write_archive(file, members, **options)  # type: ignore[arg-type]
    return file.getvalue()


def tensor_pickle(*tensors: tuple[str, str, str, tuple[int, ...]]) -> bytes:
    """Return a data.pkl for (name, storage class, key, shape), as torch.save would write it."""
    out = [b"\x80\x02}("]
    for name, kind, key, shape in tensors:
        strides = [prod(shape[i + 1 :]) for i in range(len(shape))]
        out.append(_text(name) + b"ctorch._utils\n_rebuild_tensor_v2\n((")
        out.append(_text("storage") + b"ctorch\n" + kind.encode() + b"\n" + _text(key) + _text("cpu"))
        out.append(_int(prod(shape)) + b"tQ" + _int(0))
        out.append(b"(" + b"".join(map(_int, shape)) + b"t(" + b"".join(map(_int, strides)) + b"t")
        out.append(b"\x89ccollections\nOrderedDict\n)RtR")
    return b"".join(out) + b"u."


def _text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def _int(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def checkpoint(pickled: bytes, *storages: Member, root: str = "run", byteorder: bytes = b"little") -> bytes:
    """Return a torch archive of a pickle and storages whose names are keys."""
    return archive(checkpoint_members(pickled, *storages, root=root, byteorder=byteorder))


def checkpoint_members(
    pickled: bytes | int, *storages: Member, root: str = "run", byteorder: bytes = b"little"
) -> list[Member]:
    """Return the members of a torch archive."""
    return [Member(f"{root}/data.pkl", pickled), Member(f"{root}/byteorder", byteorder), *storages]


def assert_promises(layout: Layout) -> None:
    """Check what `Layout` promises whoever reads it."""
    assert layout.format.partition(" (")[0] in FORMATS
    if layout.format == "opaque":
        assert not (layout.segments or layout.checksums or layout.stem or layout.stem_positions)
    extents = [(s.offset, s.offset + s.length) for s in layout.segments]
    ranges = {(c.start, c.start + c.length) for c in layout.checksums}
    positions = [c.position for c in layout.checksums]
    singles = [(at, at + 4) for at in positions]
    singles += [(at, at + len(layout.stem)) for at in layout.stem_positions]
    for claims in (sorted(extents + singles), sorted(singles + list(ranges))):
        assert all(0 <= start < end <= layout.size for start, end in claims)
        assert all(left[1] <= right[0] for left, right in itertools.pairwise(claims))
    starts = sorted(ranges)
    for start, end in extents:  # within a range, or outside of all
        place = bisect.bisect_right(starts, (start, layout.size)) - 1
        if place >= 0 and starts[place][1] > start:
            assert end <= starts[place][1]
        if place + 1 < len(starts):
            assert end <= starts[place + 1][0]
    assert extents == sorted(extents)
    assert positions == sorted(positions)
    assert list(layout.stem_positions) == sorted(layout.stem_positions)
    assert bool(layout.stem) == bool(layout.stem_positions)
    assert all(c.start + c.length <= c.position for c in layout.checksums)
    for segment in layout.segments:
        assert prod(segment.shape) * segment.dtype.size == segment.length
        segment.name.encode()
        assert len(segment.name) <= MAX_NAME
    for note in layout.notes:
        note.encode()
        assert "\n" not in note


def rebuild(data: bytes, layout: Layout) -> tuple[bytes, int]:
    """Do what a vault does with a layout: cut the file up, derive what can be derived, put it together again.

    Returns:
        the file, and the number of skeleton bytes that were left to keep.
    """
    tensors = [data[s.offset : s.offset + s.length] for s in layout.segments]
    derived: dict[int, tuple[int, int]] = {}
    for checksum in layout.checksums:
        crc = zlib.crc32(data[checksum.start : checksum.start + checksum.length])
        if data[checksum.position : checksum.position + 4] == crc.to_bytes(4, "little"):
            derived[checksum.position] = (checksum.start, checksum.length)
    gaps: list[tuple[int, int, str]] = [(s.offset, s.length, "tensor") for s in layout.segments]
    gaps += [(at, 4, "crc") for at in derived]
    gaps += [(at, len(layout.stem), "stem") for at in layout.stem_positions]
    gaps.sort()
    skeleton, at = [], 0
    for start, length, _ in gaps:
        skeleton.append(data[at:start])
        at = start + length
    skeleton.append(data[at:])

    out = bytearray(skeleton[0])
    payload = iter(tensors)
    for (start, _, kind), following in zip(gaps, skeleton[1:], strict=True):
        if kind == "tensor":
            out += next(payload)
        elif kind == "stem":
            out += layout.stem
        else:
            first, length = derived[start]
            out += zlib.crc32(out[first : first + length]).to_bytes(4, "little")
        out += following
    return bytes(out), sum(map(len, skeleton))
