"""Are the storages of an old torch file found behind its pickles, and only those that are there?"""

from __future__ import annotations

import pickle
import struct

import pytest

from modelvault.checkpoint import PARSER_FAILED, BytesSource, Layout, read_layout, torch_legacy
from modelvault.tensors import DType

from .archives import FORMAT_FIXTURES, assert_promises, rebuild, tensor_pickle

PICKLE = tensor_pickle(("a", "FloatStorage", "0", (4, 4)), ("b", "HalfStorage", "1", (8,)))


def file(
    pickled: bytes = PICKLE,
    keys: object = ("0", "1"),
    storages: tuple[tuple[int, bytes], ...] = ((16, bytes(range(64))), (8, bytes(range(16)))),
    little_endian: bool = True,
) -> bytes:
    facts = {"protocol_version": 1001, "little_endian": little_endian}
    keys = list(keys) if isinstance(keys, tuple) else keys
    head = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickle.dumps(facts, 2)
    body = b"".join(struct.pack("<q", count) + data for count, data in storages)
    return head + pickled + pickle.dumps(keys, 2) + body


def layout_of(data: bytes) -> Layout:
    layout = read_layout(BytesSource(data))
    assert_promises(layout)
    assert not any(note.startswith(PARSER_FAILED) for note in layout.notes), layout.notes
    assert rebuild(data, layout)[0] == data
    return layout


def test_storages_stand_in_the_order_of_their_keys() -> None:
    data = file()
    layout = layout_of(data)
    assert layout.format == "torch-legacy"
    assert [(s.name, s.dtype, s.shape) for s in layout.segments] == [
        ("a", DType.F32, (4, 4)),
        ("b", DType.F16, (8,)),
    ]
    assert layout.segments[-1].offset + 16 == len(data)
    assert [s.name for s in layout_of(file(keys=("1", "0"))).segments] == ["b"]  # counts fit no more


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_the_magic_number_is_known_by_every_protocol(protocol: int) -> None:
    assert torch_legacy.looks_like_torch_legacy(pickle.dumps(0x1950A86A20F9469CFC6C, protocol) + bytes(32))


def test_big_endian_storages_are_bytes_and_the_format_says_so() -> None:
    layout = layout_of(file(little_endian=False))
    assert layout.format == "torch-legacy (big-endian)"
    assert [(s.name, s.dtype) for s in layout.segments] == [("a", DType.BYTES), ("b", DType.BYTES)]


def test_what_follows_an_unknown_storage_is_left_alone() -> None:
    layout = layout_of(file(keys=("0", "9", "1")))
    assert [s.name for s in layout.segments] == ["a"]
    assert "not in the pickle" in layout.notes[0]


@pytest.mark.parametrize("count", [-1, 17, 1 << 62])
def test_a_count_that_leaves_the_file_ends_the_reading(count: int) -> None:
    layout = layout_of(file(storages=((16, bytes(64)), (count, bytes(16)))))
    assert [s.name for s in layout.segments] == ["a"]
    assert "leaves the file" in layout.notes[0]


@pytest.mark.parametrize("keys", [{"0": 1}, "0", None, 7])
def test_keys_that_are_no_list_are_opaque(keys: object) -> None:
    assert layout_of(file(keys=keys)).format == "opaque"


def test_damaged_pickles_are_opaque() -> None:
    layout = layout_of(file(pickled=b"\xff"))
    assert layout.format == "opaque"
    assert layout.notes


def test_a_long_pickle_is_read_in_a_second_try(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_legacy, "_FIRST_BYTES", 100)
    assert len(layout_of(file()).segments) == 2
    monkeypatch.setattr(torch_legacy, "MAX_PICKLE_BYTES", 110)
    assert layout_of(file()).format == "opaque"


def test_truncated_files_keep_what_is_whole() -> None:
    data = (FORMAT_FIXTURES / "checkpoint.pth").read_bytes()
    whole = layout_of(data).segments
    last = whole[-1]
    assert layout_of(data[: last.offset]).segments == whole[:-1]
