"""A stored tensor coded anew against another reference, chunk by chunk, verified as a commit verifies."""

from __future__ import annotations

from collections.abc import Iterator

from modelvault import codec
from modelvault.errors import CorruptError
from modelvault.objects.tensor import TensorRecord
from modelvault.repository.chunks import ChunkReader
from modelvault.repository.samples import pieces
from modelvault.repository.threads import in_order
from modelvault.store.base import Store
from modelvault.tensors import CHUNK_BYTES, DType


def parameters_against(reader: ChunkReader, number: int, base: int) -> codec.Parameters:
    """Return the codec's parameters for a tensor against another reference (0: none), fitted on a sample of both.

    Raises:
        CorruptError: the tensor or the reference cannot be read.
    """
    record = reader.record(number)
    dtype = dtype_of(record)
    if not base:
        return codec.Parameters(dtype)
    row = codec.row_of(reader.frame(number, 0)) if record.nbytes else 0
    sample = list(pieces(record.nbytes, dtype, row))
    pairs = [
        (
            reader.chunk(number, place)[start : start + size],
            reader.chunk(base, place)[start : start + size],
        )
        for place, start, size in sample
    ]
    return codec.fit(dtype, pairs, row=row, share=sum(piece.size for piece in sample) / max(1, record.nbytes))


def encoded(store: Store, number: int, base: int, parameters: codec.Parameters | None = None) -> Iterator[bytes]:
    """Yield the frames of a tensor, coded against `base` (0: alone), each decoded and compared before it is yielded.

    Args:
        parameters: what `parameters_against` returned, if it was asked.

    Raises:
        CorruptError: the tensor or the reference cannot be read, or a frame did not survive.
    """
    reader = ChunkReader(store)
    record = reader.record(number)
    parameters = parameters or parameters_against(reader, number, base)
    row = codec.row_of(reader.frame(number, 0)) if record.chunks else 0
    first = codec.word_bytes(parameters.dtype)

    def encode(place: int) -> bytes:
        raw = reader.chunk(number, place)
        references = [reader.chunk(base, place)] if base else []
        frame = codec.encode_chunk(raw, parameters, references, row=row, start=place * CHUNK_BYTES // first)
        if codec.decode_chunk(frame, len(raw), parameters, references) != raw:
            raise CorruptError(f"chunk {place} of tensor {number} did not survive coding anew; nothing was changed")
        return frame

    return in_order(encode, range(record.chunks))


def encoded_bytes(store: Store, number: int, base: int) -> int:
    """Return how many bytes `encoded` would yield in all."""
    return sum(map(len, encoded(store, number, base)))


def dtype_of(record: TensorRecord) -> DType:
    """Return what the elements of a tensor are."""
    return codec.Parameters.from_bytes(record.parameters).dtype


def alone(parameters: codec.Parameters) -> codec.Parameters:
    """Return the parameters of the same tensor without a reference."""
    return codec.Parameters(parameters.dtype)


def is_delta(frame: bytes) -> bool:
    """Return whether a frame needs its reference."""
    return codec.is_delta(frame)
