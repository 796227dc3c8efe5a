"""A second decoder, written from docs/format/codecs.md alone: plain Python and zstd, slow, nothing of modelvault."""

from __future__ import annotations

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
