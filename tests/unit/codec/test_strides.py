"""Are strides found where an optimizer took them and nowhere else, and do all kernels give back every word?"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelvault.codec import (
    CodecError,
    Parameters,
    Previous,
    decode_chunk,
    encode_chunk,
    glance,
    kernels,
    order,
    portable,
    strides,
    strides_delta,
)
from modelvault.codec.frame import codec_name, references_of, row_of, seal, unseal
from modelvault.codec.strides import Strides
from modelvault.codec.table import LEVELS_RANS, RESIDUAL_RANS, STRIDES_DELTA
from modelvault.tensors import DType

from . import plain_decoder
from .test_kernels import NATIVE, damages, outcome
from .test_portable import chunks_and_references, weights

BESIDE = Parameters(DType.F32, (Previous(),))
HALVES = Strides(0.9985, 2.0**-7, odd=True)


def by_signs(words: int, steps: int, rate: float = 1e-4, decay: float = 0.1, seed: int = 0) -> tuple[Any, Any]:
    """Return weights, and what they are after so many steps of an optimizer of signs, as binary32 has it."""
    random_ = np.random.default_rng(seed)
    old = random_.normal(0, 0.05, words).astype("<f4")
    new, way = old.copy(), random_.normal(0, 0.2, words)
    for _ in range(steps):
        new *= np.float32(1 - rate * decay)
        new -= np.float32(rate) * np.sign(way + random_.normal(size=words)).astype("<f4")
    return new, old


def frame_of(new: Any, old: Any, row: int = 0) -> bytes:
    frame = encode_chunk(new.tobytes(), BESIDE, [old.tobytes()], row=row)
    assert decode_chunk(frame, new.nbytes, BESIDE, [old.tobytes()]) == new.tobytes()
    return frame


def few_of(new: Any, old: Any) -> tuple[Any, Any]:
    return glance.few(new.view("<u4")), glance.few(old.view("<u4"))


@pytest.mark.parametrize(
    ("steps", "rate", "decay", "bits"),
    [(4, 1e-4, 0.1, 8), (30, 1e-4, 0.1, 12), (31, 1e-4, 1.0, 15), (100, 1e-5, 0.1, 15), (200, 1e-4, 0.1, 18)],
)
def test_steps_of_signs_are_found(steps: int, rate: float, decay: float, bits: int) -> None:
    new, old = by_signs(20_000, steps, rate, decay)
    found = strides.fitted(*few_of(new, old))
    assert found is not None
    assert found.a == pytest.approx((1 - rate * decay) ** steps, abs=2e-4)
    assert found.s == pytest.approx(2 * rate, rel=0.02), "one step less up is one more down"
    assert found.odd == bool(steps % 2)
    frame = frame_of(new, old)
    assert codec_name(frame) == STRIDES_DELTA.name
    assert 8 * len(frame) < bits * new.size
    plain = portable.encode_delta(DType.F32.code, new.tobytes(), BESIDE.to_bytes(), [old.tobytes()], 0, 0, 1 << 30)
    assert plain is not None
    assert len(frame) < 0.87 * len(plain)


def test_the_same_bytes_by_all_kernels_and_in_the_second_decoder(kernel: kernels.Kernels) -> None:
    for words, steps, row, tail in ((2048, 30, 0, 0), (2100, 31, 70, 3), (5003, 8, 9, 1), (40_000, 30, 1500, 0)):
        new, old = by_signs(words, steps, seed=words)
        new[5:8], old[8:10], new[20], old[30] = (np.nan, np.inf, -0.0), (-np.inf, np.nan), 3e38, 1e-40
        old[12], new[12] = 0.2, 1e30  # as large as the largest, and gone
        raw, reference = (some.tobytes() + bytes(range(tail)) for some in (new, old))
        for dtype in (DType.F32, DType.C64):
            data = Parameters(dtype, (Previous(),)).to_bytes()
            frame = portable.encode_frame(dtype.code, raw, data, [reference], row, 7, len(raw), True)
            assert isinstance(frame, bytes)
            assert codec_name(frame) == STRIDES_DELTA.name
            assert 8 * len(frame) < 15 * words, "decay is fitted in spite of those"
            assert kernel.encode_frame(dtype.code, raw, data, [reference], row, 7, len(raw), True) == frame
            assert kernel.decode_frame(dtype.code, frame, len(raw), data, [reference]) == raw
            assert kernel.frame_decodes_to(dtype.code, frame, raw, data, [reference])
            for at in (0, len(raw) - 1):
                other = raw[:at] + bytes((raw[at] ^ 1,)) + raw[at + 1 :]
                assert not kernel.frame_decodes_to(dtype.code, frame, other, data, [reference])
            if words < 4000:
                assert plain_decoder.decode(frame, len(raw), data, [reference]) == raw


def test_what_moved_otherwise_is_no_stride(kernel: kernels.Kernels) -> None:
    random_ = np.random.default_rng(1)
    new, old = by_signs(20_000, 30)
    noise = random_.normal(0, 1e-3, old.size)
    unlike = {
        "as gradients say": old + noise,
        "in proportion": old * (1 + 0.01 * random_.normal(size=old.size)),
        "not at all": old * np.float32(0.999),
        "by units": (old.view("<i4") + random_.integers(-40, 40, old.size, np.int32)).view("<f4"),
        "a few": np.where(random_.random(old.size) < 0.1, new, old),
        "and noise": new + random_.normal(0, 5e-5, old.size),
        "far": old + 2e-4 * random_.integers(-3000, 3000, old.size),
    }
    for what, words in unlike.items():
        assert strides.fitted(*few_of(words.astype("<f4"), old)) is None, what
        assert codec_name(frame_of(words.astype("<f4"), old)) in (RESIDUAL_RANS.name, LEVELS_RANS.name), what
    for words, name in ((2047, RESIDUAL_RANS.name), (2048, STRIDES_DELTA.name)):
        assert codec_name(frame_of(new[:words], old[:words])) == name
    on_units = np.rint(old * 2.0**23) / 2.0**23  # an eighth of what the largest are counted in
    stepped = on_units + random_.integers(-9, 10, old.size) / 2.0**23
    assert strides.fitted(*few_of(stepped.astype("<f4"), on_units.astype("<f4"))) is None
    zeros = np.zeros(4000, "<f4")
    assert strides.fitted(*few_of(zeros, zeros)) is None
    assert strides.fitted(*few_of(new[:4000], zeros)) is None


def test_strides_that_say_little_are_left_out(kernel: kernels.Kernels) -> None:
    """Found, but what they leave takes more than five bits of eight."""
    new, old = by_signs(20_000, 30, rate=1e-2, decay=0.0)
    new = (new + np.random.default_rng(2).normal(0, 4e-4, new.size)).astype("<f4")
    assert strides.fitted(*few_of(new, old)) is not None
    assert codec_name(frame_of(new, old)) != STRIDES_DELTA.name


@pytest.mark.parametrize("odd", [False, True])
def test_words_that_moved_further_than_a_token_tells(odd: bool) -> None:
    old = np.random.default_rng(4).normal(0, 0.05, 600).astype("<f4")
    found = Strides(0.999, 0.01, odd)
    counts = np.arange(600) - 300
    new = (0.999 * old + 0.01 * (counts + odd / 2)).astype("<f4")
    told = strides.counted(new.view("<u4"), old.view("<u4"), found)
    assert told.tolist() == np.where((counts >= -128) & (counts <= 127), counts, 0).tolist()
    body = strides_delta.of(new.view("<u4"), b"", old.view("<u4"), found, 0, 0)
    assert body is not None
    assert strides_delta.decode(body, new.nbytes, old.view("<u4")) == new.tobytes()


@pytest.mark.parametrize("width", range(1, 9))
def test_numbers_of_every_width(kernel: kernels.Kernels, width: int) -> None:
    for words in (*range(1, 18), 1000):
        counts = (np.arange(words) * 37 % 256 - 128 >> 8 - width).astype(np.int8)
        assert counts[0] == -(1 << width - 1)
        old = np.random.default_rng(words).normal(0, 0.05, words).astype("<f4").view("<u4")
        new = strides.expected(counts, old, HALVES)
        assert strides.counted(new, old, HALVES, width).tolist() == counts.tolist()
        narrower = np.where((counts >= -(1 << width) // 4) & (counts < (1 << width) // 4), counts, 0)
        assert width == 1 or strides.counted(new, old, HALVES, width - 1).tolist() == narrower.tolist()
        body = strides_delta.of(new, b"", old, HALVES, 0, 0, width)
        assert words < 8 or body is not None
        if body is None:
            continue
        length = 1 + (words * width + 7) // 8
        assert body[18 + (length > 0x7F)] == 16 + width
        frame, arguments = seal(STRIDES_DELTA, body), (BESIDE.to_bytes(), [old.tobytes()])
        assert kernel.decode_frame(DType.F32.code, frame, 4 * words, *arguments) == new.tobytes()
        assert plain_decoder.decode(frame, 4 * words, *arguments) == new.tobytes()


def test_numbers_are_packed_where_they_are_even(kernel: kernels.Kernels) -> None:
    random_ = np.random.default_rng(5)
    old = random_.normal(0, 0.05, 6000).astype("<f4")
    for least, most, first in ((-8, 7, 20), (-13, 13, 21), (-12, 12, 4), (-9, 9, 4), (-16, 15, 21), (-40, 40, 4)):
        counts = random_.integers(least, most, old.size, np.int8, endpoint=True)
        counts[[-1, 1000]] = 100, -100  # where none of the few words are
        new = strides.expected(counts, old.view("<u4"), Strides(0.9997, 2e-4, odd=True)).view("<f4")
        frame = frame_of(new, old)
        arguments = new.tobytes(), BESIDE.to_bytes(), [old.tobytes()], 0, 0, new.nbytes, True
        assert portable.encode_frame(DType.F32.code, *arguments) == frame
        body = unseal(frame)[1]
        assert codec_name(frame) == STRIDES_DELTA.name
        assert body[19] == first, most


@pytest.mark.parametrize(
    ("times", "width"),
    [
        ([512, 512], 1),
        ([256, 256, 256, 256], 2),
        ([478, 182, 182, 182], 2),
        ([479, 182, 182, 181], 0),
        ([768, 256], 1),
        ([769, 255], 0),
        ([1024], 0),
        ([0, 1024], 0),
        ([1, 0, 0, 1023], 0),
        ([128] * 8, 3),
        ([256] * 3 + [255, 1], 0),
        ([4] * 256, 8),
    ],
)
def test_how_even_numbers_must_be(times: list[int], width: int) -> None:
    tokens = np.repeat(np.arange(len(times)), times).astype(np.uint8)
    assert tokens.size == 1024
    order.unzigzag(tokens)
    assert strides.even_width(tokens.view(np.int8)) == width


@given(chunks_and_references(), st.floats(-2, 2), st.floats(2.0**-140, 1e300), st.booleans(), st.integers(0, 8))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_the_words_and_strides(
    kernel: kernels.Kernels, pair: tuple[bytes, list[bytes]], a: float, s: float, odd: bool, width: int
) -> None:
    raw, (reference, *_) = pair
    words, base = (np.frombuffer(data, "<u4", len(raw) // 4) for data in (raw, reference))
    if not words.size:
        return
    body = strides_delta.of(words, raw[words.nbytes :], base, Strides(a, s, odd), 0, 0, width)
    if body is None:
        return
    frame, data = seal(STRIDES_DELTA, body), BESIDE.to_bytes()
    assert portable.decode_frame(DType.F32.code, frame, len(raw), data, [reference]) == raw
    assert kernel.decode_frame(DType.F32.code, frame, len(raw), data, [reference]) == raw
    assert plain_decoder.decode(frame, len(raw), data, [reference]) == raw


@pytest.mark.parametrize("words", [1, 255, 256, 2047, 2048, 4095, 4096, 8191, 8192])
def test_every_number_of_lanes(kernel: kernels.Kernels, words: int) -> None:
    new, old = by_signs(words, 30)
    body = strides_delta.of(new.view("<u4"), b"", old.view("<u4"), Strides(0.9997, 2e-4), 0, 0)
    if words == 1:
        assert body is None, "a body of residuals is longer than the word"
        return
    assert body is not None
    numbers = body[19:] if body[17] > 0x7F else body[18:]
    few = 3 if words >= 2048 else 2 if words >= 256 else 0
    assert numbers[0] == (5 if words >= 8192 else 4 if words >= 4096 else few)
    frame = seal(STRIDES_DELTA, body)
    assert kernel.decode_frame(DType.F32.code, frame, new.nbytes, BESIDE.to_bytes(), [old.tobytes()]) == new.tobytes()


@pytest.mark.parametrize("width", [0, 5, 8])
@pytest.mark.parametrize("name", NATIVE)
def test_damaged_bodies_are_refused_alike(name: str, width: int) -> None:
    new, old = by_signs(43, 30)
    body = strides_delta.of(new.view("<u4"), b"", old.view("<u4"), Strides(0.9997, 2e-4), 0, 0, width)
    assert body is not None
    arguments = new.nbytes, BESIDE.to_bytes(), [old.tobytes()]
    before = kernels.in_use()
    kernels.use(name)
    try:
        refused = 0
        for damaged in damages(body):
            frame = seal(STRIDES_DELTA, damaged)
            expected = outcome(portable.decode_frame, DType.F32.code, frame, *arguments)
            assert outcome(kernels.current.decode_frame, DType.F32.code, frame, *arguments) == expected
            refused += expected is CodecError
    finally:
        kernels.use(before)
    assert refused > (80 if width else 8 * 40), "heads, tables and states"


def test_frames_that_a_tensor_cannot_have(kernel: kernels.Kernels) -> None:
    new, old = by_signs(2100, 30)
    raw, reference = new.tobytes(), old.tobytes()
    frame = frame_of(new, old)
    _, body = unseal(frame)
    for dtype in (DType.BF16, DType.F16, DType.I32, DType.F64):
        with pytest.raises(CodecError, match=STRIDES_DELTA.name):
            decode_chunk(frame, len(raw), Parameters(dtype, (Previous(),)), [reference])
    with pytest.raises(CodecError, match="no predictor"):
        decode_chunk(frame, len(raw), Parameters(DType.F32), [reference])
    for unfit in ([], [reference[:-1]], [reference + b"\0"], [b""]):
        with pytest.raises(CodecError, match="reference"):
            decode_chunk(frame, len(raw), BESIDE, unfit)
    for size in (0, 3, len(raw) - 4, len(raw) + 1, len(raw) + 4):
        with pytest.raises(CodecError):
            decode_chunk(frame, size, BESIDE, [reference[:size] + bytes(max(0, size - len(reference)))])
    for place, wrong in ((7, b"\xf0\x7f"), (14, b"\xf0\xff"), (16, b"\2")):  # infinite, or a third kind of halves
        at = place - len(wrong) + 1
        damaged = bytes(body[:at]) + wrong + bytes(body[at + len(wrong) :])
        with pytest.raises(CodecError):
            decode_chunk(seal(STRIDES_DELTA, damaged), len(raw), BESIDE, [reference])


def test_numbers_of_no_form_are_refused(kernel: kernels.Kernels) -> None:
    old = by_signs(300, 1)[1].view("<u4")
    body = strides_delta.of(old, b"", old, Strides(1.0, 2e-4), 0, 0, 1)
    assert body is not None
    arguments = old.nbytes, BESIDE.to_bytes(), [old.tobytes()]
    rest = body[18 + 1 + 38 :]
    assert kernel.decode_frame(DType.F32.code, seal(STRIDES_DELTA, body), *arguments) == old.tobytes()
    for form in range(256):  # and nothing behind it
        with pytest.raises(CodecError):
            kernel.decode_frame(DType.F32.code, seal(STRIDES_DELTA, body[:17] + bytes((1, form)) + rest), *arguments)
    with pytest.raises(CodecError):
        kernel.decode_frame(DType.F32.code, seal(STRIDES_DELTA, body[:17] + b"\0" + rest), *arguments)


def test_what_a_frame_tells_without_being_decoded() -> None:
    new, old = by_signs(4200, 30)
    frame = frame_of(new, old, row=60)
    assert row_of(frame) == 60
    assert references_of(frame, 3) == 1, "it looks at the base alone"
    for length in (1, 5, 20, 26):
        assert row_of(frame[:length]) == 0


def test_weights_as_training_leaves_them_have_none() -> None:
    for seed in range(20):
        raw, (reference, *_) = weights(DType.F32, 5000, seed)
        words, base = (np.frombuffer(data, "<u4") for data in (raw, reference))
        assert strides.stride_among(words, base) == 0
        chance = random.Random(seed).randbytes(len(raw))
        assert strides.fitted(np.frombuffer(chance, "<u4"), base) is None
