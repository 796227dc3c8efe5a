"""New tensors to verified frames in packs: the second pass of a commit.

Each chunk is read from the file again, encoded, decoded through the very chain a reader would follow, and compared
with the bytes of the file. The tensor's id is computed anew from this second reading, so a file that changed since the
first is noticed. Frames are written in transactions of bounded size before anything refers to them, while other threads
encode those after them; the last of them go with the transaction that refers to them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from modelvault import codec, ids, wire
from modelvault.errors import CorruptError, FileChangedError
from modelvault.ids import TensorId
from modelvault.objects.tensor import Extent, TensorRecord, index_key, index_number
from modelvault.repository import sketches
from modelvault.repository.bases import Bases, Choice, Work, read_range
from modelvault.repository.chunks import FETCH_CHUNKS, ChunkReader, TensorDamagedError
from modelvault.repository.packs import Packer, next_number
from modelvault.repository.threads import in_order
from modelvault.store.base import ReadTransaction, WriteTransaction
from modelvault.tensors import CHUNK_BYTES

Progress = Callable[[int], None]

BATCH_BYTES = 4 << 20
"""Encoded bytes a transaction, about. With 8 or 16 MiB a commit of 91 MB in two threads takes 1.08 times as long (means
of depths 1 to 4, in turn, 0.181 and 0.196 s): what is written is at hand, and less is left for the last one. On one
processor, which waits for the disk more often, 16 MiB take 0.95 of the time; but packs are the same on any number."""


@dataclass(slots=True)
class Tally:
    """What was stored: bytes and chunks, and the deepest chain."""

    added_bytes: int = 0
    keyframes: int = 0
    deltas: int = 0
    depth: int = 0


@dataclass(slots=True)
class _Unfinished:
    """A tensor whose frames are being made and written."""

    work: Work
    base: int
    choice: Future[Choice] = field(default_factory=Future)
    chunks: dict[int, bytes] = field(default_factory=dict)
    deltas: int = 0
    extents: list[Extent] = field(default_factory=list)

    def chunk(self, place: int) -> bytes:
        """Return a raw chunk, and keep it until it is encoded."""
        raw = self.chunks.get(place)
        if raw is None:
            raw = self.chunks[place] = read_range(self.work, place * CHUNK_BYTES, CHUNK_BYTES)
        return raw


@dataclass(slots=True)
class _Batch:
    """What one transaction writes: frames, and the tensors whose last frame is among them."""

    frames: list[tuple[_Unfinished, bytes]] = field(default_factory=list)
    finished: list[_Unfinished] = field(default_factory=list)
    nbytes: int = 0


def find_tensor(txn: ReadTransaction, tensor_id: TensorId, nbytes: int) -> int | None:
    """Return the number under which the vault holds these bytes already, or None.

    Raises:
        CorruptError: a tensor has this id and another length: one of them is not what it says.
    """
    for key, _ in txn.scan("index", prefix=index_key(tensor_id, 0)[:-1]):
        number = index_number(key)
        data = txn.get("tensors", wire.sortable(number))
        if data is None:
            continue
        record = TensorRecord.from_bytes(data)
        if record.tensor_id == tensor_id:
            if record.nbytes != nbytes:
                raise CorruptError(
                    f"tensor {number} has the id of the bytes to store but {record.nbytes} of them, not {nbytes}",
                    hint="run modelvault fsck",
                )
            return number
    return None


class RaceLostError(Exception):
    """Something this commit relies on changed under it; made again from the start, it will succeed."""


class Encoder:
    """Stores the new tensors of one commit, batch by batch. The last batch waits to be settled.

    Args:
        reader: gives the chunks of references.
        write_batch: runs a function in a write transaction of its own.
        progress: told how many raw bytes were stored.
        bases: chooses references.
    """

    def __init__(
        self,
        reader: ChunkReader,
        write_batch: Callable[[Callable[[WriteTransaction], None]], None],
        progress: Progress,
        bases: Bases,
    ) -> None:
        self._reader, self._write_batch, self._progress, self._bases = reader, write_batch, progress, bases
        self.numbers: dict[TensorId, int] = {}
        self.tally = Tally()
        self._last = _Batch()

    def settle(self, txn: WriteTransaction | None = None) -> None:
        """Store what waits, in a transaction of its own if none is given. Then all tensors have numbers."""
        batch, self._last = self._last, _Batch()
        if not batch.frames:
            return
        if txn is None:
            self._write_batch(partial(self._write, batch))
        else:
            self._write(batch, txn)

    def store(self, works: Sequence[Work]) -> None:
        """Encode and verify all of `works`, and store them durably but for a last batch: `settle` does that."""
        batch, self._last = self._last, _Batch()
        for done in in_order(self._do, self._tasks(works)):
            if done is None:
                continue
            (tensor, place), raw, frame = done
            slot = tensor.work.slot
            if place == 0:
                hasher = ids.tensor_hasher()
            hasher.update(raw)
            tensor.deltas += codec.is_delta(frame)
            batch.frames.append((tensor, frame))
            batch.nbytes += len(frame)
            self._progress(len(raw))
            if (place + 1) * CHUNK_BYTES >= slot.nbytes:
                if hasher.digest() != slot.tensor_id:
                    raise FileChangedError(f"the file changed while it was read (in {slot.name!a})")
                batch.finished.append(tensor)
            if batch.nbytes >= BATCH_BYTES:
                # By this thread, while others encode. With one that only writes, commits of 91 MB in two threads took
                # 1.02 to 1.07 times as long.
                self._write_batch(partial(self._write, batch))
                batch = _Batch()
        self._last = batch

    def _tasks(self, works: Sequence[Work]) -> Iterator[_Job | _Unfinished]:
        """Yield each tensor, to be fitted, and its chunks behind the tensor after it, so as not to wait for that."""
        before: _Unfinished | None = None
        for work, base in self._bases.choose(works):
            tensor = _Unfinished(work, base)
            yield tensor
            if before is not None:
                yield from self._jobs(before)
            before = tensor
        if before is not None:
            yield from self._jobs(before)

    def _jobs(self, tensor: _Unfinished) -> Iterator[_Job]:
        places = range(-(-tensor.work.slot.nbytes // CHUNK_BYTES))
        for some in (places[first : first + FETCH_CHUNKS] for first in places[::FETCH_CHUNKS]):
            if tensor.base:
                self._reader.fetch([(tensor.base, place) for place in some])
            yield from (_Job(tensor, place) for place in some)

    def _do(self, task: _Job | _Unfinished) -> tuple[_Job, bytes, bytes] | None:
        if isinstance(task, _Job):
            return self._encode(task)
        try:
            task.choice.set_result(self._bases.fitted(task.work, task.base, task.chunk))
        except BaseException as error:
            task.choice.set_exception(error)  # for whoever waits for it
            raise
        return None

    def _encode(self, job: _Job) -> tuple[_Job, bytes, bytes]:
        """Encode one chunk and see that it decodes to the file's bytes."""
        tensor, place = job
        slot, start = tensor.work.slot, place * CHUNK_BYTES
        base, parameters = tensor.choice.result()
        raw = tensor.chunk(place)
        del tensor.chunks[place]
        references = []
        if base:
            try:
                references.append(self._reader.chunk(base, place, again=False))
            except TensorDamagedError:
                parameters = codec.Parameters(slot.dtype)  # this chunk becomes a keyframe
        first = start // codec.word_bytes(slot.dtype)
        runs = slot.runs(start, start + len(raw))
        frame = codec.encode_chunk(raw, parameters, references, row=slot.row, start=first, runs=runs)
        if not codec.decodes_to(frame, raw, parameters, references):
            raise CorruptError(
                f"chunk {place} of {slot.name!a} did not survive encoding; nothing was committed",
                hint="this is a defect of modelvault or of this machine's memory: please report it",
            )
        return job, raw, frame

    def _write(self, batch: _Batch, txn: WriteTransaction) -> None:
        unwanted = set[int]()  # tensors that another process stored while we encoded them
        for tensor in batch.finished:
            slot = tensor.work.slot
            number = find_tensor(txn, slot.tensor_id, slot.nbytes)
            if number is not None:
                self.numbers[slot.tensor_id] = number
                unwanted.add(id(tensor))
        packer = Packer(txn)
        for tensor, frame in batch.frames:
            if id(tensor) not in unwanted:
                packer.add(tensor.extents, frame)
                self.tally.added_bytes += len(frame)
        packer.close()
        number = next_number(txn, "tensors")
        for tensor in batch.finished:
            if id(tensor) in unwanted:
                continue
            slot = tensor.work.slot
            base, parameters = tensor.choice.result() if tensor.deltas else Choice(0, codec.Parameters(slot.dtype))
            record = TensorRecord(
                slot.tensor_id,
                slot.nbytes,
                parameters.to_bytes(),
                base,
                _depth_on(txn, base, self._bases.max_depth) if base else 0,
                tensor.deltas,
                tuple(tensor.extents),
            )
            data, key = record.to_bytes(), index_key(record.tensor_id, number)
            txn.put("tensors", wire.sortable(number), data)
            txn.put("index", key, b"")
            self.tally.added_bytes += sketches.enter(txn, tensor.work.sketch, number)
            self.numbers[record.tensor_id] = number
            self.tally.added_bytes += len(data) + len(wire.sortable(number)) + len(key)
            self.tally.deltas += record.deltas
            self.tally.keyframes += record.chunks - record.deltas
            self.tally.depth = max(self.tally.depth, record.depth)
            number += 1
        txn.put("meta", b"next tensors", wire.sortable(number))


class _Job(NamedTuple):
    tensor: _Unfinished
    place: int


def _depth_on(txn: ReadTransaction, base: int, max_depth: int) -> int:
    """Return the depth of a delta against `base` as it is now: a repack may have moved it since it was chosen.

    A new tensor is nobody's reference yet, so no cycle can be closed here.

    Raises:
        RaceLostError: the base is gone or has become too deep.
    """
    data = txn.get("tensors", wire.sortable(base))
    if data is None:
        raise RaceLostError(f"tensor {base} is gone")
    depth = TensorRecord.from_bytes(data).depth + 1
    if depth > max_depth:
        raise RaceLostError(f"tensor {base} has become too deep")
    return depth
