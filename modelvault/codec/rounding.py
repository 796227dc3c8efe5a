"""Elements rounded within a bound that holds for every one of them: the lossy transform in front of the codecs.

    abs   |a - a'| <= log(1 + eps), the bound of the Delta-DNN paper (Hu et al., ICPP 2020, section 3): to the nearest
          multiple of a step, the largest power of two that is not above the paper's 2 log(1 + eps)
    rel   |a - a'| <= eps |a|: the mantissa to as few bits as that allows

    paper |a - a'| <= log(1 + eps), the paper's own form: a multiple of its exact step from a reference, or from zero

Rounded bytes are bytes like any others from then on; nothing remembers a reference, so nothing is ever rounded twice
and no error grows along a chain. Steps that are powers of two nest: snapshots rounded with different bounds still
predict each other.

What an optimizer remembers is rounded in units of its own (`round_moment`, `round_in_units`): a step that suits a
weight would make every second moment 0.

What the bound cannot be promised for stays as it is, bit for bit: NaN, infinities, zeros of both signs; in `rel`
subnormals and what would become infinite; in 16 bits also what the format's own rounding would push over the bound.
Each result is computed as it will be read and compared with the original in binary64, where the difference is exact.
Dtypes that are not floats, and floats of eight bits, whose own steps are mostly wider, are never changed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from modelvault.codec import kernels, order
from modelvault.codec.bounds import Bound, Rounded, checked, on_lattice
from modelvault.codec.floats import FORMATS
from modelvault.codec.lattice import MANTISSA_BITS, values_of, words_of
from modelvault.codec.plan import MAX_EXPONENT
from modelvault.tensors import DType

if TYPE_CHECKING:
    from typing_extensions import Buffer


def is_roundable(dtype: DType) -> bool:
    """Return whether elements of a dtype are ever changed.

    >>> is_roundable(DType.BF16), is_roundable(DType.I64), is_roundable(DType.F8_E4M3)
    (True, False, False)
    """
    return dtype in MANTISSA_BITS


def step_exponent(eps: float) -> int:
    """Return the exponent of the largest power of two that is not above the paper's step 2 log(1 + eps).

    >>> step_exponent(0.001)
    -9
    """
    return math.frexp(2 * math.log1p(eps))[1] - 1


def mantissa_bits(eps: float) -> int:
    """Return how many bits of a mantissa must stay for a relative bound.

    >>> mantissa_bits(2**-8), mantissa_bits(0.001)
    (7, 9)
    """
    return max(0, -math.frexp(eps)[1])


def round_elements(raw: Buffer, dtype: DType, bound: Bound, eps: float) -> Rounded:
    """Round every element of some bytes within the bound.

    Args:
        raw: whole elements, little-endian. Bytes after the last whole word stay.
        dtype: what they are.
        bound: what the bound is measured by.
        eps: greater than 0 and at most 1.

    >>> third = np.array([1 / 3, -0.0, np.inf], "<f4")
    >>> done = round_elements(third.tobytes(), DType.F32, Bound.ABS, 0.01)
    >>> np.frombuffer(done.raw, "<f4").tolist(), done.max_abs < math.log1p(0.01)
    ([0.328125, -0.0, inf], True)
    """
    data = np.frombuffer(memoryview(raw), np.uint8)
    if not is_roundable(dtype):
        return Rounded(data.tobytes(), 0.0, 0.0, 0, 0)
    if bound is Bound.PAPER:
        return anchored(raw, bytes(data.size), dtype, eps)
    exponent = step_exponent(eps)
    if bound is Bound.ABS and dtype in FORMATS and abs(exponent) <= MAX_EXPONENT:
        return Rounded(*kernels.current.round_elements(dtype.code, data.data, exponent, math.log1p(eps)))
    words = order.words(data, dtype)
    new = on_lattice(words, dtype, exponent) if bound is Bound.ABS else _shortened(words, dtype, eps)
    return checked(data, words, new, dtype, {bound: eps})


def round_within_both(raw: Buffer, dtype: DType, eps: float, rel: float) -> Rounded:
    """Round every element so that both bounds hold for it, the absolute one of `eps` and the relative one of `rel`.

    Elements that are so large that the relative bound would allow more than the absolute one go to the lattice of that.
    """
    data = np.frombuffer(memoryview(raw), np.uint8)
    if not is_roundable(dtype):
        return Rounded(data.tobytes(), 0.0, 0.0, 0, 0)
    words = order.words(data, dtype)
    new = _shortened(words, dtype, rel)
    with np.errstate(invalid="ignore", over="ignore"):
        far = np.abs(values_of(new, dtype) - values_of(words, dtype)) > math.log1p(eps)
    new[far] = on_lattice(words[far], dtype, step_exponent(eps))
    return checked(data, words, new, dtype, {Bound.ABS: eps, Bound.REL: rel})


def hold(raw: Buffer, proposed: Buffer, dtype: DType, bounds: Mapping[Bound, float]) -> Rounded:
    """Take proposed elements wherever all bounds hold for them; elsewhere elements stay as they are.

    Args:
        raw: whole elements.
        proposed: as many bytes.
        dtype: what both are.
        bounds: the eps of each bound.

    >>> old, new = (np.array(values, "<f4").tobytes() for values in ([0.3, 0.0, 2.0], [0.25, 0.1, 2.5]))
    >>> held = hold(old, new, DType.F32, {Bound.ABS: 0.1, Bound.REL: 0.25})
    >>> np.frombuffer(held.raw, "<f4").tolist()
    [0.25, 0.0, 2.0]
    """
    data, other = (np.frombuffer(memoryview(each), np.uint8) for each in (raw, proposed))
    if data.size != other.size:
        raise ValueError(f"proposed elements of {other.size} bytes for {data.size}")
    if not is_roundable(dtype):
        return Rounded(data.tobytes(), 0.0, 0.0, 0, 0)
    return checked(data, order.words(data, dtype), order.words(other, dtype).copy(), dtype, bounds)


def round_moment(raw: Buffer, second: Buffer, dtype: DType, share: float) -> Rounded:
    """Round an optimizer's first moments: `|m - m'| <= share sqrt(v)` for each, in steps that are powers of two.

    An update is m / sqrt(v), so this bounds what it differs by. Where v is 0 or less, m stays as it is.

    Args:
        raw: the first moments.
        second: the second moments v at the same places, as they are before any rounding.
        dtype: what both are.
        share: greater than 0 and at most 1.

    >>> m, v = (np.array(values, "<f4").tobytes() for values in ([0.3, -0.2, 0.5], [1.0, 0.04, 0.0]))
    >>> np.frombuffer(round_moment(m, v, DType.F32, 0.125).raw, "<f4").tolist()
    [0.25, -0.1875, 0.5]
    """
    data, beside = (np.frombuffer(memoryview(each), np.uint8) for each in (raw, second))
    if data.size != beside.size:
        raise ValueError(f"second moments of {beside.size} bytes for first ones of {data.size}")
    with np.errstate(invalid="ignore"):
        limits = share * np.sqrt(values_of(order.words(beside, dtype), dtype))
    limits[~(np.isfinite(limits) & (limits > 0))] = 0.0
    return _in_steps(data, dtype, limits)


def round_in_units(raw: Buffer, dtype: DType, unit: float, share: float) -> Rounded:
    """Round elements so that none differs by more than a share of a unit, such as the root mean square of them all.

    Args:
        raw: the elements.
        dtype: what they are.
        unit: greater than 0; whatever else, and they stay as they are.
        share: greater than 0 and at most 1.
    """
    data = np.frombuffer(memoryview(raw), np.uint8)
    limit = share * unit if math.isfinite(unit) and unit > 0 else 0.0
    return _in_steps(data, dtype, np.full(order.words(data, dtype).size, limit))


def sum_of_squares(raw: Buffer, dtype: DType) -> float:
    """Return the sum of the squares of all elements that are finite."""
    values = values_of(order.words(np.frombuffer(memoryview(raw), np.uint8), dtype), dtype)
    values = values[np.isfinite(values)]
    with np.errstate(over="ignore"):
        return float((values * values).sum())


def _in_steps(data: npt.NDArray[np.uint8], dtype: DType, limits: npt.NDArray[np.float64]) -> Rounded:
    """Round each element to the nearest multiple of the largest power of two that is not above twice its limit."""
    words = order.words(data, dtype)
    exponents = np.frexp(limits)[1]
    with np.errstate(invalid="ignore", over="ignore"):
        multiples = np.rint(np.ldexp(values_of(words, dtype), -exponents)) + 0.0  # no negative zeros
        new = words_of(np.ldexp(multiples, exponents), dtype)
    return checked(data, words, new, dtype, {}, limits)


def anchored(raw: Buffer, reference: Buffer, dtype: DType, eps: float) -> Rounded:
    """Round every element to a multiple of the paper's exact step from a reference: `A' = B + 2 M log(1 + eps)`.

    Hu et al., ICPP 2020, section 3.

    Args:
        raw: whole elements.
        reference: as many bytes: what a checkout of the reference returns, or errors add up along a chain.
        dtype: what they are.
        eps: the paper's, greater than 0.
    """
    data, base = (np.frombuffer(memoryview(each), np.uint8) for each in (raw, reference))
    if data.size != base.size:
        raise ValueError(f"reference of {base.size} bytes for {data.size}")
    if not is_roundable(dtype):
        return Rounded(data.tobytes(), 0.0, 0.0, 0, 0)
    words = order.words(data, dtype)
    step = 2 * math.log1p(eps)
    old, anchor = values_of(words, dtype), values_of(order.words(base, dtype), dtype)
    with np.errstate(invalid="ignore", over="ignore"):
        anchor[~np.isfinite(anchor)] = 0.0
        multiples = np.floor((old - anchor) / step + 0.5)
        new = words_of(anchor + multiples * step, dtype)
    return checked(data, words, new, dtype, {Bound.PAPER: eps})


def _shortened(words: order.Words, dtype: DType, eps: float) -> order.Words:
    """Return words with all but the first bits of their mantissas 0, rounded to nearest, ties to even."""
    bits = MANTISSA_BITS[dtype]
    drop = bits - mantissa_bits(eps)
    if drop <= 0:
        return words.copy()
    one = words.dtype.type(1)
    new = (words >> words.dtype.type(drop)) & one
    new += words.dtype.type((1 << (drop - 1)) - 1)
    new += words  # a carry goes into the exponent, as it should; the largest become infinite and are kept
    new >>= words.dtype.type(drop)
    new <<= words.dtype.type(drop)
    level = (words >> words.dtype.type(bits)) & words.dtype.type((1 << (8 * words.itemsize - 1 - bits)) - 1)
    subnormal = level == 0
    new[subnormal] = words[subnormal]
    return new
