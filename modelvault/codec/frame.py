"""A frame: one encoded chunk, sealed with a checksum, that says which codec made it.

    codec id      1 byte
    CRC-32        4 bytes, little-endian, of the codec id byte and the body
    body          what is left

The checksum is what makes a flipped bit an error rather than a wrong weight; nothing here knows what a body means.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from modelvault import wire
from modelvault.codec.errors import CodecError
from modelvault.codec.table import BY_ID, LEVELS_RANS, LOW_RANK, LOW_RANK_DELTA, RESIDUAL_RANS, STRIDES_DELTA, Codec
from modelvault.crc import crc32

if TYPE_CHECKING:
    from typing_extensions import Buffer

_HEAD = struct.Struct("<BI")

_SUMS = [crc32(bytes((codec_id,))) for codec_id in range(256)]
"""Checksums of the first bytes alone."""

_STRIDES_BYTES = 17
"""What a body of strides has before its numbers and the body of residuals."""

_FACTORS_BYTES = {LOW_RANK: 4, LOW_RANK_DELTA: 5}
"""What a body with factors has before the words of a row."""

FRAME_BYTES = _HEAD.size
"""What a frame adds to its body."""


def seal(codec: Codec, body: Buffer) -> bytes:
    """Return the frame of a body.

    >>> from modelvault.codec.table import RAW
    >>> seal(RAW, b"abc").hex()
    '00cc4721eb616263'
    """
    return b"".join((_HEAD.pack(codec.id, _checksum(codec.id, body)), body))


def unseal(frame: Buffer) -> tuple[Codec, memoryview]:
    """Return a frame's codec and a view of its body.

    Raises:
        CodecError: too short, the checksum does not match, or the codec is in no table.
    """
    view = memoryview(frame).cast("B")
    if len(view) < FRAME_BYTES:
        raise CodecError(f"frame of {len(view)} bytes, expected at least {FRAME_BYTES}")
    codec_id, expected = _HEAD.unpack_from(view)
    body = view[FRAME_BYTES:]
    found = _checksum(codec_id, body)
    if found != expected:
        raise CodecError(f"frame checksum is {found:08x}, expected {expected:08x}")
    return _by_id(codec_id), body


def codec_name(frame: Buffer) -> str:
    """Return the name of the codec that a frame begins with.

    Raises:
        CodecError: there is no such codec.
    """
    first = bytes(memoryview(frame)[:1])
    codec = BY_ID.get(first[0]) if first else None
    if codec is None:
        raise CodecError(f"frame begins with {first.hex() or 'nothing'}, which is no codec")
    return codec.name


def is_delta(frame: Buffer) -> bool:
    """Return whether decoding this frame needs the reference. Looks at the codec id only, not at the checksum.

    Raises:
        CodecError: an empty frame, or the codec is in no table.
    """
    view = memoryview(frame).cast("B")
    if not len(view):
        raise CodecError("empty frame")
    return _by_id(view[0]).needs_reference


def references_of(frame: Buffer, references: int) -> int:
    """Return how many of its tensor's references decoding this frame takes, from the first on: all, one or none.

    Raises:
        CodecError: an empty frame, or the codec is in no table.
    """
    if not is_delta(frame):
        return 0
    view = memoryview(frame).cast("B")
    takes_all = view[0] == RESIDUAL_RANS.id or (view[0] == LOW_RANK_DELTA.id and bytes(view[5:6]) != b"\0")
    return references if takes_all else min(1, references)


def row_of(frame: Buffer) -> int:
    """Return the words of a row that the encoder of a frame went by, 0 if the frame does not tell.

    They are a hint: coding its tensor anew, in another way, goes best by the same rows.
    """
    view = memoryview(frame).cast("B")
    codec = _by_id(view[0]) if len(view) else None
    if codec not in (RESIDUAL_RANS, LEVELS_RANS, STRIDES_DELTA, LOW_RANK, LOW_RANK_DELTA):
        return 0
    try:
        reader = wire.Reader(view[FRAME_BYTES:])
        if codec is STRIDES_DELTA:
            reader.fixed(_STRIDES_BYTES)
            reader.blob()
        reader.fixed(_FACTORS_BYTES.get(codec, 2))
        return reader.uint()
    except wire.WireError:
        return 0


def max_frame_bytes(size: int) -> int:
    """Return the length of the longest frame of a chunk of `size` bytes: what the codec `raw` takes.

    >>> max_frame_bytes(1 << 20) - (1 << 20)
    5
    """
    return FRAME_BYTES + size


def _by_id(codec_id: int) -> Codec:
    codec = BY_ID.get(codec_id)
    if codec is None:
        raise CodecError(
            f"frame of unknown codec {codec_id}", hint="a later version of modelvault may know it; otherwise run fsck"
        )
    return codec


def _checksum(codec_id: int, body: Buffer) -> int:
    return crc32(body, _SUMS[codec_id])
