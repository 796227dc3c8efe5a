"""Is a .npy header read as numpy writes it, and doubted where it lies?"""

from __future__ import annotations

import struct

import pytest

from modelvault.checkpoint import PARSER_FAILED, BytesSource, Layout, read_layout
from modelvault.tensors import DType

from .archives import assert_promises, rebuild

DATA = bytes(range(96))


def file(header: str, data: bytes = DATA, version: int = 1) -> bytes:
    length = struct.pack("<H" if version == 1 else "<I", len(header))
    return b"\x93NUMPY" + bytes([version, 0]) + length + header.encode() + data


def header(descr: str, shape: str, fortran: bool = False) -> str:
    return f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}   \n"


def layout_of(data: bytes) -> Layout:
    layout = read_layout(BytesSource(data))
    assert_promises(layout)
    assert not any(note.startswith(PARSER_FAILED) for note in layout.notes), layout.notes
    assert rebuild(data, layout)[0] == data
    return layout


@pytest.mark.parametrize("version", [1, 2, 3])
def test_the_array_stands_behind_the_header(version: int) -> None:
    data = file(header("'<f4'", "(4, 6)"), version=version)
    (segment,) = layout_of(data).segments
    assert (segment.dtype, segment.shape, segment.name) == (DType.F32, (4, 6), "array")
    assert data[segment.offset : segment.offset + segment.length] == DATA


@pytest.mark.parametrize(
    ("descr", "shape", "dtype", "found"),
    [
        ("'|u1'", "(96,)", DType.U8, (96,)),
        ("'<f8'", "(12,)", DType.F64, (12,)),
        ("'=i2'", "(6, 8)", DType.I16, (6, 8)),
        ("'|V2'", "(48,)", DType.BF16, (48,)),
        ("'|S8'", "(12,)", DType.BYTES, (12 * 8,)),
        ("'<U3'", "(8,)", DType.BYTES, (96,)),
        ("'<M8[ns]'", "(12,)", DType.BYTES, (96,)),
        ("[('a', '<f4'), ('b', '<i4')]", "(12,)", DType.BYTES, (96,)),
        ("'<f8'", "()", DType.F64, ()),
        ("'<f4'", "(2L, 3)", None, ()),
    ],
)
def test_kinds_of_elements(descr: str, shape: str, dtype: DType | None, found: tuple[int, ...]) -> None:
    layout = layout_of(file(header(descr, shape)))
    assert [(s.dtype, s.shape) for s in layout.segments] == ([(dtype, found)] if dtype else [])


def test_columns_first_is_read_as_it_stands() -> None:
    (segment,) = layout_of(file(header("'<f4'", "(4, 6)", fortran=True))).segments
    assert segment.shape == (6, 4)


def test_big_endian_elements_are_bytes_and_the_format_says_so() -> None:
    layout = layout_of(file(header("'>f4'", "(24,)")))
    assert layout.format == "npy (big-endian)"
    assert [(s.dtype, s.length) for s in layout.segments] == [(DType.BYTES, 96)]


@pytest.mark.parametrize(
    "text",
    [
        header("'|O'", "(3,)"),
        header("'<f4'", "(25,)"),
        header("'<f4'", "(-1,)"),
        header("'<f8'", "(" + "9" * 19 + ",)"),
        header("'<f4'", "(" + "9," * 20_000 + ")"),
        "{'descr': __import__('os').system('true')}",
        "{" * 5000,
        "",
    ],
    ids=lambda text: text[:40],
)
def test_headers_that_lie_are_opaque(text: str) -> None:
    layout = layout_of(file(text))
    assert layout.format == "opaque"
    assert layout.notes


@pytest.mark.parametrize(
    "data", [b"\x93NUMPY", b"\x93NUMPY\x01\0", b"\x93NUMPY\x09\0\x10\0", b"\x93NUMPY\x02\0" + b"\xff" * 4]
)
def test_headers_cut_short_are_opaque(data: bytes) -> None:
    assert layout_of(data).format == "opaque"


def test_nothing_of_an_empty_array_is_a_tensor() -> None:
    layout = layout_of(file(header("'<f4'", "(0, 3)"), b""))
    assert (layout.format, layout.segments) == ("npy", ())
