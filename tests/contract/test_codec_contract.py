"""Does every codec, for every dtype, give back the bytes, within its bound, or an error and never wrong bytes?

A new row in the codec table gets the whole battery: `frame_with` must be taught to make its frames.
"""

from __future__ import annotations

import mmap
import random
import struct
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelvault.codec import (
    CodecError,
    Parameters,
    Previous,
    decode_chunk,
    decodes_to,
    encode_chunk,
    is_delta,
    lattice,
    low_rank,
    max_frame_bytes,
    order,
    pieces,
    plan,
    planes,
    portable,
    steps,
    strides_delta,
)
from modelvault.codec.chunk import frame_within
from modelvault.codec.factors import Factors
from modelvault.codec.floats import BINARY32, FORMATS
from modelvault.codec.frame import codec_name, seal
from modelvault.codec.low_rank import View
from modelvault.codec.plan import Kind, Piece
from modelvault.codec.spreads import Run
from modelvault.codec.steps import Grid
from modelvault.codec.strides import Strides
from modelvault.codec.table import (
    LATTICE,
    LATTICE_DELTA,
    LEVELS_RANS,
    LOW_RANK,
    LOW_RANK_DELTA,
    PIECES,
    PIECES_DELTA,
    PLANES_ZSTD,
    PREVIOUS_PLANES_ZSTD,
    RAW,
    RESIDUAL_RANS,
    SAME,
    STEPS_DELTA,
    STRIDES_DELTA,
    TABLE,
    Codec,
)
from modelvault.tensors import CHUNK_BYTES, DType

EVERY_DTYPE = pytest.mark.parametrize("dtype", DType, ids=lambda dtype: dtype.name)
EVERY_CODEC = pytest.mark.parametrize("codec", TABLE, ids=lambda codec: codec.name)

dtypes = st.sampled_from(DType)
words_of_interest = st.sampled_from(
    [
        struct.pack("<ff", 0.0, -0.0),
        struct.pack("<II", 0x7F800001, 0xFFC0BEEF),  # NaNs, signalling and quiet, with payloads
        struct.pack("<ff", float("inf"), float("-inf")),
        struct.pack("<II", 1, 0x80000001),  # subnormals
        struct.pack("<dd", 5e-324, -1.7976931348623157e308),
        bytes(8),
        b"\xff" * 8,
        b"\x80\x3f" * 8,
    ]
)
chunks = st.one_of(
    st.binary(max_size=300),
    st.lists(st.one_of(words_of_interest, st.binary(max_size=9)), max_size=30).map(b"".join),
    st.tuples(st.binary(min_size=1, max_size=20), st.integers(1, 40)).map(lambda pair: pair[0] * pair[1]),
)


