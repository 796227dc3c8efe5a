"""Packs: frames side by side in values of about a mebibyte. Light: frames are bytes here, nothing is decoded."""

from __future__ import annotations

from collections.abc import Container, Iterable

from modelvault import wire
from modelvault.errors import CorruptError
from modelvault.objects.tensor import Extent, TensorRecord
from modelvault.store.base import ReadTransaction, WriteTransaction

BATCH_BYTES = 64 << 20
"""Encoded bytes a transaction: LMDB holds dirty pages in memory until it commits; throughput is flat from here up."""

PACK_BYTES = 1 << 20
"""A pack is closed when it holds this much: a value of 1 MiB wastes 0.2 % of its pages on average."""

ALONE_BYTES = 256 << 10
"""A frame this long is a pack of its own, so that gc frees it without rewriting others. Page
rounding of the packs of ten ShuffleNet snapshots (3.7 MB, fp32): 0.84 % at 64 KiB, 0.34 % at 256 KiB, 0.25 % at
512 KiB."""


class Packer:
    """Fills packs with frames, in order, and notes where they went."""

    def __init__(self, txn: WriteTransaction) -> None:
        self._txn = txn
        self._number = next_number(txn, "packs")
        self._open: list[bytes] = []
        self._open_bytes = 0

    def add(self, extents: list[Extent], frame: bytes) -> None:
        """Put a tensor's next frame into a pack, and its place at the end of the tensor's extents."""
        if len(frame) >= ALONE_BYTES:
            self.close()
        if extents and extents[-1].pack == self._number and self._open:
            last = extents[-1]
            extents[-1] = Extent(last.pack, last.offset, (*last.lengths, len(frame)))
        else:
            extents.append(Extent(self._number, self._open_bytes, (len(frame),)))
        self._open.append(frame)
        self._open_bytes += len(frame)
        if len(frame) >= ALONE_BYTES or self._open_bytes >= PACK_BYTES:
            self.close()

    def close(self) -> None:
        """Write the pack that is open."""
        if self._open:
            self._txn.put("packs", wire.sortable(self._number), b"".join(self._open))
            self._number += 1
            self._txn.put("meta", b"next packs", wire.sortable(self._number))
            self._open, self._open_bytes = [], 0


def next_number(txn: ReadTransaction, table: str) -> int:
    """Return the number that the next entry of a numbered table gets. Numbers begin at 1 and are never reused."""
    data = txn.get("meta", f"next {table}".encode())
    return wire.read_sortable(data) if data is not None else 1


def move_frames(txn: WriteTransaction, owners: Iterable[int], moving: Container[int]) -> int:
    """Copy the frames that these tensors have in packs to be given up; return how many of them were dealt with."""
    packer = Packer(txn)
    changed: list[tuple[int, TensorRecord, list[Extent]]] = []
    moved = seen = 0
    for number in owners:
        if moved >= BATCH_BYTES:
            break
        seen += 1
        data = txn.get("tensors", wire.sortable(number))
        if data is None:
            continue  # gone meanwhile
        record, extents = TensorRecord.from_bytes(data), list[Extent]()
        for extent in record.extents:
            if extent.pack not in moving:
                extents.append(extent)
                continue
            pack, offset = _pack(txn, extent), extent.offset
            for length in extent.lengths:
                packer.add(extents, pack[offset : offset + length])
                offset += length
                moved += length
        changed.append((number, record, extents))
    packer.close()
    for number, record, extents in changed:
        txn.put("tensors", wire.sortable(number), record._replace(extents=tuple(extents)).to_bytes())
    return seen


def _pack(txn: ReadTransaction, extent: Extent) -> bytes:
    value = txn.get("packs", wire.sortable(extent.pack))
    if value is None or len(value) < extent.offset + sum(extent.lengths):
        raise CorruptError(f"pack {extent.pack} is missing or short", hint="run modelvault fsck")
    return value
