"""Are distances what the definition says, for every dtype, over any chunking, with NaN and infinities left out?"""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from modelvault.codec import compare, npy_bytes, plain_numbers
from modelvault.codec.compare import Sums
from modelvault.codec.values import NPY_DTYPES, has_values, values
from modelvault.tensors import DType

NUMBERS = [dtype for dtype in DType if has_values(dtype)]
RANDOM = np.random.default_rng(0)


def test_distances_are_those_of_the_definition() -> None:
    before = RANDOM.normal(size=200_000).astype("f4")
    after = before.copy()
    after[::4] += RANDOM.normal(size=50_000).astype("f4") / 10
    found = compare(before.tobytes(), DType.F32, after.tobytes(), DType.F32)
    wide, other = before.astype("f8"), after.astype("f8")
    assert found.elements == 200_000
    assert found.changed == np.count_nonzero(before != after)
    assert found.largest == np.abs(other - wide).max()
    assert found.relative_l2 == pytest.approx(np.linalg.norm(other - wide) / np.linalg.norm(wide), rel=1e-12)
    cosine = wide @ other / np.linalg.norm(wide) / np.linalg.norm(other)
    assert found.cosine == pytest.approx(cosine, rel=1e-12)


@pytest.mark.parametrize("dtype", DType, ids=lambda dtype: dtype.name)
def test_chunks_add_up(dtype: DType) -> None:
    size = 3000 * dtype.size
    before, after = RANDOM.bytes(size), RANDOM.bytes(size)
    whole = compare(before, dtype, after, dtype)
    cut = 1000 * dtype.size
    parts = compare(before[:cut], dtype, after[:cut], dtype).plus(compare(before[cut:], dtype, after[cut:], dtype))
    assert (whole.elements, whole.changed, whole.not_finite) == (parts.elements, parts.changed, parts.not_finite)
    assert whole.elements == 3000
    assert whole.measured == has_values(dtype)
    if whole.measured:
        assert whole.relative_l2 == pytest.approx(parts.relative_l2)
        assert whole.cosine == pytest.approx(parts.cosine)


@pytest.mark.parametrize("dtype", DType, ids=lambda dtype: dtype.name)
def test_the_same_bits_are_the_same(dtype: DType) -> None:
    raw = RANDOM.bytes(100 * dtype.size)
    found = compare(raw, dtype, raw, dtype)
    assert (found.changed, found.difference_squared, found.largest) == (0, 0.0, 0.0)
    if found.cosine is not None:
        assert found.cosine == pytest.approx(1.0)


def test_what_is_not_finite_is_counted_and_left_out() -> None:
    before = np.array([1.0, math.nan, math.inf, 2.0, 3.0], "f4")
    after = np.array([1.5, 1.0, math.inf, 2.0, -math.inf], "f4")
    found = compare(before.tobytes(), DType.F32, after.tobytes(), DType.F32)
    assert (found.changed, found.not_finite, found.largest) == (3, 3, 0.5)
    assert found.relative_l2 == 0.5 / math.sqrt(5)


def test_a_nan_with_the_same_bits_is_unchanged_and_the_zeros_differ() -> None:
    before, after = np.array([math.nan, 0.0], "f4"), np.array([math.nan, -0.0], "f4")
    found = compare(before.tobytes(), DType.F32, after.tobytes(), DType.F32)
    assert (found.changed, found.not_finite, found.relative_l2, found.cosine) == (1, 1, 0.0, None)


def test_from_zero_the_relative_distance_is_infinite() -> None:
    found = compare(bytes(4), DType.F32, struct.pack("<f", 1), DType.F32)
    assert (found.relative_l2, found.cosine) == (math.inf, None)
    assert Sums().relative_l2 is None


def test_dtypes_may_differ() -> None:
    wide = np.array([1.0, 2.0, 1.00390625], "f4")
    narrow = (wide.view("u4") >> 16).astype("u2")
    found = compare(wide.tobytes(), DType.F32, narrow.tobytes(), DType.BF16)
    assert (found.changed, found.largest) == (1, 0.00390625)
    found = compare(wide.tobytes(), DType.F32, wide.astype("c8").tobytes(), DType.C64)
    assert (found.elements, found.changed, found.relative_l2) == (3, 0, 0.0)


def test_opaque_bytes_are_compared_as_bits() -> None:
    found = compare(b"abc", DType.BYTES, b"abd", DType.BYTES)
    assert (found.elements, found.changed, found.relative_l2) == (3, 1, None)


@pytest.mark.parametrize(("before", "after"), [(b"abc", b"abcd"), (b"abcd", b"abcdefgh")])
def test_other_numbers_of_elements_are_refused(before: bytes, after: bytes) -> None:
    with pytest.raises(ValueError, match="not as many whole elements"):
        compare(before, DType.F32, after, DType.F32)


def test_eight_bit_floats_are_those_of_their_standards() -> None:
    every = bytes(range(256))
    largest = {DType.F8_E4M3: 448, DType.F8_E5M2: 57344, DType.F8_E4M3FNUZ: 240, DType.F8_E5M2FNUZ: 57344}
    smallest = {DType.F8_E4M3: 2**-9, DType.F8_E5M2: 2**-16, DType.F8_E4M3FNUZ: 2**-10, DType.F8_E5M2FNUZ: 2**-17}
    nans = {DType.F8_E4M3: 2, DType.F8_E5M2: 6, DType.F8_E4M3FNUZ: 1, DType.F8_E5M2FNUZ: 1}
    for dtype, expected in largest.items():
        found = values(every, dtype)
        finite = found[np.isfinite(found)]
        assert finite.max() == expected
        assert finite[finite > 0].min() == smallest[dtype]
        assert np.count_nonzero(np.isnan(found)) == nans[dtype]
        assert np.count_nonzero(np.isinf(found)) == (2 if dtype is DType.F8_E5M2 else 0)


def test_a_scale_is_a_power_of_two() -> None:
    assert values(bytes([0, 127, 128, 254]), DType.F8_E8M0).tolist() == [2.0**-127, 1.0, 2.0, 2.0**127]
    assert math.isnan(values(b"\xff", DType.F8_E8M0)[0])


@pytest.mark.parametrize("dtype", NUMBERS, ids=lambda dtype: dtype.name)
def test_npy_files_hold_every_value(dtype: DType) -> None:
    raw = RANDOM.bytes(500 * dtype.size)
    if dtype is DType.BOOL:
        raw = bytes(byte & 1 for byte in raw)
    found: NDArray[Any] = np.frombuffer(npy_bytes(raw, dtype), NPY_DTYPES[dtype])
    assert found.size == 500
    if dtype.kind == "complex":
        found = found.view(found.real.dtype)
    with np.errstate(invalid="ignore"):
        wide = found.astype("f8")
    assert np.array_equal(wide, values(raw, dtype), equal_nan=True)


def test_integers_stay_integers() -> None:
    raw = struct.pack("<Q", 2**64 - 1)
    assert plain_numbers(raw, DType.U64) == [2**64 - 1]
    assert plain_numbers(b"\x01\x00", DType.BOOL) == [True, False]
    assert plain_numbers(b"\x01\x02", DType.BYTES) == [1, 2]


def test_bytes_have_no_values() -> None:
    with pytest.raises(ValueError, match="BYTES has no values"):
        values(b"abc", DType.BYTES)
