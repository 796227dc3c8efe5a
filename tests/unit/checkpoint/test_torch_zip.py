"""Does the layout of a torch archive say what torch itself would say?"""

from __future__ import annotations

import hashlib
import struct
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import pytest

from modelvault.checkpoint import (
    PARSER_FAILED,
    BytesSource,
    FileSource,
    Layout,
    read_layout,
    understood_share,
)
from modelvault.tensors import DType

from .archives import (
    FIXTURE_FILES,
    Member,
    Stored,
    archive,
    assert_promises,
    checkpoint,
    checkpoint_members,
    expectations,
    rebuild,
    tensor_pickle,
    write_archive,
)

EXPECTED = expectations()
FLOATS = bytes(range(64))
PICKLE = tensor_pickle(("a", "FloatStorage", "0", (4, 4)), ("b", "FloatStorage", "1", (16,)))


def layout_of(data: bytes) -> Layout:
    layout = read_layout(BytesSource(data))
    assert_promises(layout)
    assert not any(note.startswith(PARSER_FAILED) for note in layout.notes), layout.notes
    assert rebuild(data, layout)[0] == data
    return layout


def test_every_fixture_is_expected() -> None:
    assert set(EXPECTED) == {path.name for path in FIXTURE_FILES}
    assert sum(path.stat().st_size for path in FIXTURE_FILES) < 2 << 20


@pytest.mark.parametrize("path", FIXTURE_FILES, ids=lambda path: path.name)
def test_fixtures_hold_what_torch_says(path: Path) -> None:
    data = path.read_bytes()
    layout = layout_of(data)
    found = [
        Stored(
            s.name,
            s.dtype.name,
            s.shape,
            s.length,
            hashlib.sha256(data[s.offset : s.offset + s.length]).hexdigest(),
        )
        for s in layout.segments
    ]
    expected = EXPECTED[path.name]
    assert sorted(found, key=repr) == sorted(expected, key=repr)
    assert understood_share(layout) == sum(s.length for s in expected) / len(data) > 0


@pytest.mark.parametrize("path", [p for p in FIXTURE_FILES if p.suffix == ".pt"], ids=lambda path: path.name)
def test_fixtures_derive_all_checksums_and_names(path: Path) -> None:
    data = path.read_bytes()
    layout = layout_of(data)
    assert layout.stem == path.stem.encode()
    with zipfile.ZipFile(path) as theirs:
        plain = [i for i in theirs.infolist() if i.compress_type == 0 and i.file_size]
        assert len(layout.checksums) == 2 * len(plain)
        # Names of compressed records are not looked for in front of them: they may hold anything.
        assert len(layout.stem_positions) >= 2 * len(plain)
    for checksum in layout.checksums:
        crc = zlib.crc32(data[checksum.start : checksum.start + checksum.length])
        assert data[checksum.position : checksum.position + 4] == struct.pack("<L", crc)
    for at in layout.stem_positions:
        assert data[at : at + len(layout.stem) + 1] == layout.stem + b"/"


def test_a_hand_made_archive_reads_like_torchs() -> None:
    data = checkpoint(PICKLE, Member("run/data/0", FLOATS), Member("run/data/1", FLOATS))
    layout = layout_of(data)
    assert [(s.name, s.dtype, s.shape) for s in layout.segments] == [
        ("a", DType.F32, (4, 4)),
        ("b", DType.F32, (16,)),
    ]
    assert (layout.stem, len(layout.stem_positions), len(layout.checksums)) == (b"run", 8, 8)


def test_storages_no_tensor_refers_to_go_by_their_record() -> None:
    (segment,) = layout_of(checkpoint(tensor_pickle(), Member("run/data/7", b"12345678"))).segments
    assert (segment.name, segment.dtype, segment.shape) == ("data/7", DType.BYTES, (8,))


def test_a_length_that_is_no_multiple_of_the_element_is_bytes() -> None:
    (segment,) = layout_of(checkpoint(PICKLE, Member("run/data/0", b"1234567"))).segments
    assert (segment.name, segment.dtype, segment.shape) == ("a", DType.BYTES, (7,))


def test_big_endian_storages_are_bytes() -> None:
    layout = layout_of(checkpoint(PICKLE, Member("run/data/0", FLOATS), byteorder=b"big"))
    assert [s.dtype for s in layout.segments] == [DType.BYTES]
    assert understood_share(layout) == 0
    assert any("big-endian" in note for note in layout.notes)


@pytest.mark.parametrize(
    ("member", "note"),
    [
        (Member("run/data/0", FLOATS, method=8), "compressed or encrypted"),
        (Member("run/data/0", FLOATS, flags=9), "compressed or encrypted"),
        (Member("run/data/0", FLOATS, stated_length=1 << 40), "leaves the file"),
        (Member("run/data/0", FLOATS, stated_header=3), "another record"),
        (Member("run/data/0", FLOATS, local_name="run/data/9"), "another record"),
    ],
)
def test_a_record_in_doubt_stays_out(member: Member, note: str) -> None:
    layout = layout_of(checkpoint(PICKLE, member, Member("run/data/1", FLOATS)))
    assert [s.name for s in layout.segments] == ["b"]
    assert any(note in line for line in layout.notes)


