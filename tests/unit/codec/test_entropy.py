"""Do packed records come back, and is a record that is like its dictionary small at every length?"""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelvault.codec import CodecError, entropy, pack, unpack


@given(st.binary(max_size=2000), st.binary(max_size=2000))
def test_records_come_back(data: bytes, dictionary: bytes) -> None:
    assert unpack(pack(data), len(data)) == data
    assert unpack(pack(data, dictionary), len(data), dictionary) == data


@given(st.binary(min_size=1, max_size=2000))
def test_the_limit_is_exact(data: bytes) -> None:
    packed = pack(data)
    assert unpack(packed, len(data)) == data
    with pytest.raises(CodecError, match="packed record holds"):
        unpack(packed, len(data) - 1)


@pytest.mark.parametrize("size", [1, 100, 10_000, 300_000, 3_000_000, 12_000_000])
def test_a_patch_is_small_whatever_the_length(size: int) -> None:
    """The changed places cost, the rest does not, from one end of the dictionary to the other."""
    random_ = random.Random(size)
    dictionary = random_.randbytes(size)
    data = bytearray(dictionary)
    places = 1 + size // 10_000
    for _ in range(places):
        data[random_.randrange(size)] ^= 0x55
    data[size // 2 : size // 2] = b"inserted"
    packed = pack(data, dictionary)
    assert len(packed) < 60 + 16 * places
    assert unpack(packed, len(data), dictionary) == data


def test_views_are_taken_and_no_dictionary_is_an_empty_one() -> None:
    data = b"a record, a record, a record"
    assert pack(memoryview(data), b"") == pack(bytearray(data))
    assert unpack(memoryview(pack(data)), 100, memoryview(b"")) == data
    assert pack(b"", b"anything") == b""
    assert unpack(b"", 0, b"anything") == b""


def test_another_dictionary_gives_no_silent_growth() -> None:
    data, dictionary = random.Random(1).randbytes(500), random.Random(1).randbytes(480)
    packed = pack(data, dictionary)
    for other in (b"", dictionary[:100], bytes(480)):
        try:
            assert unpack(packed, 500, other) != data
        except CodecError:
            pass


def test_planes_come_back() -> None:
    for data in (b"a", b"a" * 100_000, random.Random(1).randbytes(100_000)):
        assert entropy.decompress(entropy.compress(data), len(data)) == data
