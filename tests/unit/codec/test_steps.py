"""Do elements on steps, alike or doubling, come back to the bit against any reference, and for few bytes?"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelvault.codec import (
    CodecError,
    Parameters,
    Run,
    codec_name,
    decode_chunk,
    encode_chunk,
    ends,
    frequencies,
    integers,
    order,
    pieces,
    plan,
)
from modelvault.codec.bounds import Bound
from modelvault.codec.floats import FORMATS
from modelvault.codec.frame import seal
from modelvault.codec.plan import Kind
from modelvault.codec.rounding import round_elements, round_within_both
from modelvault.codec.steps import Grid
from modelvault.codec.table import STEPS_DELTA
from modelvault.tensors import DType

from . import plain_decoder
from .test_rounding import bits

EVERY_FORMAT = pytest.mark.parametrize("dtype", list(FORMATS), ids=lambda dtype: dtype.name)


def there_and_back(raw: bytes, dtype: DType, reference: bytes) -> bytes:
    """Encode and decode, here and with the decoder written from the page; return the frame."""
    parameters = Parameters.for_reference(dtype, True)
    frame = encode_chunk(raw, parameters, [reference])
    assert decode_chunk(frame, len(raw), parameters, [reference]) == raw
    assert plain_decoder.decode(frame, len(raw), parameters.to_bytes(), [reference]) == raw
    return frame


def norms(count: int = 400, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Running variances as training leaves them, over many powers of two, and the same an epoch later."""
    random = np.random.default_rng(seed)
    old = np.exp(random.normal(0, 2, count)) * np.where(random.random(count) < 0.2, -1, 1)
    return old, old * (1 + random.normal(0, 0.01, count))


@EVERY_FORMAT
def test_numbers_with_short_mantissas_are_counted_along_doubling_steps(dtype: DType) -> None:
    old, new = norms()
    raw = round_elements(bits(new, dtype), dtype, Bound.REL, 2**-5).raw
    frame = there_and_back(raw, dtype, bits(old, dtype))
    assert codec_name(frame) == "pieces-delta"
    assert len(frame) < len(raw) / order.word_bytes(dtype) / 2  # 2.4 to 2.9 bits an element
    there_and_back(raw, dtype, round_elements(bits(old, dtype), dtype, Bound.REL, 2**-5).raw)


def test_steps_end_doubling_where_an_absolute_bound_begins() -> None:
    old, new = norms()
    raw = round_within_both(bits(new, DType.F32), DType.F32, 0.01, 2**-6).raw
    assert ends.grid_of(ends.of_numbers(np.frombuffer(raw, "<u4"), DType.F32), DType.F32) == Grid(
        exponent=-6, mantissa=5
    )
    assert codec_name(there_and_back(raw, DType.F32, bits(old, DType.F32))) == "pieces-delta"


@EVERY_FORMAT
def test_whatever_stands_on_no_step_is_kept_beside(dtype: DType) -> None:
    old, new = norms()
    width = order.word_bytes(dtype)
    raw = bytearray(round_elements(bits(new, dtype), dtype, Bound.REL, 2**-4).raw)
    reference = bytearray(bits(old, dtype))
    for place, value in enumerate((np.nan, -np.inf, -0.0, 0.0, 6e-8, 6e4)):
        raw[37 * place * width :][:width] = raw[37 * place * width : (37 * place + 1) * width]
        raw[37 * place * width : (37 * place + 1) * width] = bits([value], dtype)
        for at in (37 * place, 37 * place + 5):
            reference[at * width : (at + 1) * width] = bits([value], dtype)
    frame = there_and_back(bytes(raw) + b"x", dtype, bytes(reference) + b"y")
    assert codec_name(frame) == "pieces-delta"


def test_words_that_were_not_cut_have_no_grid() -> None:
    noise = np.random.default_rng(1).normal(size=100).astype("<f4").view("<u4")
    assert plan.unpack(pieces.find(noise, None, DType.F32, [Run(100)]))[0].kind is Kind.APART
    assert ends.grid_of(ends.of_numbers(np.zeros(9, "<u4"), DType.F32), DType.F32) is None


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (bytes.fromhex("00 fe22") + bytes(8) + b"\0\0", "steps of 2"),
        (bytes.fromhex("00 00") + b"\0\0\0\0\0\0\xf0\x7f" + b"\0\0", "scale inf"),
        (bytes.fromhex("18 00 00 00"), "24 bits"),
        (bytes.fromhex("03 ff03 00 00"), "3 bits"),  # doubling from where nothing is
        (bytes.fromhex("03 00 01 03 00"), "expected 4"),
        (bytes.fromhex("03 00 00 00"), "integers"),
        (bytes.fromhex("03 00 02 00 04 01 00"), "integers of elements"),
        (bytes.fromhex("03 00"), "steps:"),
    ],
)
def test_bodies_that_are_none(body: bytes, message: str) -> None:
    with pytest.raises(CodecError, match=message):
        decode_chunk(seal(STEPS_DELTA, body), 16, Parameters.for_reference(DType.F32, True), [bytes(16)])


residuals_ = st.lists(
    st.tuples(
        st.one_of(st.integers(-3, 3), st.integers(-100, 100), st.integers(1 - integers.LIMIT, integers.LIMIT - 1)),
        st.integers(0, 7),
    ),
    min_size=1,
    max_size=300,
)


@given(residuals_, st.integers(0, 200), st.integers(0, 10**6))
def test_integers_come_back(found: list[tuple[int, int]], row: int, start: int) -> None:
    residuals, classes = (np.array(column, np.int64) for column in zip(*found, strict=True))
    data = integers.write(residuals, classes, row, start)
    assert integers.read(data, classes).tolist() == residuals.tolist()
    assert plain_decoder.from_integers(data, classes.tolist()) == residuals.tolist()
    for damaged in (data[:-1], data + b"\0"):
        with pytest.raises(CodecError):
            integers.read(damaged, classes)


def test_every_distribution_adds_up_and_is_that_of_the_page() -> None:
    for scale in range(1, 24):
        for class_ in range(9):
            some = integers._distribution(scale, class_)
            assert int(some.found.sum()) == frequencies.SCALE
            assert plain_decoder.shares(scale, class_) == [0] * some.low + some.found.tolist()


@pytest.mark.parametrize("deviation", [0.05, 0.3, 1, 4, 30, 3000])
def test_integers_take_little_more_than_their_entropy(deviation: float) -> None:
    random = np.random.default_rng(3)
    predicted = random.normal(0, 1000, 20000)
    values = np.rint(predicted + random.logistic(0, deviation / 1.8, predicted.size))
    from modelvault.codec.lattice import nearest

    points, sides, classes = nearest(predicted)
    data = integers.write(((values - points) * sides).astype(np.int64), classes, 100, 0)
    # What a binary64 knows of where each prediction lies, bin by bin of the logistic distribution.
    scale = deviation / 1.8
    upper, lower = (1 / (1 + np.exp(-np.clip((values + side - predicted) / scale, -700, 700))) for side in (0.5, -0.5))
    ideal = -np.log2(np.maximum(upper - lower, 2.0**-40)).sum() / 8
    assert len(data) < 1.06 * ideal + 220
