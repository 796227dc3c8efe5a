"""Is the dtype table what the format says, for ever?"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelvault.tensors import BY_CODE, CHUNK_BYTES, DType, chunk_sizes

TABLE = """
    0 BYTES 1 bytes        1 BOOL 1 bool         2 U8 1 uint          3 I8 1 int
    4 U16 2 uint           5 I16 2 int           6 U32 4 uint         7 I32 4 int
    8 U64 8 uint           9 I64 8 int           10 F16 2 float       11 BF16 2 float
    12 F32 4 float         13 F64 8 float        14 F8_E4M3 1 float   15 F8_E5M2 1 float
    16 F8_E4M3FNUZ 1 float 17 F8_E5M2FNUZ 1 float 18 F8_E8M0 1 uint   19 F4X2 1 bytes
    20 C32 4 complex       21 C64 8 complex      22 C128 16 complex
"""
"""Written a second time on purpose: a code that changes its meaning makes vaults unreadable."""


def test_the_table_is_what_it_was() -> None:
    words = TABLE.split()
    rows = [(int(words[i]), words[i + 1], int(words[i + 2]), words[i + 3]) for i in range(0, len(words), 4)]
    assert [(d.code, d.name, d.size, d.kind) for d in DType] == rows


def test_codes_are_bytes_and_stand_once() -> None:
    assert sorted(BY_CODE) == sorted({dtype.code for dtype in DType})
    assert len(BY_CODE) == len(DType)
    assert all(0 <= code < 256 and BY_CODE[code].code == code for code in BY_CODE)


@pytest.mark.parametrize("dtype", DType)
def test_a_chunk_holds_whole_elements(dtype: DType) -> None:
    assert CHUNK_BYTES % dtype.size == 0


@given(st.one_of(st.integers(0, 5 * CHUNK_BYTES), st.integers(0, 5).map(lambda n: n * CHUNK_BYTES)))
def test_chunks_cover_a_tensor(nbytes: int) -> None:
    sizes = chunk_sizes(nbytes)
    assert sum(sizes) == nbytes
    assert len(sizes) == -(-nbytes // CHUNK_BYTES)
    assert all(size == CHUNK_BYTES for size in sizes[:-1])
    assert all(0 < size <= CHUNK_BYTES for size in sizes)
