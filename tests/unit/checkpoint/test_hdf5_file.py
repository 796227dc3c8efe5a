"""Is the graph of an HDF5 file walked to its datasets, in bounded work, whatever its addresses say?"""

from __future__ import annotations

import struct
import time
import zipfile

import pytest

from modelvault.checkpoint import PARSER_FAILED, BytesSource, Layout, hdf5_file, read_layout
from modelvault.tensors import DType

from .archives import FORMAT_FIXTURES, Member, archive, assert_promises, rebuild

NOWHERE = (1 << 64) - 1
ROOT = 96


def superblock(root: int = ROOT) -> bytes:
    """Version 2, padded to 96 bytes."""
    head = hdf5_file.SIGNATURE + bytes([2, 8, 8, 0]) + struct.pack("<4Q", 0, NOWHERE, 0, root)
    return head.ljust(ROOT, b"\0")


def header(*messages: tuple[int, bytes]) -> bytes:
    """Version 1."""
    body = b"".join(struct.pack("<2HB3x", kind, len(data), 0) + data for kind, data in messages)
    return struct.pack("<BxHLL4x", 1, len(messages), 1, len(body)) + body


def link(name: str, address: int) -> tuple[int, bytes]:
    return 6, bytes([1, 0, len(name)]) + name.encode() + struct.pack("<Q", address)


def dataset(offset: int, length: int, shape: tuple[int, ...] = (4, 4), datatype: bytes = b"", layout: int = 1) -> bytes:
    space = bytes([2, len(shape), 0, 1]) + struct.pack(f"<{len(shape)}Q", *shape)
    float32 = bytes([0x11, 0x20, 0x3F, 0]) + struct.pack("<L2H4BL", 4, 0, 32, 23, 8, 0, 23, 127)
    return header((1, space), (3, datatype or float32), (8, struct.pack("<2B2Q", 3, layout, offset, length)))


def file(*objects: bytes) -> bytes:
    """A root group with these objects as members a, b, ... at every 256th byte, and 1 KiB of data at the end."""
    places = [512 + 256 * index for index in range(len(objects))]
    root = header(*(link(chr(97 + index), at) for index, at in enumerate(places)))
    return (superblock() + root).ljust(512, b"\0") + b"".join(o.ljust(256, b"\0") for o in objects) + bytes(1024)


def layout_of(data: bytes) -> Layout:
    layout = read_layout(BytesSource(data))
    assert_promises(layout)
    assert not any(note.startswith(PARSER_FAILED) for note in layout.notes), layout.notes
    assert rebuild(data, layout)[0] == data
    return layout


def test_a_dataset_is_where_its_layout_says() -> None:
    layout = layout_of(file(dataset(1024, 64), dataset(1100, 64, (16,))))
    assert [(s.name, s.offset, s.dtype, s.shape) for s in layout.segments] == [
        ("a", 1024, DType.F32, (4, 4)),
        ("b", 1100, DType.F32, (16,)),
    ]


@pytest.mark.parametrize(
    ("datatype", "dtype"),
    [
        (bytes([0x10, 8, 0, 0]) + struct.pack("<L2H", 4, 0, 32), DType.I32),
        (bytes([0x10, 0, 0, 0]) + struct.pack("<L2H", 1, 0, 8), DType.U8),
        (
            bytes([0x18, 2, 0, 0]) + struct.pack("<L", 1) + bytes([0x10, 8, 0, 0]) + struct.pack("<L2H", 1, 0, 8),
            DType.I8,
        ),
        (bytes([0x11, 0, 0, 0]) + struct.pack("<L2H4BL", 2, 0, 16, 7, 8, 0, 7, 127), DType.BF16),
        (bytes([0x11, 0, 0, 0]) + struct.pack("<L2H4BL", 3, 0, 24, 15, 8, 0, 15, 127), None),
        (bytes([0x13, 0, 0, 0]) + struct.pack("<L", 8), None),
        (bytes([0x10, 8, 0, 0]) + struct.pack("<L2H", 5, 0, 40), None),
    ],
)
def test_kinds_of_elements(datatype: bytes, dtype: DType | None) -> None:
    layout = layout_of(file(dataset(1024, 64, datatype=datatype)))
    assert [s.dtype for s in layout.segments] == ([dtype] if dtype else [])


