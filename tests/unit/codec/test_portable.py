"""Do the codecs of float words give back every chunk, in the second decoder too, and only CodecError for damage?"""

from __future__ import annotations

import math
import random
import struct
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelvault.codec import (
    CodecError,
    Combined,
    Decayed,
    Parameters,
    Predictor,
    Previous,
    Scaled,
    Term,
    TermKind,
    floats,
    order,
    portable,
    residual_rans,
)
from modelvault.codec.frame import seal
from modelvault.codec.table import LEVELS_RANS, RESIDUAL_RANS
from modelvault.tensors import DType

from . import plain_decoder

DTYPES = [DType.F32, DType.BF16, DType.F16, DType.C64, DType.C32]
EVERY_DTYPE = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.name)
PREDICTORS: list[tuple[Predictor, ...]] = [
    (Previous(),),
    (Scaled(0.9995),),
    (Previous(), Scaled(0.9995)),
    (Decayed(((0.9999, 3), (0.999, 1))), Previous(), Scaled(0.5)),
    (Combined(1.9, (Term(TermKind.WORD, 1, -0.9),)), Previous(), Decayed(((0.9999, 1),)), Scaled(-1.0)),
    (Previous(), Combined(0.9995, (Term(TermKind.STEP, 1, -1e-3, 1e-8),))),
    (
        Combined(1.0, (Term(TermKind.STEP, 1, -1e-3, 1e-8), Term(TermKind.WORD, 1, -0.1))),
        Combined(1.0, (Term(TermKind.SQUARE, 2, 0.001),)),
    ),
]

single = st.sampled_from(
    (
        0,
        1 << 31,
        1,
        0x80000001,
        0x7FFFFF,
        0x800000,
        0x3F800000,
        0x3F800001,
        0xBF800000,
        0x7F7FFFFF,
        0x7F800000,
        0xFF800000,
        0x7F800001,
        0xFFC0BEEF,
        0xFFFFFFFF,
        0x41200000,
        0x00010000,
    )
)
words = st.one_of(
    single.map(lambda word: word.to_bytes(4, "little")),
    st.floats(-1, 1, width=32).map(lambda value: struct.pack("<f", value)),
    st.binary(min_size=4, max_size=4),
)
chunks = st.one_of(
    st.lists(words, max_size=60).map(b"".join),
    st.tuples(words, st.integers(1, 90)).map(lambda pair: pair[0] * pair[1]),
    st.tuples(st.lists(words, max_size=40).map(b"".join), st.binary(max_size=3)).map(b"".join),
)


