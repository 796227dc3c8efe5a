"""Are the members of an archive found where they are stored, and said to be unread where they are not?"""

from __future__ import annotations

import io
import struct
import zipfile

import pytest

from modelvault.checkpoint import PARSER_FAILED, BytesSource, Layout, read_layout
from modelvault.tensors import DType

from .archives import FIXTURES, FORMAT_FIXTURES, Member, archive, assert_promises, rebuild


def layout_of(data: bytes) -> Layout:
    layout = read_layout(BytesSource(data))
    assert_promises(layout)
    assert not any(note.startswith(PARSER_FAILED) for note in layout.notes), layout.notes
    assert rebuild(data, layout)[0] == data
    return layout


def rezipped(name: str, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """Return a fixture with its members compressed, as unpacking and packing it leaves it."""
    out = io.BytesIO()
    with zipfile.ZipFile(name) as old, zipfile.ZipFile(out, "w", method) as new:
        for info in old.infolist():
            new.writestr(info.filename, old.read(info))
    return out.getvalue()


def npy(count: int) -> bytes:
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({count},), }}\n".encode()
    return b"\x93NUMPY\x01\0" + struct.pack("<H", len(text)) + text + bytes(range(4 * count))


def test_the_directory_copy_of_each_checksum_is_derived() -> None:
    data = (FORMAT_FIXTURES / "every-dtype.npz").read_bytes()
    layout = layout_of(data)
    members = len(zipfile.ZipFile(io.BytesIO(data)).infolist())
    assert len(layout.checksums) == members
    # A range is a whole member: its header, which stays in the skeleton, and its array.
    assert all(any(c.start < s.offset < c.start + c.length for c in layout.checksums) for s in layout.segments)


def test_a_member_alone_is_as_good_as_many() -> None:
    layout = layout_of(archive([Member("w.npy", npy(9), flags=0)]))
    assert layout.format == "npz"
    assert [(s.name, s.dtype, s.shape) for s in layout.segments] == [("w", DType.F32, (9,))]


@pytest.mark.parametrize(
    ("path", "form"),
    [
        (FIXTURES / "state-dict.pt", "torch-zip (deflated)"),
        (FORMAT_FIXTURES / "every-dtype.npz", "npz (deflated)"),
    ],
    ids=["torch", "numpy"],
)
def test_compressed_members_stay_as_they_are_and_the_format_says_so(path: object, form: str) -> None:
    layout = layout_of(rezipped(str(path)))
    assert layout.format == form
    assert layout.segments == ()
    assert any("left as they are" in note for note in layout.notes)
    assert layout_of(rezipped(str(path), zipfile.ZIP_LZMA)).format == form.replace("deflated", "compressed")


def test_one_deflated_member_does_not_hide_the_others() -> None:
    layout = layout_of(archive([Member("a.npy", npy(9), flags=0), Member("b.npy", npy(4), method=8)]))
    assert layout.format == "npz (deflated)"
    assert [s.name for s in layout.segments] == ["a"]


def test_encrypted_members_are_not_read() -> None:
    layout = layout_of(archive([Member("a.npy", npy(9), flags=1)]))
    assert (layout.format, layout.segments) == ("npz (encrypted)", ())


def test_a_member_that_lies_about_its_array_costs_only_itself() -> None:
    layout = layout_of(archive([Member("a.npy", npy(9)[:-4], flags=0), Member("b.npy", npy(4), flags=0)]))
    assert [s.name for s in layout.segments] == ["b"]
    assert layout.notes[0].startswith("a.npy: npy header announces 36 bytes")


def test_two_members_at_one_place_are_one() -> None:
    first = Member("a.npy", npy(9), flags=0)
    layout = layout_of(archive([first, Member("a.npy", npy(9), flags=0, stated_header=0)]))
    assert len(layout.segments) == 1
