"""Is every damaged or hostile frame, parameter or packed record an error, at once and without a large allocation?"""

from __future__ import annotations

import random
import struct
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from modelvault.codec import (
    CodecError,
    Parameters,
    Previous,
    decode_chunk,
    encode_chunk,
    is_delta,
    lattice,
    low_rank,
    order,
    pack,
    pieces,
    plan,
    planes,
    portable,
    steps,
    strides,
    strides_delta,
    unpack,
)
from modelvault.codec.chunk import frame_within
from modelvault.codec.factors import Factors
from modelvault.codec.floats import BFLOAT16
from modelvault.codec.frame import seal
from modelvault.codec.low_rank import View
from modelvault.codec.plan import Kind, Piece
from modelvault.codec.spreads import Run
from modelvault.codec.steps import Grid
from modelvault.codec.strides import Strides
from modelvault.codec.table import (
    BY_ID,
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
from modelvault.errors import CorruptError
from modelvault.tensors import BY_CODE, DType

REFERENCE = b"".join((0x3F80 + i // 8).to_bytes(2, "little") for i in range(100)) + b"!"
CHUNK = REFERENCE[:-1].replace(b"\x83\x3f", b"\x82\x3f") + b"?"
SIZE = len(CHUNK)
KEYFRAME, DELTA = (Parameters.for_reference(DType.BF16, some) for some in (False, True))
WIDE = Parameters.for_reference(DType.F32, True)

# Eighths and, in the middle, something that is none.
EIGHTHS = b"".join(struct.pack("<f", i // 9 / 8)[2:] for i in range(100)).replace(b"\xc0\x3f", b"\xc1\x3f") + b"?"
ON_LATTICE = order.words(np.frombuffer(EIGHTHS, np.uint8), DType.BF16), b"?"
WORDS = order.words(np.frombuffer(REFERENCE, np.uint8), DType.BF16)

IN_PIECES = [
    Piece(Run(48, 4, 1), Kind.EQUAL, -3, value=1 + 9 / 65536),
    Piece(Run(12), Kind.DOUBLING, -3, 3),
    Piece(Run(12), Kind.ANCHORED, value=1 / 8),
    Piece(Run(28), Kind.APART),
]


def strides_frame() -> bytes:
    """Return a frame of words of 32 bits, of which one moved by a little more than whole strides."""
    base = order.words(np.frombuffer(REFERENCE, np.uint8), DType.F32)
    found = Strides(0.75, 0.125, odd=True)
    words = strides.expected((np.arange(base.size) % 4).astype(np.int8), base, found)
    words[17] += 900
    body = strides_delta.of(words, b"?", base, found, 0, 0)
    assert body is not None
    return seal(STRIDES_DELTA, body)


def factors_frame(codec: Codec) -> bytes:
    """Return a frame of which a product tells what most words are."""
    base = WORDS if codec is LOW_RANK_DELTA else np.zeros_like(WORDS)
    found = Factors(2.0**-7, np.arange(-2, 3)[:, None], np.arange(1, 21)[None, :])
    view = View(20, 0, base.size)
    words = low_rank.moved(base, found, view, BFLOAT16)
    words[17] += 9
    body = low_rank.of(words, b"?", BFLOAT16, 0 if codec is LOW_RANK_DELTA else None, base, found, view, 20, 0)
    assert body is not None
    return seal(codec, body)


def planes_frame(codec: Codec) -> bytes:
    words = order.words(np.frombuffer(CHUNK, np.uint8), DType.BF16)
    if codec is PREVIOUS_PLANES_ZSTD:
        words = order.residual(words, WORDS, DType.BF16)
    return seal(codec, planes.encode(words, CHUNK[-1:]))


def rans_frame(codec: Codec) -> bytes:
    code = DType.BF16.code
    if codec is RESIDUAL_RANS:
        body = portable.encode_delta(code, CHUNK, DELTA.to_bytes(), [REFERENCE], 0, 0, 1 << 30)
    else:
        body = portable.encode_keyframe(code, CHUNK, 0, 0)
    assert body is not None
    return seal(codec, body)


FRAMES = {
    RAW: encode_chunk(random.Random(1).randbytes(SIZE), KEYFRAME),
    PLANES_ZSTD: planes_frame(PLANES_ZSTD),
    PREVIOUS_PLANES_ZSTD: planes_frame(PREVIOUS_PLANES_ZSTD),
    SAME: encode_chunk(REFERENCE, DELTA, [REFERENCE]),
    RESIDUAL_RANS: rans_frame(RESIDUAL_RANS),
    LEVELS_RANS: rans_frame(LEVELS_RANS),
    LATTICE: seal(LATTICE, lattice.encode(*ON_LATTICE, None, DType.BF16, -3, frame_within)),
    LATTICE_DELTA: seal(LATTICE_DELTA, lattice.encode(*ON_LATTICE, WORDS, DType.BF16, -3, frame_within)),
    STEPS_DELTA: seal(
        STEPS_DELTA, steps.encode(*ON_LATTICE, WORDS, DType.BF16, Grid(-3, 3), row=20, start=0, frame=frame_within)
    ),
    PIECES_DELTA: seal(PIECES_DELTA, pieces.of(*ON_LATTICE, WORDS, DType.BF16, plan.records(IN_PIECES), frame_within)),
    STRIDES_DELTA: strides_frame(),
    LOW_RANK: factors_frame(LOW_RANK),
    LOW_RANK_DELTA: factors_frame(LOW_RANK_DELTA),
    PIECES: seal(PIECES, pieces.of(*ON_LATTICE, None, DType.BF16, plan.records(IN_PIECES), frame_within)),
}
EVERY_CODEC = pytest.mark.parametrize("codec", TABLE, ids=lambda codec: codec.name)


def decode(frame: bytes) -> bytes:
    parameters = WIDE if frame[:1] == bytes((STRIDES_DELTA.id,)) else DELTA
    return bytes(decode_chunk(frame, SIZE, parameters, [REFERENCE]))


def zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(data)


def test_codec_errors_are_corruption() -> None:
    assert issubclass(CodecError, CorruptError)


@EVERY_CODEC
def test_the_frames_here_are_what_they_should_be(codec: Codec) -> None:
    assert FRAMES[codec][0] == codec.id
    decode(FRAMES[codec])


@EVERY_CODEC
def test_every_flipped_bit_is_noticed(codec: Codec) -> None:
    for bit in range(8 * len(FRAMES[codec])):
        damaged = bytearray(FRAMES[codec])
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CodecError):
            decode(bytes(damaged))


@EVERY_CODEC
def test_every_truncation_and_addition_is_noticed(codec: Codec) -> None:
    frame = FRAMES[codec]
    for length in range(len(frame)):
        with pytest.raises(CodecError):
            decode(frame[:length])
    for extra in (b"\0", b"\xff", frame):
        with pytest.raises(CodecError):
            decode(frame + extra)


@EVERY_CODEC
def test_a_body_damaged_before_it_was_sealed_is_an_error_or_a_chunk(codec: Codec) -> None:
    """Past the checksum, whose match a hostile writer can arrange, nothing but CodecError may come out."""
    body = FRAMES[codec][5:]
    bodies = [body[:length] for length in range(len(body))]
    for bit in range(8 * len(body)):
        damaged = bytearray(body)
        damaged[bit // 8] ^= 1 << bit % 8
        bodies.append(bytes(damaged))
    for damaged_body in bodies:
        try:
            decoded = decode(seal(codec, damaged_body))
        except CodecError:
            continue
        assert len(decoded) == SIZE


@given(st.binary(max_size=60))
def test_random_bytes_are_no_frame(data: bytes) -> None:
    with pytest.raises(CodecError):
        decode(data)


@given(st.sampled_from(TABLE), st.binary(max_size=60), st.sampled_from(DType), st.integers(0, 200))
def test_random_bodies_are_errors_or_chunks(codec: Codec, body: bytes, dtype: DType, size: int) -> None:
    try:
        decoded = decode_chunk(seal(codec, body), size, Parameters(dtype, (Previous(),)), [bytes(size)])
    except CodecError:
        return
    assert len(decoded) == size


def test_unknown_codecs_are_refused() -> None:
    for codec_id in range(256):
        if codec_id not in BY_ID:
            frame = seal(Codec(codec_id, "from the future", since=99), b"body")
            with pytest.raises(CodecError, match=f"unknown codec {codec_id}"):
                decode(frame)
            with pytest.raises(CodecError, match=f"unknown codec {codec_id}"):
                is_delta(frame)
    with pytest.raises(CodecError, match="empty"):
        is_delta(b"")


def streamed(data: bytes) -> bytes:
    """Return a zstd frame that does not state its size."""
    compressor = zstandard.ZstdCompressor().compressobj()
    return compressor.compress(data) + compressor.flush()


def huge_window(size: int) -> bytes:
    """Return a zstd frame header that states a size and a window of 2**41 bytes less a few, then nothing."""
    return b"\x28\xb5\x2f\xfd" + b"\x80" + b"\xf8" + size.to_bytes(4, "little") + b"\x01\0\0"


def bomb(size: int) -> bytes:
    """Return a frame that states `size` bytes and holds 64 MiB of zeros."""
    frame = bytearray(zstd(bytes(64 << 20)))
    header = zstandard.get_frame_parameters(bytes(frame))
    assert frame[4] >> 6 == 2, "four bytes of content size"
    place = 5 if frame[4] & 0x20 else 6
    assert int.from_bytes(frame[place : place + 4], "little") == header.content_size
    frame[place : place + 4] = size.to_bytes(4, "little")
    return bytes(frame)


HOSTILE_ZSTD: dict[str, Callable[[int], bytes]] = {
    "honest bomb": lambda size: zstd(bytes(64 << 20)),
    "lying bomb": bomb,
    "no size": lambda size: streamed(bytes(size)),
    "streamed bomb": lambda size: streamed(bytes(64 << 20)),
    "size too small": lambda size: zstd(bytes(size - 1)),
    "size too large": lambda size: zstd(bytes(size + 1)),
    "window": huge_window,
    "two frames": lambda size: zstd(bytes(size)) + zstd(b""),
    "trailing byte": lambda size: zstd(bytes(size)) + b"\0",
    "skippable": lambda size: b"\x50\x2a\x4d\x18" + size.to_bytes(4, "little") + bytes(size),
    "skippable without content": lambda size: b"\x50\x2a\x4d\x18" + size.to_bytes(4, "little"),
    "header only": lambda size: zstd(bytes(size))[:6],
    "dictionary id": lambda size: b"\x28\xb5\x2f\xfd\x21\x07" + size.to_bytes(1, "little") + b"\x01\0\0",
    "empty": lambda size: b"",
}


@pytest.mark.parametrize("name", HOSTILE_ZSTD)
def test_hostile_zstd_frames(name: str) -> None:
    plane = HOSTILE_ZSTD[name](200)
    lengths = bytearray()
    length = len(plane)
    while length > 0x7F:
        lengths.append(length & 0x7F | 0x80)
        length >>= 7
    lengths.append(length)
    frames = [seal(codec, b"\x01" + lengths + plane) for codec in (PLANES_ZSTD, PREVIOUS_PLANES_ZSTD)]
    tracemalloc.start()
    try:
        for frame in frames:
            with pytest.raises(CodecError):
                decode_chunk(frame, 200, Parameters(DType.U8, (Previous(),)), [bytes(200)])
        if name not in ("size too small", "empty"):
            with pytest.raises(CodecError):
                unpack(plane, 200)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20


def test_forged_lengths_of_planes() -> None:
    for lengths in (b"", b"\x80", b"\xff" * 9 + b"\x01", b"\xff" * 20, b"\x80\x00", b"\x65", b"\x64" * 3):
        for codec in (PLANES_ZSTD, PREVIOUS_PLANES_ZSTD):
            with pytest.raises(CodecError):
                decode(seal(codec, b"\x03" + lengths))
    for mask in range(4, 256):
        with pytest.raises(CodecError, match="compressed in words of 2"):
            decode(seal(PLANES_ZSTD, bytes((mask,)) + bytes(SIZE)))


def test_same_has_no_body() -> None:
    with pytest.raises(CodecError, match="expected none"):
        decode(seal(SAME, b"\0"))


def test_every_other_dtype_count_and_kind_of_predictor_is_refused() -> None:
    for first in range(256):
        for second in range(256):
            for rest in (b"", b"\0", b"\1", b"\0" * 4):
                data = bytes((first, second)) + rest
                if first in BY_CODE and second <= 4 and rest == bytes(second):
                    assert Parameters.from_bytes(data).to_bytes() == data
                else:
                    with pytest.raises(CodecError):
                        Parameters.from_bytes(data)


def test_damaged_packed_records_are_errors_or_records() -> None:
    record, dictionary = b"skeleton of epoch 7 " * 20, b"skeleton of epoch 6 " * 20
    packed = pack(record, dictionary)
    for length in range(1, len(packed)):
        with pytest.raises(CodecError):
            unpack(packed[:length], len(record), dictionary)
    with pytest.raises(CodecError):
        unpack(packed, len(record) - 1, dictionary)
    with pytest.raises(CodecError):
        unpack(packed + b"\0", len(record), dictionary)
    for bit in range(8 * len(packed)):
        damaged = bytearray(packed)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            found = unpack(bytes(damaged), len(record), dictionary)
        except CodecError:
            continue
        assert len(found) <= len(record)


@given(st.binary(max_size=60), st.integers(0, 1000))
def test_random_bytes_unpack_to_an_error_or_within_the_limit(data: bytes, limit: int) -> None:
    for candidate in (data, zstandard.FRAME_HEADER + data):
        try:
            found = unpack(candidate, limit, b"dictionary")
        except CodecError:
            continue
        assert len(found) <= limit
