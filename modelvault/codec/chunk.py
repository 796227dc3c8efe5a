"""Chunks to frames and back: tries what the parameters allow, keeps the smallest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from modelvault.codec import lattice, order, planes, table
from modelvault.codec.errors import CodecError
from modelvault.codec.frame import seal, unseal
from modelvault.codec.parameters import Parameters
from modelvault.tensors import DType

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
    tail = data[words.nbytes :]
    codec, body = _plain(data, words, tail, parameters.dtype, base)
    step = lattice.step_of(words, parameters.dtype)
    if step is not None:
        for beside in [None] if base is None else [None, order.words(base, parameters.dtype)]:
            on_lattice = lattice.encode(words, tail.tobytes(), beside, parameters.dtype, step, frame_within)
            if len(on_lattice) < len(body):
                codec = table.LATTICE if beside is None else table.LATTICE_DELTA
                body = memoryview(on_lattice)
    return seal(codec, body)


def _plain(
    data: npt.NDArray[np.uint8],
    words: order.Words,
    tail: npt.NDArray[np.uint8],
    dtype: DType,
    base: npt.NDArray[np.uint8] | None,
) -> tuple[table.Codec, memoryview]:
    """Return the codec and body that are best where no lattice is looked for."""
    codec, body = table.RAW, data.data
    candidate = planes.encode(words, tail.data)
    if len(candidate) < len(body):
        codec, body = table.PLANES_ZSTD, memoryview(candidate)
    if base is not None:
        residuals = order.residual(words, order.words(base, dtype), dtype)
        candidate = planes.encode(residuals, tail.data)
        if len(candidate) < len(body):
            codec, body = table.PREVIOUS_PLANES_ZSTD, memoryview(candidate)
    return codec, body


def frame_within(raw: bytes, dtype: DType, reference: bytes | None) -> bytes:
    """Return a frame that stands in another frame."""
    data = np.frombuffer(raw, np.uint8)
    base = None if reference is None else np.frombuffer(reference, np.uint8)
    if base is not None and raw == reference:
        return seal(table.SAME, b"")
    words = order.words(data, dtype)
    return seal(*_plain(data, words, data[words.nbytes :], dtype, base))


def _unframe(frame: Buffer, size: int, dtype: DType, reference: bytes | None) -> bytearray:
    """Return what is in a frame that stands in another frame.

    Raises:
        CodecError: it is damaged, or a lattice within a lattice.
    """
    codec, _ = unseal(frame)
    if codec in (table.LATTICE, table.LATTICE_DELTA):
        raise CodecError("a lattice within a lattice")
    return decode_chunk(frame, size, Parameters.for_reference(dtype, reference is not None), reference)


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
    if codec is table.LATTICE:
        return lattice.decode(body, size, None, parameters.dtype, _unframe)
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
    if codec is table.LATTICE_DELTA:
        return lattice.decode(body, size, base, parameters.dtype, _unframe)
    out = planes.decode(body, size, word_bytes)
    residuals = order.words(np.frombuffer(out, np.uint8), parameters.dtype)  # a view: the sum is made in place
    order.add_reference(residuals, order.words(base, parameters.dtype), parameters.dtype)
    return out
