"""CRC-32: the sum that zip archives and the format's records carry."""

from __future__ import annotations

import zlib

from hypothesis import given
from hypothesis import strategies as st

from modelvault.crc import crc32


@given(st.binary(max_size=300), st.integers(0, 2**32 - 1), st.integers(0, 40))
def test_it_is_zlibs(data: bytes, start: int, skipped: int) -> None:
    rest = memoryview(data)[skipped:]
    assert crc32(rest, start) == zlib.crc32(rest, start)
    assert crc32(data * 7, start) == zlib.crc32(data * 7, start)
