"""A second decoder, written from docs/format/codecs.md alone: plain Python and zstd, slow, nothing of modelvault."""

from __future__ import annotations

import math
import struct
import zlib

import zstandard

WORD_BYTES = [1, 1, 1, 1, 2, 2, 4, 4, 8, 8, 2, 2, 4, 8, 1, 1, 1, 1, 1, 1, 2, 4, 8]
FLOAT_ORDER = {10, 11, 12, 13, 14, 15, 16, 17, 20, 21, 22}


def decode(frame: bytes, size: int, parameters: bytes, reference: bytes | None) -> bytes:
    codec, checksum, body = frame[0], int.from_bytes(frame[1:5], "little"), frame[5:]
    assert zlib.crc32(frame[:1] + body) == checksum
    dtype, predictor = parameters
    width = WORD_BYTES[dtype]
    if codec == 0:
        raw = body
    elif codec == 1:
        words, tail = from_planes(body, size, width)
        raw = joined(words, width) + tail
    elif codec == 16:
        raw = from_lattice(body, size, dtype, None)
    elif codec == 17:
        assert predictor == 1
        assert reference is not None
        assert len(reference) == size
        raw = from_lattice(body, size, dtype, reference)
    else:
        assert predictor == 1
        assert reference is not None
        assert len(reference) == size
        if codec == 3:
            assert body == b""
            raw = reference
        else:
            assert codec == 2
            residuals, tail = from_planes(body, size, width)
            words = [
                following(reference[i * width : (i + 1) * width], z, dtype in FLOAT_ORDER)
                for i, z in enumerate(residuals)
            ]
            raw = joined(words, width) + tail
    assert len(raw) == size
    return raw


def from_planes(body: bytes, size: int, width: int) -> tuple[list[int], bytes]:
    count = size // width
    compressed, at = body[0], 1
    assert compressed >> width == 0
    lengths = []
    for plane in range(width):
        length = count
        if compressed >> plane & 1:
            length = shift = 0
            while True:
                length |= (body[at] & 0x7F) << shift
                shift, at = shift + 7, at + 1
                if body[at - 1] < 0x80:
                    break
        lengths.append(length)
    words = [0] * count
    for plane, length in enumerate(lengths):
        data, at = body[at : at + length], at + length
        if compressed >> plane & 1:
            data = zstandard.ZstdDecompressor().decompress(data)
        assert len(data) == count
        words = [word | byte << (8 * plane) for word, byte in zip(words, data, strict=True)]
    return words, body[at:]


def joined(words: list[int], width: int) -> bytes:
    return b"".join(word.to_bytes(width, "little") for word in words)


def following(reference: bytes, residual: int, float_order: bool) -> int:
    bits, r = 8 * len(reference), int.from_bytes(reference, "little")
    top, ones = 1 << (bits - 1), (1 << bits) - 1
    difference = residual >> 1 if residual % 2 == 0 else -((residual + 1) >> 1)
    if not float_order:
        return (r + difference) & ones
    place = r ^ ones if r & top else r ^ top
    place = (place + difference) & ones
    return place ^ top if place & top else place ^ ones


def from_lattice(body: bytes, size: int, dtype: int, reference: bytes | None) -> bytes:
    width = WORD_BYTES[dtype]
    count, at = size // width, 0

    def uint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            value |= (body[at] & 0x7F) << shift
            shift, at = shift + 7, at + 1
            if body[at - 1] < 0x80:
                return value

    zigzag = uint()
    step = zigzag >> 1 if zigzag % 2 == 0 else -((zigzag + 1) >> 1)
    scale = 1.0
    if reference is not None:
        (scale,) = struct.unpack("<d", body[at : at + 8])
        at += 8
    on: list[bool] = []
    for place in range(uint()):
        on += [place % 2 == 0] * uint()
    assert len(on) == count
    length = uint()
    inside, rest = body[at : at + length], body[at + length :]

    predictions, points, sides = [], [], []
    for i in range(count):
        if not on[i]:
            continue
        p = 0.0
        if reference is not None:
            value = number(reference[i * width : (i + 1) * width], dtype)
            p = scaled(value * scale, -step)
            if not abs(p) < 1 << 22:
                p = 0.0
        q = round(p)  # ties to even
        distance = p - q
        predictions.append((8 - min(7, int(abs(distance) * 16)) << 23) + (1 << 22))
        points.append(q)
        sides.append(-1 if distance < 0 else 1)
    beside = joined(predictions, 4)
    found = decode(inside, len(beside), bytes((12, 1)), beside)
    numbers = iter(
        q + (int.from_bytes(found[4 * i : 4 * i + 4], "little") - p) * side
        for i, (p, q, side) in enumerate(zip(predictions, points, sides, strict=True))
    )
    tail = size - count * width
    off = b""
    if not all(on) or tail:
        others = None
        if reference is not None:
            clear, rest = rest[0], rest[1:]
            beside_words = [reference[i * width : (i + 1) * width] for i in range(count) if not on[i]]
            others = b"".join(
                (int.from_bytes(word, "little") >> clear << clear).to_bytes(width, "little") for word in beside_words
            ) + bytes(tail)
        off = decode(rest, on.count(False) * width + tail, bytes((dtype, reference is not None)), others)
    else:
        assert rest == b""
    raw, position = b"", 0
    for i in range(count):
        if on[i]:
            raw += bits_of(scaled(float(next(numbers)), step), dtype)
        else:
            raw += off[position : position + width]
            position += width
    return raw + off[position:]


def scaled(value: float, exponent: int) -> float:
    if math.isinf(value) or math.isnan(value):
        return value
    try:
        return math.ldexp(value, exponent)
    except OverflowError:
        return math.copysign(math.inf, value)


def number(word: bytes, dtype: int) -> float:
    value: float
    if dtype == 11:
        (value,) = struct.unpack("<f", b"\0\0" + word)
    else:
        (value,) = struct.unpack({2: "<e", 4: "<f", 8: "<d"}[len(word)], word)
    return value


def bits_of(value: float, dtype: int) -> bytes:
    if dtype == 11:
        return struct.pack("<f", value)[2:]
    return struct.pack({2: "<e", 4: "<f", 8: "<d"}[WORD_BYTES[dtype]], value)
