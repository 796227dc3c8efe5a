"""Is a safetensors header read as the format says, and doubted where it lies?"""

from __future__ import annotations

import json
import struct
import tracemalloc

import pytest

from modelvault.checkpoint import PARSER_FAILED, BytesSource, Layout, read_layout, understood_share
from modelvault.checkpoint.safetensors_file import _DTYPES
from modelvault.tensors import DType

from .archives import assert_promises, rebuild


def file(header: object, data: bytes = bytes(range(100))) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(dtype: str, shape: list[object], begin: object, end: object) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def layout_of(data: bytes) -> Layout:
    layout = read_layout(BytesSource(data))
    assert_promises(layout)
    assert not any(note.startswith(PARSER_FAILED) for note in layout.notes), layout.notes
    assert rebuild(data, layout)[0] == data
    return layout


def test_tensors_stand_where_the_header_says() -> None:
    header = {
        "__metadata__": {"format": "pt"},
        "second": entry("BF16", [2, 3], 40, 52),
        "empty": entry("F32", [0, 3], 40, 40),
        "first": entry("F32", [2, 5], 0, 40),
    }
    data = file(header)
    layout = layout_of(data)
    assert [(s.name, s.dtype, s.shape) for s in layout.segments] == [
        ("first", DType.F32, (2, 5)),
        ("second", DType.BF16, (2, 3)),
    ]
    assert data[layout.segments[0].offset] == 0
    assert understood_share(layout) == 52 / len(data)
    assert layout.notes == ()


@pytest.mark.parametrize("tag", _DTYPES)
def test_every_dtype_has_its_width(tag: str) -> None:
    dtype = _DTYPES[tag]
    shape: list[object] = [8, 2] if tag == "F4" else [48] if tag.startswith("F6_") else [8]
    length = 48 if tag.startswith("F6_") else 8 * dtype.size
    (segment,) = layout_of(file({"w": entry(tag, shape, 0, length)}, bytes(length))).segments
    assert (segment.dtype, segment.length) == (dtype, length)
    assert segment.shape == {"F4": (8, 1)}.get(tag, (48,) if tag.startswith("F6_") else (8,))


@pytest.mark.parametrize(
    "lie",
    [
        entry("F32", [5], 90, 110),
        entry("F32", [5], -20, 0),
        entry("F32", [5], 20, 0),
        entry("F32", [5], 0, 1 << 70),
        entry("F32", [5], 0.0, 20.0),
        entry("F32", [5], "0", "20"),
        entry("F32", [5], 10, 30),
        {"dtype": "F32"},
        [],
        None,
    ],
    ids=repr,
)
def test_an_entry_that_lies_is_dropped_with_a_note(lie: object) -> None:
    layout = layout_of(file({"good": entry("F32", [5], 0, 20), "lie": lie}))
    assert [s.name for s in layout.segments] == ["good"]
    assert layout.notes


@pytest.mark.parametrize("shape", [[4], [5, 5], [-5], [1 << 80], [0.5], ["5"], [True] * 70, [[]]], ids=repr)
def test_a_shape_that_does_not_fit_is_flat(shape: list[object]) -> None:
    (segment,) = layout_of(file({"w": entry("F32", shape, 0, 20)})).segments
    assert segment.shape == (5,)


def test_unknown_dtypes_are_bytes() -> None:
    (segment,) = layout_of(file({"w": entry("F3_NEW", [5], 0, 20)})).segments
    assert (segment.dtype, segment.shape) == (DType.BYTES, (20,))


@pytest.mark.parametrize(
    "header",
    [
        b"{",
        b"{}x",
        b'{"a":}',
        b'{"\xff":1}',
        b'{"a":' * 100_000,
        b"{" + b" " * 50,
        b'{"a":' + b"9" * 9999 + b"}",
    ],
    ids=lambda header: repr(header[:12]),
)
def test_headers_that_cannot_be_read_are_opaque(header: bytes) -> None:
    layout = layout_of(file(header))
    assert layout.format == "opaque"
    assert layout.notes


def test_names_of_lone_surrogates_and_control_characters_come_out_clean() -> None:
    header = b'{"\\ud800":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"bad\\n":7}'
    layout = layout_of(file(header))
    assert [s.name for s in layout.segments] == ["?"]
    assert layout.notes == ("bad?: header entry not understood",)


def test_a_header_beyond_the_limit_is_not_read() -> None:
    class Large:
        """A file of 10 GB that counts what is read from it."""

        size = 10 << 30
        count = 0

        def read(self, offset: int, length: int) -> bytes:
            self.count += length
            return (struct.pack("<Q", 99 << 20) + b"{" + bytes(length))[offset : offset + length]

    source = Large()
    tracemalloc.start()
    layout = read_layout(source)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert layout.format == "opaque"
    assert "too long" in layout.notes[0]
    assert source.count < 100
    assert peak < 1 << 20