@st.composite
def chunks_and_references(draw: st.DrawFn) -> tuple[bytes, list[bytes]]:
    """A chunk and three references: near it, or of anything."""
    raw = draw(chunks)
    references = []
    for _ in range(3):
        if draw(st.booleans()):
            other = draw(chunks) or b"\0"
            references.append((other * (len(raw) // len(other) + 1))[: len(raw)])
        else:
            reference = bytearray(raw)
            for place, value in draw(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=6)):
                if reference:
                    reference[place % len(reference)] = value
            references.append(bytes(reference))
    return raw, references


def weights(dtype: DType, words: int, seed: int = 0) -> tuple[bytes, list[bytes]]:
    """Return weights and, as references, those of a step earlier and two, or Adam's moments."""
    random_ = np.random.default_rng(seed)
    new = (
        random_.normal(0, 0.05, words).astype("<f4")
        * np.repeat(np.exp(random_.normal(size=words // 64 + 1)), 64)[:words]
    )
    noise = random_.normal(0, 1e-4, words)
    noise[words // 3 : words // 2] = 0  # some did not move, but for decay
    moments = [np.abs(noise), noise**2 + 1e-9]
    arrays = [new, new / 0.9995 + noise, *moments]

    def cast(array: Any) -> bytes:
        single_: Any = array.astype("<f4")
        if dtype in (DType.F16, DType.C32):
            return bytes(single_.astype("<f2").tobytes())
        if dtype is DType.BF16:
            return bytes((single_.view("<u4") >> 16).astype("<u2").tobytes())
        return bytes(single_.tobytes())

    return cast(arrays[0]), [cast(array) for array in arrays[1:]]


def check_delta(
    dtype: DType, predictors: tuple[Predictor, ...], raw: bytes, references: list[bytes], row: int = 0, start: int = 0
) -> bytes | None:
    parameters = Parameters(dtype, predictors)
    data, some = parameters.to_bytes(), references[: parameters.references]
    body = portable.encode_delta(dtype.code, raw, data, some, row, start, 1 << 30)
    if body is not None:
        assert len(body) < len(raw)
        decoded = portable.decode_delta(dtype.code, body, len(raw), data, some)
        assert decoded == raw
        assert plain_decoder.decode(seal(RESIDUAL_RANS, body), len(raw), data, some) == raw
    return body


def check_keyframe(dtype: DType, raw: bytes, row: int = 0, start: int = 0) -> bytes | None:
    body = portable.encode_keyframe(dtype.code, raw, row, start)
    if body is not None:
        assert len(body) < len(raw)
        assert portable.decode_keyframe(dtype.code, body, len(raw)) == raw
        assert plain_decoder.decode(seal(LEVELS_RANS, body), len(raw), bytes((dtype.code, 0)), []) == raw
    return body


@given(
    st.sampled_from(DTYPES),
    st.sampled_from(PREDICTORS),
    chunks_and_references(),
    st.integers(0, 50),
    st.integers(0, 10**6),
)
def test_whatever_is_coded_comes_back(
    dtype: DType, predictors: tuple[Predictor, ...], pair: tuple[bytes, list[bytes]], row: int, start: int
) -> None:
    raw, references = pair
    check_delta(dtype, predictors, raw, references, row, start)
    check_keyframe(dtype, raw, row, start)


@EVERY_DTYPE
@pytest.mark.parametrize("predictors", PREDICTORS, ids=lambda found: "+".join(type(item).__name__ for item in found))
def test_weights_shrink(dtype: DType, predictors: tuple[Predictor, ...]) -> None:
    raw, references = weights(dtype, 5000)
    body = check_delta(dtype, predictors, raw + b"!", [reference + b"?" for reference in references], 64, 0)
    assert body is not None
    assert len(body) < (0.72 if dtype in (DType.F32, DType.C64) else 0.45) * len(raw)
    key = check_keyframe(dtype, raw + b"!", 64, 0)
    assert key is not None
    assert len(key) < (0.88 if dtype is not DType.BF16 else 0.75) * len(raw)


@EVERY_DTYPE
@pytest.mark.parametrize(
    "words", [1, 31, 255, 256, 257, 2047, 2048, 2051, 4095, 4096, 8197, 16383, 16384, 32767, 32805]
)
def test_every_number_of_lanes(dtype: DType, words: int) -> None:
    raw, references = weights(dtype, words)
    parameters = Parameters(dtype, (Previous(),)).to_bytes()
    moved = weights(dtype, words, 1)[0]
    for reference in (references[0], moved):
        body = portable.encode_delta(dtype.code, raw, parameters, [reference], 0, 0, 1 << 30)
        if body is not None:
            assert portable.decode_delta(dtype.code, body, len(raw), parameters, [reference]) == raw
    body = portable.encode_keyframe(dtype.code, raw, 0, 0)
    assert (body is None) <= (words < 40), "heads and tables take a few bytes"
    if body is not None:
        few = 3 if words >= 2048 else 2 if words >= 256 else 0
        assert body[0] & 7 == (5 if len(raw) >= 32768 else 4 if len(raw) >= 16384 else few)
        assert portable.decode_keyframe(dtype.code, body, len(raw)) == raw


def test_words_that_were_cast_up_leave_out_their_zeros() -> None:
    raw, references = weights(DType.BF16, 3000)
    wide, base = (
        b"".join(b"\0\0" + data[at : at + 2] for at in range(0, len(data), 2)) for data in (raw, references[0])
    )
    flipped = bytes(byte ^ 0x80 if at % 16 == 3 else byte for at, byte in enumerate(base))  # signs change
    for reference in (base, flipped):
        body = check_delta(DType.F32, (Previous(),), wide, [reference])
        assert body is not None
        assert body[1] == 16
    body = check_keyframe(DType.F32, wide)
    assert body is not None
    assert body[1] == 16
    assert len(body) < 0.4 * len(wide)


def test_constants_and_zeros_cost_next_to_nothing() -> None:
    for dtype in DTYPES:
        raw = bytes(20_000)
        for chunk in (raw, raw[:10_000] + b"\x01" + raw[10_001:]):
            body = check_keyframe(dtype, chunk)
            assert body is not None
        body = check_keyframe(dtype, raw)
        assert body is not None
        assert len(body) < 30
        changed = raw[:9996] + b"\0\0\x80\x3f" + raw[10_000:]
        body = check_delta(dtype, (Previous(),), changed, [raw])
        assert body is not None
        assert len(body) < 100


@EVERY_DTYPE
def test_words_of_every_level(dtype: DType) -> None:
    """Special ones among them: subnormals need their tails, zeros of both signs are told apart."""
    width = 4 if dtype in (DType.F32, DType.C64) else 2
    every = [high << (8 * width - 16) for high in range(0, 1 << 16, 13)]
    raw = b"".join(word.to_bytes(width, "little") for word in every + sorted(every, reverse=True))
    references = [raw[width * turn :] + raw[: width * turn] for turn in (1, 2, 3)]
    for predictors in PREDICTORS:
        check_delta(dtype, predictors, raw, references)
    body = check_keyframe(dtype, raw)
    assert body is not None
    assert body[0] & 8


def test_few_common_levels_and_many_rare_ones_come_back() -> None:
    """Where the rounding of frequencies is hardest: every rare one takes more of the scale than of the counts."""
    levels = [level for level in range(1, 57) for _ in range(1100)] + list(range(57, 255))
    random.Random(0).shuffle(levels)
    raw = b"".join((level << 23).to_bytes(4, "little") for level in levels)
    assert check_keyframe(DType.F32, raw[:-4] + b"\x01\0\0\0") is not None  # the last word: nothing is shifted


@EVERY_DTYPE
def test_every_flipped_bit_and_truncation_is_an_error_or_a_chunk(dtype: DType) -> None:
    raw, references = weights(dtype, 300)
    parameters = Parameters(dtype, (Previous(), Scaled(0.9995))).to_bytes()
    delta = portable.encode_delta(dtype.code, raw + b"!", parameters, [references[0] + b"?"], 0, 0, 1 << 30)
    key = portable.encode_keyframe(dtype.code, raw + b"!", 0, 0)
    assert delta is not None
    assert key is not None

    def decode_delta(body: bytes) -> bytes:
        return portable.decode_delta(dtype.code, body, len(raw) + 1, parameters, [references[0] + b"?"])

    def decode_keyframe(body: bytes) -> bytes:
        return portable.decode_keyframe(dtype.code, body, len(raw) + 1)

    for body, decode in ((delta, decode_delta), (key, decode_keyframe)):
        assert decode(body) == raw + b"!"
        for length in range(len(body)):
            with pytest.raises(CodecError):
                decode(body[:length])
        with pytest.raises(CodecError):
            decode(body + b"\0")
        head_bits, total = 8 * 80, 8 * len(body)
        for bit in [*range(min(head_bits, total)), *range(head_bits, total, 37)]:
            damaged = bytearray(body)
            damaged[bit // 8] ^= 1 << bit % 8
            try:
                assert len(decode(bytes(damaged))) == len(raw) + 1
            except CodecError:
                continue


@given(st.binary(max_size=80), st.sampled_from(DTYPES), st.integers(0, 300), st.booleans())
def test_random_bodies_are_errors_or_chunks(body: bytes, dtype: DType, size: int, plausible: bool) -> None:
    if plausible:
        body = b"\x00\x00\x01\x01" + body
    parameters = Parameters(dtype, (Previous(), Scaled(2.0))).to_bytes()

    def of_another_length() -> bytes:
        return portable.decode_delta(dtype.code, body, size, parameters, [bytes(range(256)) * 2 + bytes(size)][:1])

    def delta() -> bytes:
        return portable.decode_delta(dtype.code, body, size, parameters, [(bytes(range(256)) * 2)[:size]])

    def keyframe() -> bytes:
        return portable.decode_keyframe(dtype.code, body, size)

    for decode in (of_another_length, delta, keyframe):
        try:
            assert len(decode()) == size
        except CodecError:
            continue


def test_nothing_is_allocated_that_was_not_earned() -> None:
    """A few bytes that claim blocks and tokens without end take what the chunk takes, and a little."""
    size = 1 << 20
    reference = bytes(size)
    parameters = Parameters(DType.F32, (Previous(),)).to_bytes()
    bodies = [b"\0\0\x01\x01", b"\0\0\x01\x01" + bytes(100), b"\0\0\x80\x80\x10\x80\x80\x10\xff\xff" + b"\xff" * 40]
    tracemalloc.start()
    try:
        for body in bodies:
            with pytest.raises(CodecError):
                portable.decode_keyframe(DType.F32.code, body, size)
            with pytest.raises(CodecError):
                portable.decode_delta(DType.F32.code, body, size, parameters, [reference])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 24 * size


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("", "ends early"),
        ("10 00 01 01", "flags 0x10"),
        ("06 00 01 01", "flags 0x06"),
        ("08 00 01 01", "flags 0x08"),
        ("00 18 01 01", "shifted by 24"),
        ("00 00 00 00", "above its limit|have no words"),
        ("00 00 01 00", "have no words"),
        ("00 00 01 02", "above its limit"),
        ("00 00 09 01", "above its limit"),
        ("00 00 81 00 01", "shortest form"),
        ("00 00 01 01", "8 blocks in 0 bits"),
        ("00 00 08 08", "1 blocks in 0 bits"),
        ("00 00 08 08 30", "scale -1"),
        ("00 00 08 08 08 00", "1 bytes too many"),
        ("00 00 08 08 18", "not zero"),
    ],
)
def test_forged_heads(body: str, message: str) -> None:
    parameters = Parameters(DType.F32, (Previous(),)).to_bytes()
    with pytest.raises(CodecError, match=message):
        portable.decode_delta(DType.F32.code, bytes.fromhex(body), 32, parameters, [bytes(32)])


def test_what_does_not_fit_together_is_refused() -> None:
    raw, references = weights(DType.F32, 300)
    previous = Parameters(DType.F32, (Previous(),)).to_bytes()
    two = Parameters(DType.F32, (Combined(1.0, (Term(TermKind.WORD, 1, 0.0),)),)).to_bytes()
    body = portable.encode_delta(DType.F32.code, raw, previous, references[:1], 0, 0, 1 << 30)
    assert body is not None
    arguments: list[tuple[int, bytes, list[bytes], str]] = [
        (DType.F64.code, previous, references[:1], "F64 are no floats"),
        (99, previous, references[:1], "99 are no floats"),
        (DType.F32.code, previous, [], "0 references, expected 1"),
        (DType.F32.code, two, references[:1], "1 references, expected 2"),
        (DType.F32.code, previous, [raw[:-1]], "reference of 1199 bytes"),
        (DType.F32.code, Parameters(DType.F32).to_bytes(), references[:1], "no delta"),
        (DType.BF16.code, previous, references[:1], "no delta"),
    ]
    for code, parameters, some, message in arguments:
        with pytest.raises(CodecError, match=message):
            portable.decode_delta(code, body, len(raw), parameters, some)
        with pytest.raises(ValueError, match=message):
            portable.encode_delta(code, raw, parameters, some, 0, 0, 1 << 30)
    with pytest.raises(ValueError, match="no floats"):
        portable.encode_keyframe(DType.I32.code, raw, 0, 0)
    with pytest.raises(CodecError, match="no floats"):
        portable.decode_keyframe(DType.I32.code, body, len(raw))


@EVERY_DTYPE
def test_token_sums_are_those_of_each_block(dtype: DType) -> None:
    raw, references = weights(dtype, 1000)
    format_, predictors = floats.FORMATS[dtype], (Previous(), Scaled(0.9995))
    words, old = (order.words(np.frombuffer(side, np.uint8), dtype) for side in (raw, references[0]))
    sums = residual_rans.token_sums(words, format_, predictors, [old], 300)
    assert sums.shape[0] == 2
    if format_ is floats.BINARY32:
        assert sums[0].sum() > sums[1].sum(), "the scale fits"
    for part in range(sums.shape[1]):
        cut = slice(300 * part, 300 * (part + 1))
        alone = residual_rans.token_sums(words[cut], format_, predictors, [old[cut]], 300)
        assert alone[:, 0].tolist() == sums[:, part].tolist()
    assert not residual_rans.token_sums(words, format_, (Previous(),), [words], 300).any()


def test_where_tokens_of_weights_are_expected() -> None:
    """The table of typical contexts says what the one of expected tokens does of levels of a normal distribution."""
    expected = residual_rans._EXPECTED_TOKENS
    levels = np.arange(-14, 3)
    shares = np.diff([math.erf(2.0**level / math.sqrt(2)) for level in range(-14, 4)])
    relative = 2 * (np.average(levels, weights=shares) - levels)
    contexts = np.arange(-10, 40, 1 / 16)
    logarithms = np.interp(contexts[:, None] + relative, np.arange(expected.size), np.log2(expected))
    means = np.average(2.0**logarithms, axis=1, weights=shares)
    steps = np.arange(residual_rans._TYPICAL.size)
    middle = residual_rans._SOME_TOKENS * 2.0 ** (steps // 8) * (1 + (steps % 8 + 0.5) / 8)
    assert np.abs(16 * np.interp(middle, means, contexts) - residual_rans._TYPICAL).max() < 1
