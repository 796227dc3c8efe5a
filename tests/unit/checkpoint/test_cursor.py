"""Does a cursor read what is there, across blocks, and stop where its stretch ends?"""

from __future__ import annotations

import struct

import pytest

from modelvault.checkpoint import BytesSource
from modelvault.checkpoint.cursor import BLOCK, Cursor, CursorError, Window


def test_numbers_are_little_endian() -> None:
    cursor = Cursor(BytesSource(bytes(range(1, 16))))
    assert (cursor.u8(), cursor.u16(), cursor.u32(), cursor.u64()) == (1, 0x0302, 0x07060504, 0x0F0E0D0C0B0A0908)
    assert cursor.left == 0


def test_reading_crosses_blocks() -> None:
    data = bytes(index % 251 for index in range(3 * BLOCK))
    cursor = Cursor(BytesSource(data))
    out = b"".join(cursor.take(length) for length in (1, BLOCK - 3, 7, BLOCK + 9, 100))
    assert out == data[: len(out)]
    cursor.at = 5  # back, too
    assert cursor.take(4) == data[5:9]
    cursor.skip(BLOCK)
    assert cursor.unpack(struct.Struct("<2B")) == (data[9 + BLOCK], data[10 + BLOCK])


@pytest.mark.parametrize("length", [5, 1 << 63, -1])
def test_what_leaves_the_stretch_is_an_error(length: int) -> None:
    cursor = Cursor(BytesSource(bytes(100)), 10, 14)
    with pytest.raises(CursorError):
        cursor.take(length)
    with pytest.raises(CursorError):
        cursor.skip(length)
    assert cursor.take(4) == bytes(4)


def test_the_end_may_be_moved_within_what_was_read_ahead() -> None:
    cursor = Cursor(BytesSource(bytes(100)))
    cursor.u8()
    cursor.end = 4
    with pytest.raises(CursorError):
        cursor.u32()
    assert cursor.take(3) == bytes(3)


def test_base_128_numbers() -> None:
    cursor = Cursor(BytesSource(b"\x00\x7f\xac\x02" + b"\xff" * 9 + b"\x01" + b"\x80" * 11))
    assert [cursor.varint() for _ in range(4)] == [0, 127, 300, (1 << 64) - 1]
    with pytest.raises(CursorError):
        cursor.varint()


def test_a_window_ends_where_it_is_said_to() -> None:
    source = BytesSource(b"0123456789")
    window = Window(source, 3, 4)
    assert (window.size, window.read(1, 2), window.read(2, 99), window.read(9, 1)) == (4, b"45", b"56", b"")
    assert (Window(source, 8, 99).size, Window(source, 99, 1).size) == (2, 0)
