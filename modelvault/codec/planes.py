"""Words as byte planes: all lowest bytes, then all next ones, up to the highest, each compressed alone.

In floating-point weights and in their residuals the high bytes carry nearly all the redundancy and the low ones are
noise. Kept apart, the noise is stored as it is at the speed of a copy, and zstd sees like beside like.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from modelvault import wire
from modelvault.codec import entropy
from modelvault.codec.errors import CodecError
from modelvault.codec.order import Words

if TYPE_CHECKING:
    from typing_extensions import Buffer


def split(words: Words) -> list[npt.NDArray[np.uint8]]:
    """Return a plane for each byte of a word, the least significant first.

    >>> [plane.tobytes().hex() for plane in split(np.array([0x0201, 0x0403], "<u2"))]
    ['0103', '0204']
    """
    little = words.astype(words.dtype.newbyteorder("<"), copy=False)
    table = little.view(np.uint8).reshape(-1, words.itemsize)  # (words, bytes of a word)
    return [table[:, place].copy() for place in range(words.itemsize)]


def encode(words: Words, tail: Buffer) -> bytes:
    """Return a body: which planes are compressed, their lengths, the planes, then the tail as it is.

    Args:
        words: up to 8 bytes each.
        tail: bytes after the last whole word, fewer than a word has.
    """
    compressed, lengths, planes = 0, wire.Writer(), list[bytes | memoryview]()
    for place, plane in enumerate(split(words)):
        packed = entropy.compress(plane.data)
        if len(packed) < plane.size:
            compressed |= 1 << place
            lengths.uint(len(packed))
            planes.append(packed)
        else:
            planes.append(plane.data)
    return b"".join((bytes((compressed,)), lengths.getvalue(), *planes, tail))


def decode(body: Buffer, size: int, word_bytes: int) -> bytearray:
    """Return the bytes of the words, little-endian, and of the tail.

    Args:
        body: what `encode` returned.
        size: bytes expected.
        word_bytes: bytes of a word, 1 to 8.

    Raises:
        CodecError: not such a body, or not one of `size` bytes.
    """
    count, tail_bytes = divmod(size, word_bytes)
    reader = wire.Reader(body)
    try:
        (compressed,) = reader.fixed(1)
        if compressed >> word_bytes:
            raise CodecError(f"planes {compressed:#04x} are compressed in words of {word_bytes} bytes")
        lengths = [reader.uint(count) if compressed >> place & 1 else count for place in range(word_bytes)]
        if sum(lengths) + tail_bytes != reader.remaining:
            raise CodecError(f"planes and tail take {sum(lengths) + tail_bytes} bytes, found {reader.remaining}")
        stored = [reader.fixed(length) for length in lengths]
        tail = reader.rest()
    except wire.WireError as error:
        raise CodecError(f"byte planes: {error.message}") from None
    out = bytearray(size)
    table = np.frombuffer(out, np.uint8, count=size - tail_bytes).reshape(count, word_bytes)
    for place, plane in enumerate(stored):
        if compressed >> place & 1:
            plane = entropy.decompress(plane, count)
        table[:, place] = np.frombuffer(plane, np.uint8)
    out[size - tail_bytes :] = tail
    return out
