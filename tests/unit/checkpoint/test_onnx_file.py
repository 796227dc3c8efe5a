"""Are a model's tensors found wherever they stand in it, and is nothing else taken for a model?"""

from __future__ import annotations

import time

import pytest

from modelvault.checkpoint import PARSER_FAILED, BytesSource, Layout, onnx_file, read_layout
from modelvault.tensors import DType

from .archives import FORMAT_FIXTURES, assert_promises, rebuild

DATA = bytes(range(64))


def varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def message(field: int, content: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(content)) + content


def tensor(name: str, dtype: int, dims: bytes, data: bytes) -> bytes:
    return dims + number(2, dtype) + message(8, name.encode()) + data


def model(*graph: bytes) -> bytes:
    return number(1, 8) + message(7, b"".join(graph))


def layout_of(data: bytes) -> Layout:
    layout = read_layout(BytesSource(data))
    assert_promises(layout)
    assert not any(note.startswith(PARSER_FAILED) for note in layout.notes), layout.notes
    assert rebuild(data, layout)[0] == data
    return layout


W = tensor("w", 1, number(1, 4) + number(1, 4), message(9, DATA))


@pytest.mark.parametrize(
    ("content", "dtype", "shape"),
    [
        (W, DType.F32, (4, 4)),
        (tensor("w", 10, message(1, varint(4) + varint(8)), message(9, DATA)), DType.F16, (4, 8)),
        (tensor("w", 1, number(1, 16), message(4, DATA)), DType.F32, (16,)),
        (tensor("w", 11, number(1, 8), message(10, DATA)), DType.F64, (8,)),
        (tensor("w", 14, number(1, 8), message(4, DATA)), DType.C64, (8,)),
        (tensor("w", 22, number(1, 128), message(9, DATA)), DType.U8, (64,)),  # four bits each
        (tensor("w", 99, number(1, 16), message(9, DATA)), DType.BYTES, (64,)),
        (tensor("w", 1, number(1, 1 << 63) * 3, message(9, DATA)), DType.F32, (16,)),
        (tensor("w", 1, b"", message(9, DATA)), DType.F32, (16,)),
    ],
)
def test_a_tensor_and_its_elements(content: bytes, dtype: DType, shape: tuple[int, ...]) -> None:
    data = model(message(5, content))
    layout = layout_of(data)
    assert layout.format == "onnx"
    (segment,) = layout.segments
    assert (segment.name, segment.dtype, segment.shape) == ("w", dtype, shape)
    assert data[segment.offset : segment.offset + segment.length] == DATA


def test_tensors_are_found_in_nodes_functions_and_graphs_within() -> None:
    node = message(1, message(5, message(5, W)))
    within = message(1, message(5, message(6, message(5, W))))
    sparse = message(15, message(1, W) + message(2, W))
    function = message(25, message(7, message(5, message(5, W))))
    training = message(20, message(1, message(5, W)))
    layout = layout_of(model(node, within, sparse) + function + training)
    assert [s.name for s in layout.segments] == ["w"] * 6


def test_numbers_of_varying_length_stay_in_the_skeleton() -> None:
    layout = layout_of(model(message(5, tensor("w", 7, number(1, 40), message(7, bytes(40))))))
    assert (layout.format, layout.segments) == ("onnx", ())


def test_tensors_in_other_files_are_noted() -> None:
    layout = layout_of((FORMAT_FIXTURES / "external.onnx").read_bytes())
    assert layout.notes == ("1 tensors are in files of their own, which are kept as bytes",)


@pytest.mark.parametrize(
    "data",
    [
        number(1, 8),
        number(1, 8) + message(2, b"a producer and no graph"),
        number(1, 8) + message(7, W) + number(9, 1),
        number(1, 8) + message(7, W) + b"x",
        number(1, 8) + varint(7 << 3 | 2) + varint(1 << 40),
        b"\x08" * 1000,
        b"\x08" + b"\xff" * 1000,
    ],
    ids=range(7),
)
def test_what_is_no_model_is_opaque(data: bytes) -> None:
    assert layout_of(data) == Layout("opaque", len(data))


def test_what_is_damaged_within_ends_the_reading() -> None:
    broken = layout_of(model(message(5, W), varint(5 << 3 | 2) + varint(1000) + bytes(50), b""))
    assert [s.name for s in broken.segments] == ["w"]
    assert "not read to its end" in broken.notes[0]


def test_graphs_nested_without_end_are_not_followed() -> None:
    graph = message(5, W)
    for _ in range(200):
        graph = message(1, message(5, message(6, graph)))
    layout = layout_of(model(message(5, W), graph))
    assert [s.name for s in layout.segments] == ["w"]
    assert layout.notes


def test_a_million_fields_take_no_time_and_end() -> None:
    many = number(1, 8) * 400_000
    start = time.process_time()
    layout = layout_of(model(message(5, W), message(1, many), message(1, many)))
    assert time.process_time() - start < 3  # half of one, where nothing else runs
    assert [s.name for s in layout.segments] == ["w"]
    assert str(onnx_file.MAX_FIELDS) in layout.notes[0]
