"""Do ordered integers follow the order of values, and do residuals come back bit for bit?"""

from __future__ import annotations

import numpy as np
import pytest

from modelvault.codec import order
from modelvault.tensors import DType

FLOATS = {DType.F16: "<f2", DType.F32: "<f4", DType.F64: "<f8"}


def words(values: list[int], width: int) -> order.Words:
    found: order.Words = np.array(values, f"<u{width}")
    return found


@pytest.mark.parametrize("dtype", DType, ids=lambda dtype: dtype.name)
def test_words_fill_elements(dtype: DType) -> None:
    width = order.word_bytes(dtype)
    assert dtype.size in (width, 2 * width)
    assert (dtype.size == width) == (dtype.kind != "complex")
    data = np.arange(2 * dtype.size + 1, dtype=np.uint8)
    found = order.words(data, dtype)
    assert found.tobytes() == data.tobytes()[: found.nbytes]
    assert 0 <= data.size - found.nbytes < width


@pytest.mark.parametrize("dtype", FLOATS, ids=lambda dtype: dtype.name)
def test_neighbouring_floats_are_one_step_apart(dtype: DType) -> None:
    kind = np.dtype(FLOATS[dtype])
    values = np.array([-1.0, -1e-7, -0.0, 0.0, 1e-7, 1.0, 2.0, 1024.0], kind)
    above = np.nextafter(values, kind.type(np.inf))
    below = np.nextafter(values, kind.type(-np.inf))
    bits = values.view(f"<u{kind.itemsize}")
    up = order.residual(above.view(bits.dtype), bits, dtype)
    down = order.residual(below.view(bits.dtype), bits, dtype)
    # From -0.0 upwards the next float is past +0.0, which is a step of its own; from +0.0 downwards likewise.
    assert up.tolist() == [2, 2, 4, 2, 2, 2, 2, 2]
    assert down.tolist() == [1, 1, 1, 3, 1, 1, 1, 1]


def test_integers_count_in_twos_complement() -> None:
    old, new = np.array([-1, 0, 127, -128], "<i1"), np.array([0, -1, -128, 127], "<i1")
    for dtype in (DType.I8, DType.U8, DType.BOOL, DType.BYTES, DType.F8_E8M0, DType.F4X2):
        assert order.residual(new.view(np.uint8), old.view(np.uint8), dtype).tolist() == [2, 1, 2, 1]


@pytest.mark.parametrize("dtype", DType, ids=lambda dtype: dtype.name)
def test_residuals_and_words_are_one_to_one(dtype: DType) -> None:
    """For words of one and two bytes: every word there is, against ordinary and special references."""
    width = order.word_bytes(dtype)
    every = np.arange(1 << (8 * min(width, 2)), dtype=np.uint64)
    new = (every << np.uint64(8 * (width - min(width, 2)))).astype(f"<u{width}")
    top = 1 << (8 * width - 1)
    for value in (0, 1, top - 1, top, top + 1, 2 * top - 1, top // 2):
        reference = np.full_like(new, value)
        found = order.residual(new, reference, dtype)
        assert np.unique(found).size == found.size
        before = found.copy()
        order.add_reference(found, reference, dtype)
        assert np.array_equal(found, new)
        assert not np.array_equal(before, new) or value == 0


@pytest.mark.parametrize("dtype", [DType.F32, DType.I32])
def test_inputs_are_left_alone(dtype: DType) -> None:
    new, reference = words([1, 2, 1 << 31], 4), words([7, 8, 9], 4)
    for array in (new, reference):
        array.flags.writeable = False
    residuals = order.residual(new, reference, dtype)
    order.add_reference(residuals, reference, dtype)
    assert residuals.tolist() == new.tolist()


def test_big_endian_arithmetic_would_agree() -> None:
    """On a big-endian machine numpy returns native arrays from arithmetic; bytes are made little-endian when split."""
    from modelvault.codec import planes

    little = words([0x0102, 0xA0B0], 2)
    big = little.astype(">u2")
    assert [plane.tobytes() for plane in planes.split(big)] == [plane.tobytes() for plane in planes.split(little)]
