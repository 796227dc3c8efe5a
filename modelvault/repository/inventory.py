"""The tensors of a committed file by name, and their raw bytes.

A template says where segments stand and what they are called; small ones share a stored tensor, so a name leads to a
tensor's number and an offset in it. Bytes are read chunk by chunk, and no byte counts before the stored tensor that it
comes from was checked against its id.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from modelvault import ids
from modelvault.checkpoint import Part, part_of
from modelvault.errors import InputError
from modelvault.objects.commit import FileEntry
from modelvault.repository.checkout import read_recipe
from modelvault.repository.chunks import CACHE_BYTES, ChunkReader, TensorDamagedError
from modelvault.repository.shapes import load_template
from modelvault.repository.threads import in_order
from modelvault.store.base import ReadTransaction, Store
from modelvault.tensors import CHUNK_BYTES, DType


class FileTensor(NamedTuple):
    """One segment of a file.

    Attributes:
        name: what the file calls it, made unique in the file: a second `bias` is `bias#2`. Byte runs of a file that
            nobody understood are `@0`, `@1`, ...
        dtype: what its elements are, as far as known.
        shape: its dimensions.
        nbytes: its length.
        part: weights, optimizer or other.
        number: the stored tensor that holds its bytes, 0 if they were given up with their part.
        offset: where in there they begin.
        alone: whether the stored tensor holds nothing else.
    """

    name: str
    dtype: DType
    shape: tuple[int, ...]
    nbytes: int
    part: Part
    number: int
    offset: int
    alone: bool

    @property
    def elements(self) -> int:
        """How many elements it has."""
        return self.nbytes // self.dtype.size

    @property
    def is_forgotten(self) -> bool:
        """Whether its bytes were given up."""
        return not self.number

    @property
    def is_understood(self) -> bool:
        """Whether it is a tensor that some format declares, not a run of opaque bytes."""
        return not (self.dtype is DType.BYTES and self.name.startswith("@"))


class Inventory(NamedTuple):
    """One file of a snapshot: its entry, what understood it, its tensors in file order, and its bytes outside them."""

    entry: FileEntry
    format: str
    tensors: tuple[FileTensor, ...]
    skeleton: bytes


def read_inventory(txn: ReadTransaction, entry: FileEntry) -> Inventory:
    """Return the tensors of a file.

    Raises:
        CorruptError: a record it needs is missing or damaged.
    """
    recipe = read_recipe(txn, entry.file_id)
    template = load_template(txn, recipe)
    ends = [0] * template.slots
    members = [0] * template.slots
    for segment in template.segments:
        members[segment.slot] += 1
    seen: dict[str, int] = {}
    tensors = []
    for segment in template.segments:
        name = segment.name or "(unnamed)"
        seen[name] = seen.get(name, 0) + 1
        tensors.append(
            FileTensor(
                name if seen[name] == 1 else f"{name}#{seen[name]}",
                segment.dtype,
                segment.shape,
                segment.length,
                part_of(segment.name),
                recipe.tensors[segment.slot],
                ends[segment.slot],
                members[segment.slot] == 1,
            )
        )
        ends[segment.slot] += segment.length
    return Inventory(entry, template.format, tuple(tensors), template.skeleton)


class TensorReader:
    """Reads the raw bytes of named tensors; shared by the threads of one operation.

    Args:
        store: where they are.
        cache_bytes: how much of what was decoded is kept.
    """

    def __init__(self, store: Store, *, cache_bytes: int = CACHE_BYTES) -> None:
        self._reader = ChunkReader(store, cache_bytes=cache_bytes)
        self._checked: set[int] = set()
        self._lock = threading.Lock()

    def tensor_id(self, tensor: FileTensor) -> ids.TensorId:
        """Return the id of the stored tensor that holds its bytes."""
        return self._reader.record(tensor.number).tensor_id

    def pieces(self, tensor: FileTensor) -> Iterator[bytes]:
        """Yield a tensor's bytes in order; raises after the last ones if they are not what was stored.

        Raises:
            CorruptError: they cannot be read or do not match their id.
        """
        if not tensor.alone:
            yield self.read(tensor, 0, tensor.nbytes)
            return
        check = IdCheck(self, tensor)
        jobs = range(-(-tensor.nbytes // CHUNK_BYTES))
        for raw in in_order(lambda place: self._reader.chunk(tensor.number, place), jobs):
            check.update(raw)
            yield raw
        check.finish()

    def read(self, tensor: FileTensor, offset: int, length: int) -> bytes:
        """Return some of a tensor's bytes.

        Those of a tensor that shares its storage are checked; who reads one that stands alone uses `IdCheck`.

        Raises:
            CorruptError: they cannot be read, or (shared) do not match their id.
        """
        if not tensor.alone:
            self._check_group(tensor.number)
        start = tensor.offset + offset
        first, last = start // CHUNK_BYTES, (start + length - 1) // CHUNK_BYTES
        if length == 0:
            return b""
        if first == last:
            inside = start % CHUNK_BYTES
            found = self._reader.chunk(tensor.number, first)[inside : inside + length]
        else:
            raw = b"".join(self._reader.chunk(tensor.number, place) for place in range(first, last + 1))
            found = raw[start - first * CHUNK_BYTES :][:length]
        if len(found) != length:
            raise TensorDamagedError(tensor.number, f"bytes {start} to {start + length} are wanted, it is shorter")
        return found

    def _check_group(self, number: int) -> None:
        with self._lock:  # small, and checked once
            if number in self._checked:
                return
            record = self._reader.record(number)
            hasher = ids.tensor_hasher()
            for place in range(-(-record.nbytes // CHUNK_BYTES)):
                hasher.update(self._reader.chunk(number, place))
            if hasher.digest() != record.tensor_id:
                raise TensorDamagedError(number, "its bytes do not match its id")
            self._checked.add(number)


class IdCheck:
    """Sees the bytes of a tensor that stands alone go by, in order, and holds them against its id."""

    def __init__(self, reader: TensorReader, tensor: FileTensor) -> None:
        self._expected, self._number = reader.tensor_id(tensor), tensor.number
        self._hasher = ids.tensor_hasher()

    def update(self, raw: bytes) -> None:
        """Take the next bytes."""
        self._hasher.update(raw)

    def finish(self) -> None:
        """Judge.

        Raises:
            CorruptError: the bytes do not match the id.
        """
        if self._hasher.digest() != self._expected:
            raise TensorDamagedError(self._number, "its bytes do not match its id")


def find(inventories: Sequence[Inventory], wanted: str) -> tuple[Inventory, FileTensor]:
    """Return the tensor that `TENSOR`, or `FILE:TENSOR` where several files have one of that name, means.

    Raises:
        InputError: none or several do; the hint names what there is.
    """
    found = [
        (inventory, tensor)
        for inventory in inventories
        for tensor in inventory.tensors
        if wanted in (tensor.name, f"{inventory.entry.path}:{tensor.name}")
    ]
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(f"{inventory.entry.path}:{tensor.name}" for inventory, tensor in found[:5])
        raise InputError(f"{len(found)} files have a tensor {wanted!a}", hint=f"one of {names}")
    import difflib  # only when something went wrong

    names_there = [tensor.name for inventory in inventories for tensor in inventory.tensors]
    near = difflib.get_close_matches(wanted.rpartition(":")[2], names_there, n=3, cutoff=0.5)
    hint = f"did you mean {', '.join(near)}?" if near else "modelvault ls lists what there is"
    raise InputError(f"there is no tensor {wanted!a}", hint=hint)
