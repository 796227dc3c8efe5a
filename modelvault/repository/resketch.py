"""Tensors that nothing leads to by content, entered into table `sketches` late: a repack does it.

A vault that was written before there were sketches, or whose table somebody threw away, would never find its old
tensors as bases. In a vault that always had the table its first tensor is in it, so whatever is older than all that the
table leads to was never entered. Of these the keyframes are: the others lean on one, and are found through it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from modelvault.objects.tensor import TensorRecord
from modelvault.repository import sketches
from modelvault.repository.chunks import ChunkReader, TensorDamagedError
from modelvault.repository.recode import dtype_of
from modelvault.repository.repository import Repository
from modelvault.tensors import CHUNK_BYTES


def enter_forgotten(repository: Repository, records: Mapping[int, TensorRecord]) -> int:
    """Enter every keyframe that is older than what the table leads to; return how many had a sketch.

    Args:
        repository: the vault.
        records: its live tensors.
    """
    with repository.store.read() as txn:
        oldest = sketches.oldest(txn)
    todo = [number for number in records if not records[number].base and (oldest is None or number < oldest)]
    reader = ChunkReader(repository.store)
    found: dict[int, tuple[bytes, ...]] = {}
    for number in sorted(todo):
        record = records[number]
        try:
            sketch = sketches.sketch_of(dtype_of(record), record.nbytes, partial(_read, reader, number))
        except TensorDamagedError:
            continue  # fsck's to report
        if sketch:
            found[number] = sketch
    if found:
        with repository.store.write(timeout=repository.lock_timeout, waiting=repository.waiting) as txn:
            for number, sketch in found.items():
                sketches.enter_late(txn, sketch, number)
    return len(found)


def _read(reader: ChunkReader, number: int, start: int, size: int) -> bytes:
    first, last = start // CHUNK_BYTES, (start + size - 1) // CHUNK_BYTES
    raw = b"".join(reader.chunk(number, place) for place in range(first, last + 1))
    return raw[start - first * CHUNK_BYTES :][:size]
