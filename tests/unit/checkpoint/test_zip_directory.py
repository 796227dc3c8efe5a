"""Is the zip directory read strictly, in bounds, and with the right positions?"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from pathlib import Path

import pytest

from modelvault.checkpoint import BytesSource, FileSource
from modelvault.checkpoint import zip_directory as zips
from modelvault.checkpoint.zip_directory import Entry, ZipError, locate, read_directory

from .archives import FIXTURE_FILES, Member, archive

ARCHIVES = [path for path in FIXTURE_FILES if path.suffix == ".pt"]


def entries_of(data: bytes) -> list[Entry]:
    return read_directory(BytesSource(data))


@pytest.mark.parametrize("path", ARCHIVES, ids=lambda path: path.stem)
def test_agrees_with_zipfile(path: Path) -> None:
    data = path.read_bytes()
    source = BytesSource(data)
    with zipfile.ZipFile(path) as theirs:
        entries = read_directory(source)
        assert [e.name.decode() for e in entries] == theirs.namelist()
        for entry, info in zip(entries, theirs.infolist(), strict=True):
            assert data[entry.name_position :].startswith(entry.name)
            if not entry.plain or not entry.length:
                continue
            record = locate(source, entry)
            assert data[record.start : record.start + entry.length] == theirs.read(info)
            assert data[record.local_name_position :].startswith(entry.name)
            crc = struct.pack("<L", info.CRC)
            assert [data[at : at + 4] for at in record.crc_positions] == [crc, crc]
            assert min(record.crc_positions) >= record.start + entry.length


def test_what_zipfile_writes_has_one_checksum_after_the_data() -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as writer:
        writer.writestr("a", b"123")
    source = BytesSource(file.getvalue())
    (entry,) = read_directory(source)
    (position,) = locate(source, entry).crc_positions
    assert source.read(position, 4) == struct.pack("<L", zlib.crc32(b"123"))
    assert position > entry.position


@pytest.mark.parametrize("zip64", [False, True])
def test_comments_and_zip64_ends_are_read(zip64: bool) -> None:
    members = [Member("a", b"one"), Member("b", b"two", zip64=True)]
    data = archive(members, zip64=zip64, comment=b"PK\x05\x06 looks like an end, is a comment")
    assert [(e.name, e.length) for e in entries_of(data)] == [(b"a", 3), (b"b", 3)]


def test_records_beyond_4_gib_are_found(tmp_path: Path) -> None:
    from .archives import write_archive

    path = tmp_path / "large"
    with path.open("wb") as file:  # a sparse file: some 8 KiB on disk
        write_archive(file, [Member("large", 5 << 30), Member("behind", b"data")], zip64=True)
    with FileSource(path) as source:
        large, behind = read_directory(source)
        assert (large.length, locate(source, large).start) == (5 << 30, 35)
        found = locate(source, behind)
        assert found.start > 5 << 30
        assert source.read(found.start, 4) == b"data"
        assert len(found.crc_positions) == 2


def test_every_truncation_is_refused() -> None:
    data = archive([Member("a", b"one"), Member("b", b"two")], zip64=True)
    for length in range(len(data)):
        with pytest.raises(ZipError):
            entries_of(data[:length])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no end record"),
        (b"PK\x05\x06", "no end record"),
        (b"x" + archive([Member("a", b"1")]), "does not end"),
        (archive([Member("a", b"1")]) + b"x", "no end record"),
        (archive([Member("a", b"1")], stated_count=2), "ends within entry 1"),
        (archive([Member("a", b"1"), Member("b", b"2")], stated_count=1), "more than the 1"),
        (archive([Member("a", b"1")], zip64=True, stated_count=1 << 60), "beyond the limits"),
        (archive([Member("a", b"1")]).replace(b"PK\x01\x02", b"PK\x01\x03"), "damaged directory entry 0"),
    ],
)
def test_a_directory_that_contradicts_itself_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(ZipError, match=message):
        entries_of(data)


def test_a_directory_of_4_gb_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "hostile"
    size = 0xFFFFFFF0
    with path.open("wb") as file:
        file.seek(size)
        file.write(struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 9, 9, size, 0, 0))
    with FileSource(path) as source, pytest.raises(ZipError, match="beyond the limits"):
        read_directory(source)


def test_an_archive_in_several_files_is_refused() -> None:
    data = bytearray(archive([Member("a", b"1")]))
    data[-18] = 1
    with pytest.raises(ZipError, match="several files"):
        entries_of(bytes(data))


@pytest.mark.parametrize("extra", [b"", b"\x01\x00\x08\x00" + bytes(8), b"\x01\x00\x18\x00" + bytes(5), b"\x07"])
def test_zip64_fields_that_are_too_short_are_refused(extra: bytes) -> None:
    with pytest.raises(ZipError, match="zip64 extra field"):
        zips._widen(extra, 0xFFFFFFFF, 0xFFFFFFFF, 5)


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (Member("a", b"data", local_name="b"), "another record"),
        (Member("a", b"data", local_name="ab"), "another record"),
        (Member("a", b"data", stated_header=1), "another record"),
        (Member("a", b"data", stated_header=0xFFFFFFF0), "beyond the end"),
        (Member("a", b"data", stated_header=(1 << 64) - 1), "beyond the end"),
        (Member("a", b"data", stated_length=1 << 63), "leaves the file"),
    ],
)
def test_a_record_that_contradicts_the_directory_is_refused(member: Member, message: str) -> None:
    source = BytesSource(archive([member]))
    (entry,) = read_directory(source)
    with pytest.raises(ZipError, match=message):
        locate(source, entry)


def test_checksums_that_disagree_are_no_candidates() -> None:
    for member in (Member("a", b"data", stated_length=3), Member("a", b"data", flags=0, local_crc=7)):
        source = BytesSource(archive([member]))
        (entry,) = read_directory(source)
        assert locate(source, entry).crc_positions == ()


@pytest.mark.parametrize("member", [Member("a", b"x", method=8), Member("a", b"x", flags=9)])
def test_compressed_and_encrypted_records_are_not_plain(member: Member) -> None:
    assert not entries_of(archive([member]))[0].plain
