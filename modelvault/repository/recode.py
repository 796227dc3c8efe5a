"""A stored tensor coded anew against another reference, chunk by chunk, verified as a commit verifies."""

from __future__ import annotations

from collections.abc import Iterator

from modelvault import codec
from modelvault.errors import CorruptError
from modelvault.objects.tensor import TensorRecord
from modelvault.repository.chunks import ChunkReader
from modelvault.repository.threads import in_order
from modelvault.store.base import Store


def encoded(store: Store, number: int, base: int) -> Iterator[bytes]:
    """Yield the frames of a tensor, coded against `base` (0: alone), each decoded and compared before it is yielded.

    Raises:
        CorruptError: the tensor or the reference cannot be read, or a frame did not survive.
    """
    reader = ChunkReader(store)
    record = reader.record(number)
    dtype = codec.Parameters.from_bytes(record.parameters).dtype
    parameters = codec.Parameters.for_reference(dtype, bool(base))

    def encode(place: int) -> bytes:
        raw = reader.chunk(number, place)
        references = [reader.chunk(base, place)] if base else []
        frame = codec.encode_chunk(raw, parameters, references)
        if codec.decode_chunk(frame, len(raw), parameters, references) != raw:
            raise CorruptError(f"chunk {place} of tensor {number} did not survive coding anew; nothing was changed")
        return frame

    return in_order(encode, range(record.chunks))


def encoded_bytes(store: Store, number: int, base: int) -> int:
    """Return how many bytes `encoded` would yield in all."""
    return sum(map(len, encoded(store, number, base)))


def is_delta(frame: bytes) -> bool:
    """Return whether a frame needs its reference."""
    return codec.is_delta(frame)


def parameters_for(record: TensorRecord, has_reference: bool) -> bytes:
    """Return the codec parameters of a tensor that got, or lost, its reference."""
    dtype = codec.Parameters.from_bytes(record.parameters).dtype
    return codec.Parameters.for_reference(dtype, has_reference).to_bytes()
