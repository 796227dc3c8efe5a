"""Are the archives of a distributed checkpoint's file told apart, and files that merely end in one left alone?"""

from __future__ import annotations

import pytest

from modelvault.checkpoint import PARSER_FAILED, BytesSource, Layout, read_layout, torch_dcp
from modelvault.tensors import DType

from .archives import (
    FORMAT_FIXTURES,
    Member,
    archive,
    assert_promises,
    checkpoint,
    checkpoint_members,
    rebuild,
    tensor_pickle,
)

FLOATS = Member("archive/data/0", bytes(range(64)))


def one(root: str = "archive") -> bytes:
    """A torch archive of one tensor without a name."""
    pickled = tensor_pickle(("", "FloatStorage", "0", (4, 4)))
    storage = Member(f"{root}/data/0", bytes(range(64)))
    return archive(checkpoint_members(pickled, storage, root=root), zip64=True)


def layout_of(data: bytes) -> Layout:
    layout = read_layout(BytesSource(data))
    assert_promises(layout)
    assert not any(note.startswith(PARSER_FAILED) for note in layout.notes), layout.notes
    assert rebuild(data, layout)[0] == data
    return layout


def test_tensors_go_by_their_place() -> None:
    layout = layout_of(one() * 3)
    assert layout.format == "torch-dcp"
    assert [(s.name, s.dtype, s.shape) for s in layout.segments] == [(n, DType.F32, (4, 4)) for n in "012"]
    assert layout.stem == b"archive"
    assert len(layout.checksums) == 3 * len(layout_of(one()).checksums)


def test_one_archive_is_a_torch_archive() -> None:
    assert layout_of(one()).format == "torch-zip"


def test_another_root_is_no_stem() -> None:
    layout = layout_of(one() + one("other") + one())
    assert [s.name for s in layout.segments] == ["0", "1", "2"]
    assert layout.stem == b"archive"


@pytest.mark.parametrize("data", [one() + b"x" + one(), b"PK\x03\x04" + one(), one()[4:] + one(), one() + one()[:-1]])
def test_anything_between_archives_is_opaque(data: bytes) -> None:
    assert layout_of(data).format == "opaque"


def test_another_kind_of_archive_among_them_is_noted() -> None:
    layout = layout_of(one() + archive([Member("a.txt", b"text")]) + one())
    assert [s.name for s in layout.segments] == ["0", "2"]
    assert layout.notes == ("archive 1 is none of torch's",)


def test_short_archives_are_read_as_well() -> None:
    short = checkpoint(tensor_pickle(("w", "FloatStorage", "0", (4, 4))), FLOATS, root="archive")
    assert [s.name for s in layout_of(short + short).segments] == ["0.w", "1.w"]


def test_too_many_archives_are_opaque(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_dcp, "MAX_ARCHIVES", 2)
    assert layout_of(one() * 3).format == "opaque"
    assert layout_of(one() * 2).format == "torch-dcp"


def test_nearly_all_skeleton_of_the_fixture_is_derived_or_known() -> None:
    data = (FORMAT_FIXTURES / "dcp.distcp").read_bytes()
    assert layout_of(data).notes == ()
