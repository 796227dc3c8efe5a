"""Are the tables of a GGUF file read as they are written, in bounded time, and doubted where they lie?"""

from __future__ import annotations

import struct

import pytest

from modelvault.checkpoint import PARSER_FAILED, BytesSource, Layout, gguf_file, read_layout
from modelvault.tensors import DType

from .archives import FORMAT_FIXTURES, assert_promises, rebuild

Tensor = tuple[str, tuple[int, ...], int, int]  # name, dimensions (innermost first), type, offset


def string(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def entry(key: bytes, kind: int, value: bytes) -> bytes:
    return string(key) + struct.pack("<I", kind) + value


def array(kind: int, count: int, values: bytes = b"") -> bytes:
    return struct.pack("<IQ", kind, count) + values


def file(
    tensors: list[Tensor], *entries: bytes, data: bytes = bytes(1024), version: int = 3, alignment: int = 32
) -> bytes:
    table = b"".join(
        string(name.encode()) + struct.pack(f"<I{len(dimensions)}QIQ", len(dimensions), *dimensions, kind, offset)
        for name, dimensions, kind, offset in tensors
    )
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(entries)) + b"".join(entries) + table
    return head + bytes(-len(head) % alignment) + data


def layout_of(data: bytes) -> Layout:
    layout = read_layout(BytesSource(data))
    assert_promises(layout)
    assert not any(note.startswith(PARSER_FAILED) for note in layout.notes), layout.notes
    assert rebuild(data, layout)[0] == data
    return layout


def test_tensors_stand_behind_the_tables() -> None:
    data = file([("a", (4, 8), 0, 0), ("b", (5,), 1, 128), ("none", (0, 5), 0, 160)], version=2)
    layout = layout_of(data)
    assert [(s.name, s.dtype, s.shape) for s in layout.segments] == [
        ("a", DType.F32, (8, 4)),
        ("b", DType.F16, (5,)),
    ]
    assert layout.segments[0].offset == len(data) - 1024


def test_the_alignment_is_that_of_the_metadata() -> None:
    alignment = entry(b"general.alignment", 4, struct.pack("<I", 512))
    data = file([("a", (4,), 0, 0)], alignment, alignment=512)
    assert layout_of(data).segments[0].offset == len(data) - 1024
    zero = entry(b"general.alignment", 4, bytes(4))
    assert layout_of(file([("a", (4,), 0, 0)], zero)).format == "opaque"


def test_quantised_tensors_are_rows_of_bytes() -> None:
    for kind, (block, size) in gguf_file._BLOCKS.items():
        (segment,) = layout_of(file([("q", (block, 2), kind, 0)])).segments
        assert (segment.dtype, segment.shape) == (DType.U8, (2 * size,))


def test_metadata_of_every_kind_is_passed_over() -> None:
    values = [entry(b"k", kind, bytes(width)) for kind, width in gguf_file._WIDTHS.items()]
    values += [entry(b"a", 9, array(kind, 3, bytes(3 * width))) for kind, width in gguf_file._WIDTHS.items()]
    values += [
        entry(b"s", 8, string(b"text")),
        entry(b"w", 9, array(8, 2, string(b"one") + string(b"two"))),
        entry(b"n", 9, array(9, 2, array(0, 1, b"x") + array(8, 1, string(b"y")))),
    ]
    assert [s.name for s in layout_of(file([("a", (4,), 0, 0)], *values)).segments] == ["a"]


@pytest.mark.parametrize(
    "lie",
    [
        entry(b"k", 13, bytes(8)),
        entry(b"k", 8, struct.pack("<Q", 1 << 63)),
        entry(b"k", 9, array(0, 1 << 62)),
        entry(b"k", 9, array(8, 1 << 62)),
        entry(b"k", 9, array(9, 1 << 62, array(0, 0) * 10)),
        entry(b"k", 9, array(9, 1, array(9, 1, array(9, 1, array(9, 1, array(9, 1, array(0, 0))))))),
    ],
    ids=range(6),
)
def test_metadata_that_lies_is_opaque(lie: bytes) -> None:
    layout = layout_of(file([("a", (4,), 0, 0)], lie))
    assert layout.format == "opaque"
    assert layout.notes


@pytest.mark.parametrize(
    "lie",
    [
        ("b", (4,), 0, 1 << 63),
        ("b", (1 << 62, 1 << 62), 0, 0),
        ("b", (1 << 20,), 2, 0),
        ("b", (4,), 99, 0),
        ("b", (4,), 0, 0),
    ],
    ids=repr,
)
def test_a_tensor_that_lies_is_dropped_with_a_note(lie: Tensor) -> None:
    layout = layout_of(file([("a", (4,), 0, 0), lie]))
    assert [s.offset for s in layout.segments] == [len(file([("a", (4,), 0, 0), lie])) - 1024]
    assert layout.notes


def test_counts_beyond_the_limits_are_not_walked() -> None:
    for counts in ((1 << 40, 0), (0, 1 << 40)):
        layout = layout_of(b"GGUF" + struct.pack("<IQQ", 3, *counts) + bytes(100))
        assert layout.format == "opaque"
        assert "beyond the limits" in layout.notes[0]


def test_too_many_dimensions_are_opaque() -> None:
    assert layout_of(file([("a", (1, 1, 1, 1, 4), 0, 0)])).format == "opaque"


def test_other_versions_and_big_endian_files_are_opaque_and_said_so() -> None:
    assert layout_of(file([("a", (4,), 0, 0)], version=9)).notes == ("GGUF file of unknown version 9",)
    layout = layout_of(b"GGUF" + struct.pack(">IQQ", 3, 1, 0) + bytes(100))
    assert (layout.format, layout.segments) == ("gguf (big-endian)", ())


def test_a_vocabulary_is_passed_over_in_blocks() -> None:
    words = b"".join(string(b"word") for _ in range(50_000))

    class Counting(BytesSource):
        reads = 0

        def read(self, offset: int, length: int) -> bytes:
            Counting.reads += 1
            assert length <= 1 << 16
            return super().read(offset, length)

    data = file([("a", (4,), 0, 0)], entry(b"tokenizer.ggml.tokens", 9, array(8, 50_000, words)))
    assert len(read_layout(Counting(data)).segments) == 1
    assert Counting.reads < 20


def test_nearly_all_of_a_fixture_is_understood() -> None:
    data = (FORMAT_FIXTURES / "every-type.gguf").read_bytes()
    assert sum(s.length for s in layout_of(data).segments) > 0.85 * len(data)
