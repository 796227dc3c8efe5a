"""One battery for every kind of record: round trips, one spelling a value, damage, hostile lengths."""

from __future__ import annotations

import random
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelvault import wire
from modelvault.errors import CorruptError, NewerFormatError

from .samples import KINDS

every_kind = pytest.mark.parametrize("name", KINDS)
sealed_kinds = pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind.sealed])


@every_kind
@given(data=st.data())
def test_a_record_comes_back(name: str, data: st.DataObject) -> None:
    kind = KINDS[name]
    value = data.draw(kind.values)
    encoded = kind.to_bytes(value)
    assert kind.from_bytes(encoded) == value
    assert kind.to_bytes(kind.from_bytes(encoded)) == encoded


@every_kind
@given(data=st.data())
def test_different_values_have_different_bytes(name: str, data: st.DataObject) -> None:
    kind = KINDS[name]
    left, right = data.draw(kind.values), data.draw(kind.values)
    assert (kind.to_bytes(left) == kind.to_bytes(right)) == (left == right)


@every_kind
@given(data=st.binary(max_size=200))
def test_arbitrary_bytes_are_an_error_of_ours(name: str, data: bytes) -> None:
    kind = KINDS[name]
    for candidate in (data, b"\x01" + data):
        try:
            kind.from_bytes(candidate)
        except (CorruptError, NewerFormatError):
            continue


@sealed_kinds
@given(body=st.binary(max_size=200))
def test_arbitrary_bodies_under_a_good_seal_are_an_error_of_ours(name: str, body: bytes) -> None:
    """A checksum is no proof of a good writer: what is read may not crash, hang or eat the memory."""
    kind = KINDS[name]
    encoded = kind.to_bytes(kind.sample)
    sealed = wire.seal(encoded[0], encoded[1], body)
    try:
        value = kind.from_bytes(sealed)
    except CorruptError:
        return
    kind.to_bytes(value)


@sealed_kinds
def test_every_truncation_is_an_error(name: str) -> None:
    kind = KINDS[name]
    encoded = kind.to_bytes(kind.sample)
    for length in range(len(encoded)):
        with pytest.raises(CorruptError):
            kind.from_bytes(encoded[:length])
    with pytest.raises(CorruptError):
        kind.from_bytes(encoded + b"\0")


@sealed_kinds
def test_every_flipped_bit_is_an_error(name: str) -> None:
    kind = KINDS[name]
    encoded = kind.to_bytes(kind.sample)
    for bit in range(8 * len(encoded)):
        damaged = bytearray(encoded)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CorruptError):
            kind.from_bytes(bytes(damaged))


@pytest.mark.parametrize("name", ["commit", "template"])
def test_truncations_of_what_others_seal_are_errors(name: str) -> None:
    """A commit is checked against its id and a template is packed and sealed: still, no reader runs off the end."""
    kind = KINDS[name]
    encoded = kind.to_bytes(kind.sample)
    for length in range(len(encoded)):
        try:
            value = kind.from_bytes(encoded[:length])
        except CorruptError:
            continue
        assert value != kind.sample
        assert kind.to_bytes(value) == encoded[:length]  # a template with a shorter skeleton is one too


@sealed_kinds
def test_a_later_version_is_not_called_damage(name: str) -> None:
    kind = KINDS[name]
    encoded = kind.to_bytes(kind.sample)
    with pytest.raises(NewerFormatError):
        kind.from_bytes(wire.seal(encoded[0], 3, encoded[2:-4], kind.key))


@every_kind
def test_hostile_lengths_allocate_nothing(name: str) -> None:
    """Every byte of a record in turn begins the largest number there is."""
    kind = KINDS[name]
    encoded = kind.to_bytes(kind.sample)
    body = encoded[2:-4] if kind.sealed else encoded
    huge = b"\xff" * 9 + b"\x01"
    generator = random.Random(1)
    tracemalloc.start()
    try:
        for place in range(len(body)):
            for number in (huge, b"\xff\xff\xff\xff\x07", generator.randbytes(9) + b"\x01"):
                hostile = body[:place] + number + body[place + 1 :]
                sealed = wire.seal(encoded[0], encoded[1], hostile, kind.key) if kind.sealed else hostile
                try:
                    kind.from_bytes(sealed)
                except (CorruptError, NewerFormatError):
                    continue
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()


def test_kinds_are_told_apart() -> None:
    """A record in the wrong table is found out."""
    first = {name: kind.to_bytes(kind.sample)[:2] for name, kind in KINDS.items() if kind.sealed}
    assert len(set(first.values())) == len(first)
