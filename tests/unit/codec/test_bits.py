"""Do fields and Exp-Golomb codes come back from their bits, and is the end of the bits the end?"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelvault.codec import CodecError, bits
from modelvault.codec.bits import BitReader, BitWriter

fields = st.lists(st.integers(0, 57).flatmap(lambda width: st.tuples(st.integers(0, (1 << width) - 1), st.just(width))))


@given(fields)
def test_fields_come_back(found: list[tuple[int, int]]) -> None:
    values, widths = [value for value, _ in found], [width for _, width in found]
    data = bits.join([bits.fields(values, widths)])
    total, number = 0, 0
    for value, width in found:
        number, total = number | value << total, total + width
    assert data == number.to_bytes((total + 7) // 8, "little")
    assert bits.split(data, np.array(widths, np.int64)).tolist() == values
    reader = BitReader(data)
    assert [reader.uint(width) for width in widths] == values
    assert reader.end() == len(data)
    with pytest.raises(CodecError):
        bits.split(data + b"\0", np.array(widths, np.int64))
    if data:
        with pytest.raises(CodecError):
            bits.split(data[:-1], np.array(widths, np.int64))
    if total % 8:
        with pytest.raises(CodecError, match="not zero"):
            bits.split(data[:-1] + bytes((data[-1] | 0x80,)), np.array(widths, np.int64))


@given(st.lists(st.integers(0, 2**24 - 2)), st.integers(0, 7))
def test_codes_come_back(numbers: list[int], k: int) -> None:
    data = bits.join([bits.golomb(np.array(numbers, np.int64), k)])
    assert len(data) == (bits.golomb_bits(np.array(numbers, np.int64), k) + 7) // 8
    reader = BitReader(data)
    assert [reader.golomb(k) for _ in numbers] == numbers
    assert reader.end() == len(data)


def test_codes_are_those_of_the_page() -> None:
    # 5 = ((2^1 + 0 - 1) << 2) + 1: a zero, a one, then u = 0 in one bit and l = 1 in two.
    assert bits.join([bits.golomb([5], 2)]) == bytes([0b01_0_1_0])
    # 5 = (2^2 + 2 - 1): two zeros, a one, then u = 2, lowest bit first.
    assert bits.join([bits.golomb([5], 0)]) == bytes([0b10_1_00])


def test_the_largest_code_and_one_beyond() -> None:
    (value, width) = bits.golomb([(1 << 25) - 2], 0)
    assert BitReader(bits.join([(value, width)])).golomb(0) == (1 << 25) - 2
    with pytest.raises(CodecError, match="more than 24 zeros"):
        BitReader(bits.join([bits.golomb([(1 << 25) - 1], 0)])).golomb(0)
    for data in (b"", b"\0", bytes(3)):
        with pytest.raises(CodecError, match="run out"):
            BitReader(data).golomb(0)
    with pytest.raises(CodecError, match="more than 24"):
        BitReader(bytes(9)).golomb(7)
    with pytest.raises(CodecError, match="run out"):
        BitReader(b"\x80").golomb(1)


def test_the_end_is_padded_with_zeros() -> None:
    reader = BitReader(b"\x10")
    assert reader.uint(4) == 0
    with pytest.raises(CodecError, match="not zero"):
        reader.end()
    assert reader.uint(1) == 1
    assert reader.end() == 1
    assert reader.remaining == 3
    with pytest.raises(CodecError, match="run out"):
        reader.uint(4)


@given(st.lists(st.tuples(st.integers(0, 5000), st.sampled_from([None, 0, 4, 8])), min_size=100, max_size=300))
def test_what_is_written_one_by_one_is_what_is_joined(found: list[tuple[int, int | None]]) -> None:
    """With no order, a number is a field of 13 bits; together they are more than a writer holds back."""
    writer = BitWriter()
    for number, k in found:
        if k is None:
            writer.uint(number, 13)
        else:
            writer.golomb(number, k)
    parts = [bits.fields(number, 13) if k is None else bits.golomb(number, k) for number, k in found]
    assert writer.getvalue() == bits.join(parts)
