"""Chunks to frames and back: tries what the parameters allow, keeps the smallest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from modelvault.codec import order, planes, table
from modelvault.codec.errors import CodecError
from modelvault.codec.frame import seal, unseal
from modelvault.codec.parameters import Parameters

if TYPE_CHECKING:
    from typing_extensions import Buffer


def encode_chunk(raw: Buffer, parameters: Parameters, reference: Buffer | None = None) -> bytes:
    """Return a frame of `raw`.

    It is never longer than `max_frame_bytes`, nor than the frame of the same bytes without a reference.

    Args:
        raw: the chunk's bytes. A length that is no multiple of the element size is taken too.
        parameters: the tensor's.
        reference: the bytes of the reference's chunk, as many as `raw` has; given exactly if the parameters need one.

    Raises:
        ValueError: a reference is missing, not wanted, or of another length.

    >>> from modelvault.codec import Predictor
    >>> from modelvault.tensors import DType
    >>> old, new = (np.linspace(low, 2, 1000, dtype="<f4").tobytes() for low in (1, 1.0001))
    >>> keyframe = encode_chunk(new, Parameters(DType.F32, Predictor.NONE))
    >>> parameters = Parameters(DType.F32, Predictor.PREVIOUS)
    >>> delta = encode_chunk(new, parameters, old)
    >>> len(delta) < len(keyframe) < len(new)
    True
    >>> decode_chunk(delta, 4000, parameters, old) == new
    True
    """
    data = np.frombuffer(memoryview(raw), np.uint8)
    if parameters.needs_reference != (reference is not None):
        raise ValueError(f"reference {'missing' if reference is None else 'given'} with {parameters}")
    if reference is None:
        base = None
    else:
        base = np.frombuffer(memoryview(reference), np.uint8)
        if base.size != data.size:
            raise ValueError(f"reference of {base.size} bytes for a chunk of {data.size}")
        if data.size and np.array_equal(data, base):
            return seal(table.SAME, b"")
    words = order.words(data, parameters.dtype)
    tail = data[words.nbytes :].data
    codec, body = table.RAW, data.data
    candidate = planes.encode(words, tail)
    if len(candidate) < len(body):
        codec, body = table.PLANES_ZSTD, memoryview(candidate)
    if base is not None:
        residuals = order.residual(words, order.words(base, parameters.dtype), parameters.dtype)
        candidate = planes.encode(residuals, tail)
        if len(candidate) < len(body):
            codec, body = table.PREVIOUS_PLANES_ZSTD, memoryview(candidate)
    return seal(codec, body)


def decode_chunk(frame: Buffer, size: int, parameters: Parameters, reference: Buffer | None = None) -> bytearray:
    """Return the bytes that `encode_chunk` was given.

    Args:
        frame: what it returned.
        size: how many bytes they are. The caller vouches for it: so much is allocated.
        parameters: the tensor's.
        reference: the bytes of the reference's chunk; a keyframe does not look at it.

    Raises:
        CodecError: the frame is damaged, is not one of `size` bytes, or is a delta and the reference is missing or of
            another length. A wrong reference of the right length gives wrong bytes: the tensor's id tells.
    """
    codec, body = unseal(frame)
    if codec is table.RAW:
        if len(body) != size:
            raise CodecError(f"raw chunk of {len(body)} bytes, expected {size}")
        return bytearray(body)
    word_bytes = order.word_bytes(parameters.dtype)
    if codec is table.PLANES_ZSTD:
        return planes.decode(body, size, word_bytes)
    if not parameters.needs_reference:
        raise CodecError(f"{codec.name} frame in a tensor whose parameters name no predictor")
    if reference is None:
        raise CodecError(f"{codec.name} frame without its reference")
    base = np.frombuffer(memoryview(reference), np.uint8)
    if base.size != size:
        raise CodecError(f"reference of {base.size} bytes for a chunk of {size}")
    if codec is table.SAME:
        if len(body):
            raise CodecError(f"same frame has a body of {len(body)} bytes, expected none")
        return bytearray(base)
    out = planes.decode(body, size, word_bytes)
    residuals = order.words(np.frombuffer(out, np.uint8), parameters.dtype)  # a view: the sum is made in place
    order.add_reference(residuals, order.words(base, parameters.dtype), parameters.dtype)
    return out
