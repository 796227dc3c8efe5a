"""Do fields come back as they were written, and is everything else an error before it is an allocation?"""

from __future__ import annotations

import math
import struct
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from modelvault import wire
from modelvault.errors import CorruptError, NewerFormatError

UINTS = st.one_of(st.integers(0, 2**64 - 1), st.integers(0, 63).map(lambda bits: 1 << bits))
SINTS = st.integers(-(2**63), 2**63 - 1)


def written(write: Callable[[wire.Writer], None]) -> bytes:
    out = wire.Writer()
    write(out)
    return out.getvalue()


@given(UINTS)
@example(0)
@example(2**64 - 1)
def test_uint_comes_back_in_its_shortest_form(value: int) -> None:
    data = written(lambda out: out.uint(value))
    assert len(data) == max(1, -(-value.bit_length() // 7))
    record = wire.Reader(data)
    assert record.uint() == value
    record.end()


@pytest.mark.parametrize("value", [-1, 2**64])
def test_uint_refuses_what_does_not_fit(value: int) -> None:
    with pytest.raises(ValueError, match="64-bit"):
        wire.Writer().uint(value)
    with pytest.raises(ValueError, match="64-bit"):
        wire.sortable(value)


@given(SINTS)
@example(-1)
@example(-(2**63))
def test_sint_comes_back(value: int) -> None:
    data = written(lambda out: out.sint(value))
    assert wire.Reader(data).sint() == value


def test_small_magnitudes_are_short_whatever_their_sign() -> None:
    def code(value: int) -> str:
        return written(lambda out: out.sint(value)).hex()

    assert [code(value) for value in (0, -1, 1, -2, 2, -64)] == [
        "00",
        "01",
        "02",
        "03",
        "04",
        "7f",
    ]


@pytest.mark.parametrize(
    "data",
    ["8000", "ff00", "808000", "ffffffffffffffffff7f", "80808080808080808000"],
    ids=["two bytes for 0", "two bytes for 127", "three bytes for 0", "64 bits and more", "ten bytes for 0"],
)
def test_a_longer_or_larger_number_than_needed_is_an_error(data: str) -> None:
    with pytest.raises(wire.WireError):
        value = wire.Reader(bytes.fromhex(data)).uint()
        assert value <= wire.MAX_VARINT


@given(st.binary(max_size=12))
def test_a_number_has_one_spelling(data: bytes) -> None:
    """Whatever is read as a number is what would have been written for it."""
    record = wire.Reader(data)
    try:
        value = record.uint()
    except wire.WireError:
        return
    assert written(lambda out: out.uint(value)) == data[: len(data) - record.remaining]


@given(st.floats(allow_nan=True), st.binary(), st.text(), st.text().map(lambda t: t.encode("utf-8", "replace")))
def test_other_fields_come_back(number: float, blob: bytes, text: str, fixed: bytes) -> None:
    text = text.encode("utf-8", "surrogateescape" if not _has_odd_surrogate(text) else "replace").decode("utf-8")

    def write(out: wire.Writer) -> None:
        out.float64(number)
        out.blob(blob)
        out.text(text)
        out.fixed(fixed)

    record = wire.Reader(written(write))
    assert struct.pack("<d", record.float64()) == struct.pack("<d", number)
    assert (record.blob(), record.text(), record.rest()) == (blob, text, fixed)
    record.end()


def _has_odd_surrogate(text: str) -> bool:
    return any(0xD800 <= ord(letter) < 0xE000 for letter in text)


@given(st.binary())
def test_names_that_are_no_utf8_come_back_too(name: bytes) -> None:
    text = name.decode("utf-8", "surrogateescape")
    assert wire.Reader(written(lambda out: out.text(text))).text() == text


HOSTILE: dict[str, Callable[[wire.Reader], Any]] = {
    "blob": lambda record: record.blob(),
    "text": lambda record: record.text(),
    "count": lambda record: [record.fixed(32) for _ in range(record.count(32))],
}


@pytest.mark.parametrize("read", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("length", [2**31, 2**40, 2**63, 2**64 - 1])
def test_a_length_that_the_input_has_not_earned_allocates_nothing(
    read: Callable[[wire.Reader], Any], length: int
) -> None:
    data = written(lambda out: out.uint(length)) + bytes(100)
    tracemalloc.start()
    try:
        with pytest.raises(wire.WireError):
            read(wire.Reader(data))
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_count_is_bounded_by_what_items_take() -> None:
    assert wire.Reader(b"\x02" + bytes(8)).count(4) == 2
    with pytest.raises(wire.WireError, match="limit"):
        wire.Reader(b"\x03" + bytes(8)).count(4)


def test_limits_are_kept() -> None:
    assert wire.Reader(b"\x05").uint(5) == 5
    with pytest.raises(wire.WireError, match="limit 4"):
        wire.Reader(b"\x05").uint(4)
    with pytest.raises(wire.WireError):
        wire.Reader(b"\x05hello").text(4)
    with pytest.raises(wire.WireError):
        wire.Reader(b"abc").fixed(-1)


def test_what_is_left_over_is_an_error() -> None:
    with pytest.raises(wire.WireError, match="2 bytes too many"):
        wire.Reader(b"ab").end()


@given(st.integers(0, 255), st.binary(max_size=300))
def test_a_sealed_record_comes_back(kind: int, body: bytes) -> None:
    sealed = wire.seal(kind, 1, body)
    assert wire.unseal(sealed, kind, 1) == body
    assert len(sealed) == len(body) + 6


def test_every_damage_to_a_seal_is_noticed() -> None:
    sealed = wire.seal(3, 1, b"what is kept")
    for length in range(len(sealed)):
        with pytest.raises(wire.WireError):
            wire.unseal(sealed[:length], 3, 1)
    for bit in range(8 * len(sealed)):
        damaged = bytearray(sealed)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(wire.WireError):
            wire.unseal(damaged, 3, 1)


def test_another_kind_is_damage_and_a_later_version_is_not() -> None:
    with pytest.raises(wire.WireError, match="kind 4, expected kind 3"):
        wire.unseal(wire.seal(4, 1, b""), 3, 1)
    with pytest.raises(NewerFormatError, match="version 2") as caught:
        wire.unseal(wire.seal(3, 2, b""), 3, 1)
    assert not isinstance(caught.value, CorruptError)
    assert caught.value.hint


@given(UINTS, UINTS)
def test_keys_sort_as_their_numbers_do(left: int, right: int) -> None:
    assert (wire.sortable(left) < wire.sortable(right)) == (left < right)
    assert wire.read_sortable(wire.sortable(left)) == left


@given(st.binary(max_size=10))
def test_a_number_has_one_key(key: bytes) -> None:
    try:
        value = wire.read_sortable(key)
    except wire.WireError:
        return
    assert wire.sortable(value) == key


def test_nan_keeps_its_payload_on_the_wire() -> None:
    """Canonical spelling is the business of who writes a commit; the wire carries what it gets."""
    quiet = struct.unpack("<d", bytes.fromhex("010000000000f87f"))[0]
    data = written(lambda out: out.float64(quiet))
    assert data.hex() == "010000000000f87f"
    assert math.isnan(wire.Reader(data).float64())
