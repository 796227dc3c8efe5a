"""Are levels, values and roundings of words those of IEEE 754, for every word of 16 bits and against `struct`?"""

from __future__ import annotations

import math
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelvault.codec import floats, order
from modelvault.codec.floats import BFLOAT16, BINARY16, BINARY32, Format

EVERY_FORMAT = pytest.mark.parametrize("format_", [BINARY32, BFLOAT16, BINARY16], ids=["f32", "bf16", "f16"])


@EVERY_FORMAT
def test_levels_are_exponent_fields(format_: Format) -> None:
    high: order.Words = np.arange(1 << 16).astype(f"<u{format_.word_bytes}")
    words: order.Words = (high << (format_.bits - 16)).astype(high.dtype)
    for word, level, special in zip(
        words.tolist(), floats.levels(words, format_).tolist(), floats.special(words, format_).tolist(), strict=True
    ):
        assert level == word >> format_.mantissa & format_.top_level
        assert special == (level in (0, format_.top_level))


@EVERY_FORMAT
def test_every_value_rounds_to_its_word(format_: Format) -> None:
    high: order.Words = np.arange(1 << 16).astype(f"<u{format_.word_bytes}")
    words: order.Words = (high << (format_.bits - 16)).astype(high.dtype)
    values = floats.numbers(words, format_)
    known = ~np.isnan(values)
    assert np.array_equal(floats.rounded(values, format_)[known], words[known])
    nans = floats.rounded(values, format_)[~known]
    assert (floats.levels(nans, format_) == format_.top_level).all()
    # Half-way to the next number of the same sign, the even one of the two; a little less or more, the nearer one.
    finite = words[(floats.levels(words, format_) < format_.top_level) & (floats.levels(words, format_) > 0)]
    value, following = floats.numbers(finite, format_), floats.numbers(finite + finite.dtype.type(1), format_)
    usable = np.isfinite(following)
    finite, value, following = finite[usable], value[usable], following[usable]
    if format_ is BINARY32:
        middle = (value + following) / 2
        assert np.array_equal(floats.rounded(middle, format_), finite + (finite & 1))
        assert np.array_equal(floats.rounded(np.nextafter(middle, value), format_), finite)
        assert np.array_equal(floats.rounded(np.nextafter(middle, following), format_), finite + 1)
    else:
        middle = (value + following) / 2  # a binary32
        assert np.array_equal(floats.rounded(middle, format_), finite + (finite & 1))
        # What is nearer to the middle than binary32 can tell counts as the middle: both roundings are specified.
        assert np.array_equal(floats.rounded(np.nextafter(middle, value), format_), finite + (finite & 1))


@given(st.floats())
def test_binary32_and_binary16_round_as_struct_does(value: float) -> None:
    (word,) = floats.rounded(np.array([value]), BINARY32).tolist()
    try:
        expected = struct.pack("<f", value)
    except OverflowError:
        expected = struct.pack("<f", math.copysign(math.inf, value))
    if not math.isnan(value):
        assert word.to_bytes(4, "little") == expected
        (single,) = struct.unpack("<f", expected)
        try:
            half = struct.pack("<e", single)
        except OverflowError:
            half = struct.pack("<e", math.copysign(math.inf, value))
        (word,) = floats.rounded(np.array([value]), BINARY16).tolist()
        assert word.to_bytes(2, "little") == half