def test_overlapping_records_are_cut() -> None:
    data = bytearray(checkpoint(PICKLE, Member("run/data/0", FLOATS), Member("run/data/1", FLOATS)))
    # The first record claims, in the directory, to reach into the second.
    at = data.rfind(b"run/data/0") - 46
    struct.pack_into("<2L", data, at + 20, 140, 140)
    layout = layout_of(bytes(data))
    assert [s.length for s in layout.segments] == [140]
    assert any("dropped 1 segments" in note for note in layout.notes)


def test_one_record_listed_twice_is_one_segment() -> None:
    first = Member("run/data/0", FLOATS)
    members = checkpoint_members(PICKLE, first)
    header = len(archive(members[:2])) - sum(46 + len(m.name) for m in members[:2]) - 22
    again = Member("run/data/0", FLOATS, stated_header=header)
    layout = layout_of(archive([*members, again]))
    assert len(layout.segments) == 1


def test_two_records_of_one_name_are_two_ranges_at_most() -> None:
    layout = layout_of(checkpoint(PICKLE, Member("run/data/0", FLOATS), Member("run/data/0", FLOATS)))
    assert 1 <= len(layout.segments) <= 2


def test_a_damaged_pickle_costs_only_the_hints() -> None:
    layout = layout_of(checkpoint(PICKLE[:50], Member("run/data/0", FLOATS)))
    assert [(s.name, s.dtype) for s in layout.segments] == [("data/0", DType.BYTES)]
    assert any(note.startswith("data.pkl: ") for note in layout.notes)


def test_a_pickle_of_500_mb_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    with path.open("wb") as file:  # sparse
        write_archive(file, checkpoint_members(500 << 20, Member("run/data/0", FLOATS)))
    tracemalloc.start()
    with FileSource(path) as source:
        layout = read_layout(source)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert_promises(layout)
    assert [s.dtype for s in layout.segments] == [DType.BYTES]
    assert any("too long" in note for note in layout.notes)
    assert peak < 4 << 20


def test_storages_beyond_4_gib_are_understood(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    n = 5 << 28
    pickled = tensor_pickle(("large", "FloatStorage", "0", (n >> 10, 1 << 10)), ("behind", "FloatStorage", "1", (16,)))
    members = checkpoint_members(pickled, Member("run/data/0", 4 * n), Member("run/data/1", FLOATS))
    with path.open("wb") as file:  # sparse
        write_archive(file, members, zip64=True)
    with FileSource(path) as source:
        layout = read_layout(source)
    assert_promises(layout)
    assert [(s.name, s.shape, s.length) for s in layout.segments] == [
        ("large", (n >> 10, 1 << 10), 4 * n),
        ("behind", (16,), 64),
    ]
    assert understood_share(layout) > 0.999
    assert layout.segments[1].offset > 5 << 30


def test_other_archives_have_no_storages() -> None:
    for members in ([Member("a.txt", b"text")], [Member("data.pkl", PICKLE)]):
        layout = layout_of(archive(members))
        assert (layout.format, layout.segments) == ("zip", ())


def test_a_root_without_a_name_has_no_stem() -> None:
    layout = layout_of(checkpoint(PICKLE, Member("/data/0", FLOATS), root=""))
    assert [s.name for s in layout.segments] == ["a"]
    assert (layout.stem, layout.stem_positions) == (b"", ())


def test_strange_names_come_out_clean() -> None:
    strange = tensor_pickle(("a\x1b[31m", "FloatStorage", "0", (4, 4)))
    layout = layout_of(checkpoint(strange, Member("run/data/0", FLOATS), Member("run/data/\u202e\n", FLOATS)))
    assert [s.name for s in layout.segments] == ["a\x1b[31m", "data/\u202e\n"]


def test_many_records_are_read_in_linear_time() -> None:
    count = 20_000
    pickled = tensor_pickle(*((f"layer.{i}", "FloatStorage", str(i), (2,)) for i in range(count)))
    layout = layout_of(checkpoint(pickled, *(Member(f"run/data/{i}", b"12345678") for i in range(count))))
    assert len(layout.segments) == count
    assert layout.segments[-1].name == f"layer.{count - 1}"


def test_too_many_records_are_opaque(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelvault.checkpoint.zip_directory.MAX_RECORDS", 3)
    data = checkpoint(PICKLE, Member("run/data/0", FLOATS), Member("run/data/1", FLOATS))
    layout = layout_of(data)
    assert layout.format == "opaque"
    assert layout.notes