def test_chunked_and_big_endian_files_say_so() -> None:
    assert layout_of(file(dataset(1024, 64, layout=2))).format == "hdf5 (chunked)"
    big = bytes([0x11, 0x21, 0x3F, 0]) + struct.pack("<L2H4BL", 4, 0, 32, 23, 8, 0, 23, 127)
    assert layout_of(file(dataset(1024, 64, datatype=big))).format == "hdf5 (big-endian)"
    assert layout_of(file(dataset(1024, 64, datatype=big), dataset(1100, 64))).format == "hdf5"


@pytest.mark.parametrize(("offset", "length"), [(NOWHERE, 64), (1024, 0), (1 << 63, 64), (1024, 1 << 63)])
def test_elements_that_are_nowhere_are_no_tensor(offset: int, length: int) -> None:
    assert layout_of(file(dataset(offset, length), dataset(1100, 64))).segments[0].name == "b"


def test_large_groups_of_the_new_kind_are_noted() -> None:
    layout = layout_of((FORMAT_FIXTURES / "large-group.h5").read_bytes())
    assert [s.name for s in layout.segments] == ["weight"]
    assert layout.notes == ("many: large group, its members are not read",)


def test_groups_that_hold_themselves_are_read_once() -> None:
    layout = layout_of(file(dataset(1024, 64), header(link("again", ROOT), link("other", 512))))
    assert len(layout.segments) == 1


def test_headers_that_go_on_in_a_circle_come_to_an_end() -> None:
    circle = header((16, struct.pack("<2Q", 512 + 16, 24)))
    start = time.process_time()
    layout = layout_of(file(circle))
    assert time.process_time() - start < 5  # half a second, where nothing else runs
    assert layout.notes == (f"a: more than {hdf5_file.MAX_STEPS} steps",)


def test_many_groups_that_share_one_large_heap_cost_no_more() -> None:
    heap = 1 << 20
    group = header((17, struct.pack("<2Q", 0, 600)))
    data = bytearray(file(*[group] * 20))
    data[600:632] = struct.pack("<4s4x3Q", b"HEAP", heap, 0, 8192)
    data += bytes(heap + 8192)
    reads = 0

    class Counting(BytesSource):
        def read(self, offset: int, length: int) -> bytes:
            nonlocal reads
            reads += length
            return super().read(offset, length)

    layout = read_layout(Counting(bytes(data)))
    assert layout.segments == ()
    assert reads < 256 * hdf5_file.MAX_STEPS


@pytest.mark.parametrize(
    "head", [b"", bytes([9, 8, 8, 0]), bytes([2, 4, 8, 0]) + bytes(40), bytes([2, 8, 8, 0]) + b"\1" * 40]
)
def test_superblocks_of_another_kind_are_opaque(head: bytes) -> None:
    layout = layout_of(hdf5_file.SIGNATURE + head)
    assert layout.format == "opaque"
    assert layout.notes


def test_a_keras_file_is_read_through_its_archive() -> None:
    path = FORMAT_FIXTURES / "model.keras"
    layout = layout_of(path.read_bytes())
    assert layout.format == "keras"
    assert {s.name for s in layout.segments} >= {"layers/conv2d/vars/0", "optimizer/vars/2"}
    with zipfile.ZipFile(path) as opened:
        members = {name: opened.read(name) for name in opened.namelist()}
    elsewhere = layout_of(archive([Member("a.h5", members["model.weights.h5"], flags=0)]))
    assert elsewhere.format == "zip"
    assert {s.name for s in elsewhere.segments} >= {"a.h5/layers/conv2d/vars/0"}
