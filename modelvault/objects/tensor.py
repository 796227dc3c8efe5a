"""Where a tensor's encoded chunks are, and what is needed to decode them.

Tensors have a number in their vault, which is how other records refer to them in two or three bytes; the id stands
once, here. Numbers are never reused and mean nothing outside the vault.
"""

from __future__ import annotations

from typing import NamedTuple

from modelvault import ids, wire
from modelvault.ids import TensorId

KIND = 2
VERSION = 2
"""Of records that name more than one reference; all others are of version 1, as they ever were."""

MAX_REFERENCES = 8

INDEX_PREFIX_BYTES = 6
"""Bytes of the id in an index key; the record's full id decides between tensors that share them. Six keep a look-up to
one candidate up to millions of tensors, and every byte here is paid once a tensor."""


class Extent(NamedTuple):
    """Frames that stand one after the other in one pack: the pack's number, where the first begins, their lengths."""

    pack: int
    offset: int
    lengths: tuple[int, ...]


class TensorRecord(NamedTuple):
    """How one tensor is kept.

    Attributes:
        tensor_id: digest of its raw bytes.
        nbytes: length of its raw bytes.
        parameters: what the codec needs for every chunk of it; opaque here.
        base: number of the reference tensor, or 0. It has the same length, so that chunks correspond.
        depth: length of the chain below it: 0 if no chunk is a delta, else one more than that of its deepest reference.
        deltas: how many of its chunks are deltas.
        extents: its frames in chunk order.
        others: numbers of the references behind the first, as long as it is; none if there is no base.
    """

    tensor_id: TensorId
    nbytes: int
    parameters: bytes
    base: int
    depth: int
    deltas: int
    extents: tuple[Extent, ...]
    others: tuple[int, ...] = ()

    @property
    def references(self) -> tuple[int, ...]:
        """Numbers of all tensors that it takes to decode a delta of this one, the base first."""
        return (self.base, *self.others) if self.base else ()

    @property
    def stored_bytes(self) -> int:
        """Bytes of all its frames."""
        return sum(sum(extent.lengths) for extent in self.extents)

    @property
    def chunks(self) -> int:
        """How many chunks it has."""
        return sum(len(extent.lengths) for extent in self.extents)

    def frames(self) -> list[tuple[int, int, int]]:
        """Return (pack, offset, length) of each chunk's frame, in chunk order."""
        places = []
        for pack, offset, lengths in self.extents:
            for length in lengths:
                places.append((pack, offset, length))
                offset += length
        return places

    def to_bytes(self) -> bytes:
        """Return the sealed record."""
        out = wire.Writer()
        out.fixed(self.tensor_id)
        out.uint(self.nbytes)
        out.blob(self.parameters)
        out.uint(self.base)
        if self.base:
            out.uint(self.depth)
            out.uint(self.deltas)
        if self.others:
            out.uint(len(self.others))
            for number in self.others:
                out.uint(number)
        out.uint(len(self.extents))
        for extent in self.extents:
            out.uint(extent.pack)
            out.uint(extent.offset)
            out.uint(len(extent.lengths))
            for length in extent.lengths:
                out.uint(length)
        return wire.seal(KIND, VERSION if self.others else 1, out.getvalue())

    @classmethod
    def from_bytes(cls, data: bytes) -> TensorRecord:
        """Read a sealed record."""
        record = wire.Reader(wire.unseal(data, KIND, VERSION))
        version = data[1]
        tensor_id = TensorId(record.fixed(ids.ID_BYTES))
        nbytes, parameters, base = record.uint(), record.blob(), record.uint()
        depth, deltas = (record.uint(), record.uint()) if base else (0, 0)
        others: tuple[int, ...] = ()
        if version == VERSION:
            others = tuple(record.uint() for _ in range(record.uint(MAX_REFERENCES - 1)))
            if not base or not others or 0 in others:
                raise wire.WireError("record of several references names fewer than two")
        extents = []
        for _ in range(record.count(3)):
            pack, offset = record.uint(), record.uint()
            extents.append(Extent(pack, offset, tuple(record.uint() for _ in range(record.count()))))
        record.end()
        return cls(tensor_id, nbytes, parameters, base, depth, deltas, tuple(extents), others)


def index_key(tensor_id: TensorId, number: int) -> bytes:
    """Return the index entry that finds a tensor's number by its id."""
    return tensor_id[:INDEX_PREFIX_BYTES] + wire.sortable(number)


def index_number(key: bytes) -> int:
    """Return the tensor number of an index entry."""
    return wire.read_sortable(key[INDEX_PREFIX_BYTES:])
