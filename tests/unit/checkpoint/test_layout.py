"""Does `checked` keep every promise of Layout, whatever a parser claims?"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelvault.checkpoint import Checksum, Layout, Segment, checked, layout, understood_share
from modelvault.tensors import DType

from .archives import assert_promises

NUMBERS = st.integers(-5, 130)
SEGMENTS = st.builds(
    Segment,
    NUMBERS,
    NUMBERS,
    st.sampled_from(DType),
    st.lists(st.integers(-1, 9), max_size=3).map(tuple),
    st.text(max_size=3) | st.just("\ud800"),
)
LAYOUTS = st.builds(
    Layout,
    st.just("torch-zip"),
    st.integers(0, 120),
    st.lists(SEGMENTS, max_size=12).map(tuple),
    st.lists(st.builds(Checksum, NUMBERS, NUMBERS, NUMBERS), max_size=12).map(tuple),
    st.sampled_from([b"", b"run", b"a-long-root"]),
    st.lists(NUMBERS, max_size=8).map(tuple),
    st.lists(st.text(max_size=4), max_size=40).map(tuple),
)


@given(LAYOUTS)
def test_whatever_is_claimed_the_promises_hold(claimed: Layout) -> None:
    result = checked(claimed)
    assert_promises(result)
    assert len(result.notes) <= 36
    assert checked(result).segments == result.segments
    assert checked(result).checksums == result.checksums


def test_what_is_right_stays_as_it_is() -> None:
    right = Layout(
        "torch-zip",
        100,
        (Segment(10, 8, DType.F32, (2, 1), "a"), Segment(40, 8, DType.I64, (), "b")),
        (Checksum(18, 10, 8), Checksum(34, 30, 4), Checksum(90, 10, 8), Checksum(94, 30, 4)),
        b"run",
        (4, 22),
    )
    assert checked(right) == right


def test_a_checksum_whose_range_was_dropped_is_dropped_too() -> None:
    overlapping = Layout(
        "torch-zip",
        100,
        (Segment(0, 10, DType.U8, (10,), ""), Segment(5, 10, DType.U8, (10,), "")),
        (Checksum(20, 0, 10), Checksum(24, 5, 10), Checksum(28, 8, 4)),
    )
    result = checked(overlapping)
    assert result.checksums == (Checksum(20, 0, 10),)
    assert result.segments == overlapping.segments[:1]
    assert "dropped 1 segments" in result.notes[0]


def test_a_dtype_that_does_not_fit_the_length_becomes_bytes() -> None:
    odd = checked(Layout("torch-zip", 10, (Segment(0, 7, DType.F32, (1,), "w"),)))
    assert odd.segments == (Segment(0, 7, DType.BYTES, (7,), "w"),)


def test_too_many_segments_make_a_file_opaque(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "MAX_SEGMENTS", 2)
    many = tuple(Segment(i, 1, DType.U8, (1,), "") for i in range(3))
    assert checked(Layout("torch-zip", 3, many)).format == "opaque"
    assert checked(Layout("torch-zip", 3, many[:2])).format == "torch-zip"


def test_the_share_counts_known_dtypes_only() -> None:
    segments = (Segment(0, 50, DType.BYTES, (50,), ""), Segment(50, 25, DType.U8, (25,), ""))
    assert understood_share(Layout("torch-zip", 100, segments)) == 0.25
    assert understood_share(Layout("opaque", 0)) == 0


def test_a_range_may_hold_segments_but_nothing_may_cross_its_end() -> None:
    claimed = Layout(
        "npz",
        100,
        (
            Segment(0, 8, DType.F32, (2,), "first"),
            Segment(20, 8, DType.F32, (2,), "within"),
            Segment(36, 8, DType.F32, (2,), "across"),
            Segment(50, 8, DType.F32, (2,), "behind"),
        ),
        (Checksum(60, 0, 40), Checksum(64, 30, 20)),
        b"run",
        (10, 70),
    )
    result = checked(claimed)
    assert [segment.name for segment in result.segments] == ["first", "within", "behind"]
    assert result.checksums == (Checksum(60, 0, 40),)
    assert result.stem_positions == (70,)
