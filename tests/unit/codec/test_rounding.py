"""Does the bound hold for every element of every dtype, and is what it cannot hold for left alone?"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelvault.codec.bounds import Bound, Rounded
from modelvault.codec.rounding import (
    anchored,
    is_roundable,
    round_elements,
    round_in_units,
    round_moment,
    step_exponent,
    sum_of_squares,
)
from modelvault.tensors import DType

ROUNDABLE = [dtype for dtype in DType if is_roundable(dtype)]
EVERY_DTYPE = pytest.mark.parametrize("dtype", ROUNDABLE, ids=lambda dtype: dtype.name)
EVERY_BOUND = pytest.mark.parametrize("bound", Bound, ids=lambda bound: bound.name)
WORD = {DType.F64: 8, DType.C128: 8, DType.F32: 4, DType.C64: 4, DType.F16: 2, DType.C32: 2, DType.BF16: 2}

HOSTILE = [
    0.0, -0.0, math.inf, -math.inf, math.nan, 5e-324, -5e-324, 1e-310, 1.4e-45, 6e-8, 1e-38, 1.17549435e-38, 2e-9,
    0.49999999, 0.5, 0.50000001, 1.0, -1.0, 1 / 3, 1e3, 65504.0, 65520.0, 1e30, 3.4028234e38, 1e300, 1.79e308,
]  # fmt: skip


def numbers(raw: bytes, dtype: DType) -> npt.NDArray[np.float64]:
    """The numbers in some bytes, by other means than the product's."""
    with np.errstate(invalid="ignore"):
        if dtype is DType.BF16:
            halves = np.zeros((len(raw) // 2, 2), "<u2")
            halves[:, 1] = np.frombuffer(raw[: len(raw) // 2 * 2], "<u2")
            return halves.view("<f4")[:, 0].astype(np.float64)
        return np.frombuffer(raw[: len(raw) // WORD[dtype] * WORD[dtype]], f"<f{WORD[dtype]}").astype(np.float64)


def bits(values: npt.ArrayLike, dtype: DType) -> bytes:
    with np.errstate(over="ignore"):
        if dtype is DType.BF16:
            narrow = np.asarray(values, "<f4").tobytes()
            return b"".join(narrow[at + 2 : at + 4] for at in range(0, len(narrow), 4))
        return np.asarray(values, f"<f{WORD[dtype]}").tobytes()


def violations(raw: bytes, done: Rounded, dtype: DType, bound: Bound, eps: float) -> int:
    """How many elements are neither what they were, to the bit, nor finite and within the bound."""
    width = WORD[dtype]
    assert len(done.raw) == len(raw)
    count = len(raw) // width * width
    assert done.raw[count:] == raw[count:]
    same = np.frombuffer(raw[:count], f"V{width}") == np.frombuffer(done.raw[:count], f"V{width}")
    old, new = numbers(raw, dtype), numbers(done.raw, dtype)
    with np.errstate(invalid="ignore", over="ignore"):
        error = np.abs(new - old)
        limit = eps * np.abs(old) if bound is Bound.REL else np.full(old.size, math.log1p(eps))
        good = same | (np.isfinite(new) & (error <= limit))
        special = ~np.isfinite(old) | (old == 0)
        measured = error[~same]
    assert same[special].all(), "NaN payloads, infinities and zeros keep their bits"
    assert done.changed == int((~same).sum())
    assert done.max_abs == (measured.max() if measured.size else 0.0)
    return int((~good).sum())


@EVERY_DTYPE
@EVERY_BOUND
@given(raw=st.binary(max_size=200), eps=st.floats(1e-7, 1.0))
def test_any_bits(dtype: DType, bound: Bound, raw: bytes, eps: float) -> None:
    assert violations(raw, round_elements(raw, dtype, bound, eps), dtype, bound, eps) == 0


@EVERY_DTYPE
@EVERY_BOUND
@pytest.mark.parametrize("eps", [1e-6, 0.0001, 0.001, 0.01, 0.1, 1.0])
def test_hostile_values_and_their_neighbours(dtype: DType, bound: Bound, eps: float) -> None:
    both = np.array(HOSTILE + [-value for value in HOSTILE])
    step = math.ldexp(1, step_exponent(eps))
    with np.errstate(over="ignore", invalid="ignore"):
        near = [both, both * (1 + 1e-7), both + step / 2, both + step, both * step, np.nextafter(both, 0)]
        raw = bits(np.concatenate(near), dtype)
    done = round_elements(raw, dtype, bound, eps)
    assert violations(raw, done, dtype, bound, eps) == 0


@EVERY_DTYPE
@EVERY_BOUND
def test_every_word_of_sixteen_bits(dtype: DType, bound: Bound) -> None:
    if WORD[dtype] != 2:
        pytest.skip("there are too many")
    raw = np.arange(65536, dtype="<u2").tobytes()
    for eps in (0.0003, 0.004, 0.05, 0.6):
        assert violations(raw, round_elements(raw, dtype, bound, eps), dtype, bound, eps) == 0


@EVERY_DTYPE
@EVERY_BOUND
def test_what_is_rounded_stays_when_rounded_again(dtype: DType, bound: Bound) -> None:
    raw = bits(np.random.default_rng(dtype.code).normal(0, 0.1, 4000), dtype)
    once = round_elements(raw, dtype, bound, 0.01)
    assert round_elements(once.raw, dtype, bound, 0.01).changed == 0
    if bound is not Bound.PAPER:  # lattices nest: what stands on a coarse one stands on every finer one
        assert round_elements(once.raw, dtype, bound, 0.002).changed == 0


def test_the_step_is_the_largest_power_of_two_not_above_the_papers() -> None:
    for eps in (1e-6, 0.0001, 0.001, 0.01, 0.1, 1.0):
        step = math.ldexp(1, step_exponent(eps))
        assert step <= 2 * math.log1p(eps) < 2 * step


def test_what_is_no_float_is_never_changed() -> None:
    raw = np.random.default_rng(1).bytes(4096)
    for dtype in DType:
        if dtype not in ROUNDABLE:
            assert round_elements(raw, dtype, Bound.ABS, 0.5) == Rounded(raw, 0.0, 0.0, 0, 0)


@EVERY_DTYPE
@given(raw=st.binary(max_size=200), other=st.binary(min_size=200, max_size=200), eps=st.floats(1e-7, 1.0))
def test_the_anchored_form_holds_the_bound_against_any_reference(
    dtype: DType, raw: bytes, other: bytes, eps: float
) -> None:
    done = anchored(raw, other[: len(raw)], dtype, eps)
    assert violations(raw, done, dtype, Bound.ABS, eps) == 0


def test_the_anchored_form_is_the_papers_formula() -> None:
    random = np.random.default_rng(7)
    old = random.normal(0, 0.05, 5000).astype("<f4")
    new = (old + random.normal(0, 0.01, 5000)).astype("<f4")
    done = np.frombuffer(anchored(new.tobytes(), old.tobytes(), DType.F32, 0.004).raw, "<f4")
    step = 2 * math.log(1 + 0.004)
    multiples = np.floor((new.astype(np.float64) - old) / step + 0.5)
    papers = (2 * multiples * math.log(1 + 0.004) + old).astype("<f4")
    assert np.mean(done == papers) > 0.999  # the others would have been a rounding over the bound
    assert np.count_nonzero(multiples) > 2000
    with pytest.raises(ValueError, match="reference of"):
        anchored(new.tobytes(), old[1:].tobytes(), DType.F32, 0.004)


def off(raw: bytes, done: Rounded, dtype: DType, limits: npt.NDArray[np.float64]) -> int:
    """How many elements are neither what they were, to the bit, nor within their own limits."""
    width, old, new = WORD[dtype], numbers(raw, dtype), numbers(done.raw, dtype)
    same = np.frombuffer(raw[: old.size * width], f"V{width}") == np.frombuffer(
        done.raw[: old.size * width], f"V{width}"
    )
    with np.errstate(invalid="ignore", over="ignore"):
        good = same | (np.isfinite(new) & (np.abs(new - old) <= limits))
    assert same[~np.isfinite(old) | (old == 0)].all()
    assert done.changed == int((~same).sum())
    assert done.raw[old.size * width :] == raw[old.size * width :]
    return int((~good).sum())


@EVERY_DTYPE
@given(raw=st.binary(max_size=200), second=st.binary(min_size=200, max_size=200), share=st.floats(1e-4, 1.0))
def test_moments_of_any_bits(dtype: DType, raw: bytes, second: bytes, share: float) -> None:
    beside = second[: len(raw)]
    done = round_moment(raw, beside, dtype, share)
    with np.errstate(invalid="ignore"):
        roots = np.sqrt(numbers(beside, dtype))
    limits = np.where(np.isfinite(roots), share * roots, 0.0)
    assert off(raw, done, dtype, limits) == 0


@EVERY_DTYPE
@given(raw=st.binary(max_size=200), unit=st.floats(allow_nan=True), share=st.floats(1e-4, 1.0))
def test_units_of_any_size(dtype: DType, raw: bytes, unit: float, share: float) -> None:
    done = round_in_units(raw, dtype, unit, share)
    limit = share * unit if math.isfinite(unit) and unit > 0 else 0.0
    assert off(raw, done, dtype, np.full(len(raw) // WORD[dtype], limit)) == 0


def test_moments_are_coarse_where_the_second_one_is_large() -> None:
    random = np.random.default_rng(9)
    second = np.exp(random.normal(-12, 4, 10_000)).astype("<f4")
    first = (np.sqrt(second) * random.normal(0, 1, 10_000)).astype("<f4")
    done = round_moment(first.tobytes(), second.tobytes(), DType.F32, 0.125)
    assert done.changed > 9_900
    error = np.abs(np.frombuffer(done.raw, "<f4").astype(np.float64) - first) / np.sqrt(second.astype(np.float64))
    assert 0.06 < error.max() <= 0.125
    with pytest.raises(ValueError, match="second moments"):
        round_moment(first.tobytes(), second[1:].tobytes(), DType.F32, 0.125)


def test_the_mean_square_leaves_out_what_is_not_finite() -> None:
    raw = bits([3.0, -4.0, math.nan, math.inf, 1e30], DType.F32)
    assert sum_of_squares(raw[:16], DType.F32) == 25
    assert sum_of_squares(raw, DType.F32) == pytest.approx(1e60)


def test_sixteen_bits_that_their_own_rounding_pushes_over_the_bound_are_kept() -> None:
    raw = bits(np.random.default_rng(3).normal(0, 300, 20000), DType.BF16)
    done = anchored(raw, bits(np.random.default_rng(4).normal(0, 300, 20000), DType.BF16), DType.BF16, 0.6)
    assert done.kept > 0
    assert violations(raw, done, DType.BF16, Bound.ABS, 0.6) == 0


@pytest.mark.slow
@EVERY_BOUND
def test_a_thousand_million_elements(bound: Bound) -> None:
    """Half of them random bits, half weights with hostile values strewn in; with `abs` and `rel`, 10^9 in all."""
    random = np.random.default_rng(bound)
    hostile = np.array(HOSTILE)
    for turn in range(500):
        dtype = ROUNDABLE[turn % len(ROUNDABLE)]
        eps = float(10 ** random.uniform(-5, 0))
        if turn % 2:
            raw = random.bytes((1 << 20) * WORD[dtype])
        else:
            weights = random.standard_t(3, 1 << 20) * 10 ** random.uniform(-4, 2)
            places = random.integers(0, weights.size, 5000)
            weights[places] = hostile[random.integers(0, hostile.size, places.size)]
            with np.errstate(over="ignore"):
                raw = bits_fast(weights, dtype)
        assert violations(raw, round_elements(raw, dtype, bound, eps), dtype, bound, eps) == 0


def bits_fast(values: npt.NDArray[np.float64], dtype: DType) -> bytes:
    if dtype is DType.BF16:
        return (values.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()
    return values.astype(f"<f{WORD[dtype]}").tobytes()