@st.composite
def chunks_and_references(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """A chunk and a reference of its size: unrelated, or the chunk with a few bytes changed."""
    raw = draw(chunks)
    if draw(st.booleans()):
        other = draw(chunks) or b"\0"
        return raw, (other * (len(raw) // len(other) + 1))[: len(raw)]
    reference = bytearray(raw)
    for place, value in draw(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=6)):
        if reference:
            reference[place % len(reference)] = value
    return raw, bytes(reference)


def frame_with(codec: Codec, dtype: DType, raw: bytes, reference: bytes) -> bytes:
    """Return this codec's frame, also where `encode_chunk` would have chosen another codec.

    Coders of floats have none for other dtypes, nor for a chunk that they would make longer: then it is a raw frame.
    """
    data, base = np.frombuffer(raw, np.uint8), np.frombuffer(reference, np.uint8)
    words = order.words(data, dtype)
    tail = raw[words.nbytes :]
    if codec is RAW:
        return seal(codec, raw)
    if codec is PLANES_ZSTD:
        return seal(codec, planes.encode(words, tail))
    if codec is PREVIOUS_PLANES_ZSTD:
        return seal(codec, planes.encode(order.residual(words, order.words(base, dtype), dtype), tail))
    if codec in (LATTICE, LATTICE_DELTA):
        beside = order.words(base, dtype) if codec is LATTICE_DELTA else None
        return seal(codec, lattice.encode(words, tail, beside, dtype, -9, frame_within))
    if codec is STEPS_DELTA:
        grid = Grid(-2, 3) if dtype in FORMATS and len(raw) % 2 == 0 else Grid(-9)
        return seal(codec, steps.encode(words, tail, order.words(base, dtype), dtype, grid, 0, 0, frame_within))
    if codec in (PIECES, PIECES_DELTA):
        if dtype not in FORMATS:
            return seal(RAW, raw)
        beside = order.words(base, dtype) if codec is PIECES_DELTA else None
        return seal(codec, pieces.of(words, tail, beside, dtype, plan.records(in_turns(words.size)), frame_within))
    if codec in (RESIDUAL_RANS, LEVELS_RANS):
        if dtype not in FORMATS:
            return seal(RAW, raw)
        parameters = Parameters.for_reference(dtype, True).to_bytes()
        if codec is RESIDUAL_RANS:
            body = portable.encode_delta(dtype.code, raw, parameters, [reference], 0, 0, 1 << 30)
        else:
            body = portable.encode_keyframe(dtype.code, raw, 0, 0)
        return seal(RAW, raw) if body is None else seal(codec, body)
    if codec is STRIDES_DELTA:
        if FORMATS.get(dtype) is not BINARY32 or not words.size:
            return seal(RAW, raw)
        body = strides_delta.of(words, tail, order.words(base, dtype), Strides(0.999, 2**-9, odd=True), 9, 4)
        return seal(RAW, raw) if body is None else seal(codec, body)
    if codec in (LOW_RANK, LOW_RANK_DELTA):
        if dtype not in FORMATS or words.size < 8:
            return seal(RAW, raw)
        is_delta, view = codec is LOW_RANK_DELTA, View(4, 1, words.size)
        found = Factors(2.0**-9, np.arange(view.rows)[:, None] - 5, np.array([[3, 0, -1, 2]]))
        beside = order.words(base, dtype) if is_delta else np.zeros_like(words)
        index = 0 if is_delta else None
        body = None
        if view.rows + view.columns <= words.size:
            body = low_rank.of(words, tail, FORMATS[dtype], index, beside, found, view, 9, 4)
        return seal(RAW, raw) if body is None else seal(codec, body)
    assert codec is SAME, f"the battery does not know {codec.name} yet"
    assert raw == reference
    return seal(codec, b"")


def in_turns(words: int) -> list[Piece]:
    """Return pieces of every kind, one after the other, that have so many words together."""
    kinds = [
        Piece(Run(7, 3, 1), Kind.EQUAL, -9, value=0.75),
        Piece(Run(40), Kind.DOUBLING, -2, 3),
        Piece(Run(5), Kind.APART),
        Piece(Run(90, 9, 2), Kind.ANCHORED, value=0.001),
    ]
    found, place = list[Piece](), 0
    while words:
        piece = kinds[place % len(kinds)]
        some = min(words, piece.run.words << place // 4)
        found.append(piece._replace(run=piece.run._replace(words=some)))
        words, place = words - some, place + 1
    return found or [Piece(Run(0), Kind.APART)]


def floats(dtype: DType, nbytes: int, seed: int) -> tuple[bytes, bytes]:
    """Return weights of about this many bytes as training leaves them, and the same a step earlier."""
    random_ = np.random.default_rng(seed)
    new = random_.normal(0, 0.05, nbytes // 4).astype("<f4")
    old = new + random_.normal(0, 1e-4, new.size).astype("<f4")
    if dtype is DType.BF16:
        return (new.view("<u4") >> 16).astype("<u2").tobytes(), (old.view("<u4") >> 16).astype("<u2").tobytes()
    assert dtype is DType.F32
    return new.tobytes(), old.tobytes()


@given(dtypes, chunks_and_references())
def test_whatever_is_chosen_comes_back_and_is_the_smallest(dtype: DType, pair: tuple[bytes, bytes]) -> None:
    raw, reference = pair
    keyframe, delta = (Parameters.for_reference(dtype, some) for some in (False, True))
    alone, against = encode_chunk(raw, keyframe), encode_chunk(raw, delta, [reference])
    assert not is_delta(alone)
    assert decode_chunk(alone, len(raw), keyframe) == raw
    assert decode_chunk(alone, len(raw), delta) == raw, "a keyframe in a tensor that has a reference"
    assert decode_chunk(against, len(raw), delta, [reference]) == raw
    assert len(against) <= len(alone) <= max_frame_bytes(len(raw))
    if is_delta(against):
        assert len(against) < len(alone), "a tie goes to the frame that needs nothing"
    else:
        assert against == alone


@EVERY_CODEC
@given(dtype=dtypes, pair=chunks_and_references())
def test_every_codec_takes_every_chunk(codec: Codec, dtype: DType, pair: tuple[bytes, bytes]) -> None:
    raw, reference = pair
    if codec is SAME:
        reference = raw
    frame = frame_with(codec, dtype, raw, reference)
    parameters = Parameters.for_reference(dtype, codec.needs_reference)
    assert is_delta(frame) == (codec.needs_reference and frame[0] != RAW.id)
    references = [reference] if codec.needs_reference else []
    assert decode_chunk(frame, len(raw), parameters, references) == raw
    assert decodes_to(frame, raw, parameters, references)
    for at in {0, len(raw) // 2, len(raw) - 1} if raw else ():
        assert not decodes_to(frame, raw[:at] + bytes((raw[at] ^ 1,)) + raw[at + 1 :], parameters, references)


@EVERY_DTYPE
@EVERY_CODEC
def test_every_size_to_seventy(codec: Codec, dtype: DType) -> None:
    random_ = random.Random(codec.id * 100 + dtype.code)
    parameters = Parameters.for_reference(dtype, codec.needs_reference)
    for size in range(71):
        raw = random_.randbytes(size)
        reference = raw if codec is SAME else random_.randbytes(size)
        frame = frame_with(codec, dtype, raw, reference)
        assert decode_chunk(frame, size, parameters, [reference] if codec.needs_reference else []) == raw


@EVERY_DTYPE
@EVERY_CODEC
def test_every_pair_of_high_bytes(codec: Codec, dtype: DType) -> None:
    """Every sign and leading exponent bits against every other: for one-byte words, every value against every other."""
    width = order.word_bytes(dtype)
    low = b"\x01" * (width - 1)
    raw = b"".join(low + bytes((high,)) for high in range(256)) * 256
    reference = raw if codec is SAME else b"".join((low + bytes((high,))) * 256 for high in range(256))
    parameters = Parameters.for_reference(dtype, codec.needs_reference)
    frame = frame_with(codec, dtype, raw, reference)
    assert decode_chunk(frame, len(raw), parameters, [reference] if codec.needs_reference else []) == raw


@pytest.mark.parametrize("dtype", [DType.F32, DType.BF16])
def test_byte_planes_are_tried_where_mantissas_have_few_values(dtype: DType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights of few values repeat the bytes of their mantissas; as training leaves them they do not."""
    weights, _ = floats(dtype, 200_000, 11)
    words = order.words(np.frombuffer(weights, np.uint8), dtype)
    for values in (3, 20, 60):
        few = np.random.default_rng(values).choice(words[:values], words.size).tobytes()
        frame = encode_chunk(few, Parameters(dtype))
        assert codec_name(frame) == PLANES_ZSTD.name
        assert decode_chunk(frame, len(few), Parameters(dtype)) == few
    beside, far = Parameters(dtype, (Previous(),)), floats(dtype, 200_000, 12)[1]
    expected = encode_chunk(weights, Parameters(dtype))
    assert codec_name(expected) == LEVELS_RANS.name
    assert encode_chunk(weights, beside, [far]) == expected
    monkeypatch.setattr(planes, "encode", None)
    assert encode_chunk(weights, beside, [far]) == expected, "though it is not tried there"
    with pytest.raises(TypeError):
        encode_chunk(weights, Parameters(dtype))
    repeating, sparse = words.copy(), words.copy()
    positive = words & words.dtype.type((1 << (8 * words.itemsize - 1)) - 1)
    repeating.view(np.uint8).reshape(words.size, -1)[:, words.itemsize // 2 - 1] &= 0xF3
    sparse.reshape(-1, 200)[::4] = 0
    for some in (repeating, positive, sparse):
        with pytest.raises(TypeError):
            encode_chunk(some.tobytes(), beside, [far])


@EVERY_DTYPE
def test_a_full_chunk(dtype: DType) -> None:
    random_ = random.Random(dtype.code)
    noise = random_.randbytes(CHUNK_BYTES)
    changed = bytearray(noise)
    changed[:: 1 << 12] = random_.randbytes(1 << 8)
    delta = Parameters(dtype, (Previous(),))
    frame = encode_chunk(noise, delta, [changed])
    assert is_delta(frame)
    assert len(frame) < CHUNK_BYTES // 20
    assert decode_chunk(frame, CHUNK_BYTES, delta, [changed]) == noise
    assert encode_chunk(noise, Parameters(dtype)) == seal(RAW, noise)


def test_a_delta_is_made_where_it_is_worth_it() -> None:
    """Numbers that forgot what they were are keyframes. Those that half did are deltas, and what has no keyframe."""
    random_ = np.random.default_rng(3)
    alone, beside = (Parameters.for_reference(DType.F32, some) for some in (False, True))

    def taken(new: Any, old: Any) -> tuple[str, float]:
        frame = encode_chunk(new.tobytes(), beside, [old.tobytes()])
        return codec_name(frame), 32 * len(frame) / new.nbytes

    means, before = (random_.normal(0, 1e-3, 50_000).astype("<f4") for _ in range(2))
    assert encode_chunk(means.tobytes(), beside, [before.tobytes()]) == encode_chunk(means.tobytes(), alone)
    name, bits = taken((before * (1 + 0.6 * random_.normal(size=before.size))).astype("<f4"), before)
    assert name == RESIDUAL_RANS.name
    assert 24 < bits < 26
    noise = random_.integers(0, 1 << 32, 50_000, np.uint32)
    name, bits = taken(noise + random_.integers(0, 1 << 28, noise.size, np.uint32), noise)
    assert name == RESIDUAL_RANS.name
    assert 28 < bits < 30


def test_trained_weights_shrink() -> None:
    for dtype, alone_ratio, delta_ratio in ((DType.F32, 1.19, 1.65), (DType.BF16, 1.48, 4.0)):
        new, old = floats(dtype, CHUNK_BYTES, 1)
        assert len(new) / len(encode_chunk(new, Parameters(dtype))) > alone_ratio
        assert len(new) / len(encode_chunk(new, Parameters(dtype, (Previous(),)), [old])) > delta_ratio


@EVERY_DTYPE
def test_an_unchanged_chunk_costs_a_frame_and_nothing_else(dtype: DType) -> None:
    raw = random.Random(2).randbytes(1000)
    parameters = Parameters(dtype, (Previous(),))
    frame = encode_chunk(raw, parameters, [bytearray(raw)])
    assert frame == seal(SAME, b"")
    assert decode_chunk(frame, 1000, parameters, [memoryview(raw)]) == raw


@EVERY_DTYPE
def test_an_empty_chunk_needs_no_reference(dtype: DType) -> None:
    frame = encode_chunk(b"", Parameters(dtype, (Previous(),)), [b""])
    assert frame == seal(RAW, b"")
    assert decode_chunk(frame, 0, Parameters(dtype, (Previous(),))) == b""


@EVERY_DTYPE
def test_views_unaligned_and_mapped_buffers_are_taken(dtype: DType) -> None:
    new, old = floats(DType.F32, 40_000, 3)
    parameters = Parameters(dtype, (Previous(),))
    expected = encode_chunk(new, parameters, [old])
    with mmap.mmap(-1, 2 * len(new) + 3) as mapped:
        mapped[1 : 1 + len(new)], mapped[3 + len(new) :] = new, old
        with memoryview(mapped) as whole, whole[1 : 1 + len(new)] as raw, whole[3 + len(new) :] as reference:
            with raw.toreadonly() as fixed:
                assert encode_chunk(fixed, parameters, [reference]) == expected
            padded = memoryview(b"x" + expected)[1:]
            assert decode_chunk(padded, len(new), parameters, [reference]) == new
    as_floats = memoryview(new).cast("f")
    assert encode_chunk(as_floats, parameters, [np.frombuffer(old, "<f4").data]) == expected


def test_the_result_is_the_callers_own() -> None:
    parameters = Parameters(DType.F32, (Previous(),))
    reference = bytearray(b"reference!!!")
    frame = encode_chunk(reference, parameters, [reference])
    decoded = decode_chunk(frame, 12, parameters, [reference])
    reference[0] ^= 1
    assert decoded == b"reference!!!"


@EVERY_DTYPE
def test_a_reference_that_does_not_fit(dtype: DType) -> None:
    new, old = floats(DType.F32, 4000, 4)
    none, previous = (Parameters.for_reference(dtype, some) for some in (False, True))
    with pytest.raises(ValueError, match="0 references, expected 1"):
        encode_chunk(new, previous)
    with pytest.raises(ValueError, match="1 references, expected 0"):
        encode_chunk(new, none, [old])
    for wrong in (old[:-1], old + b"\0", b""):
        with pytest.raises(ValueError, match="reference of"):
            encode_chunk(new, previous, [wrong])
    for codec in (SAME, PREVIOUS_PLANES_ZSTD, LATTICE_DELTA, STEPS_DELTA, PIECES_DELTA, STRIDES_DELTA):
        if (codec is PIECES_DELTA and dtype not in FORMATS) or (
            codec is STRIDES_DELTA and FORMATS.get(dtype) is not BINARY32
        ):
            continue
        frame = frame_with(codec, dtype, new, new if codec is SAME else old)
        for unfit in ([old[:-1]], [old + b"\0"], [b""], []):
            with pytest.raises(CodecError, match="reference"):
                decode_chunk(frame, len(new), previous, unfit)
        with pytest.raises(CodecError, match="no predictor"):
            decode_chunk(frame, len(new), none, [old])


@EVERY_CODEC
def test_a_frame_of_another_size_is_refused(codec: Codec) -> None:
    new, old = floats(DType.F32, 4000, 5)
    frame = frame_with(codec, DType.F32, new, new if codec is SAME else old)
    parameters = Parameters.for_reference(DType.F32, codec.needs_reference)
    for size in (0, 1, 3996, 3999, 4001, 4003, 4004, 8000):
        with pytest.raises(CodecError):
            decode_chunk(frame, size, parameters, [old] if codec.needs_reference else [])
        with pytest.raises(CodecError):
            decodes_to(frame, bytes(size), parameters, [old] if codec.needs_reference else [])


def test_threads_share_nothing() -> None:
    jobs = [(*floats(dtype, 200_000, seed), dtype) for seed in range(8) for dtype in (DType.F32, DType.BF16)]

    def there_and_back(job: tuple[bytes, bytes, DType]) -> bytes:
        new, old, dtype = job
        parameters = Parameters(dtype, (Previous(),))
        frame = encode_chunk(new, parameters, [old])
        assert decode_chunk(frame, len(new), parameters, [old]) == new
        return frame

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(there_and_back, jobs * 4)) == [there_and_back(job) for job in jobs] * 4
