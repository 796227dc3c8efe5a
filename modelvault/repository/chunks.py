"""A tensor's raw chunks, decoded through its chain.

Read transactions last for the fetching of a few chains of frames and are never held while anything is decoded or
written, so that a slow reader keeps no freed page of the store alive. Decoded chunks are kept in a small cache: they
are the references of what is encoded next.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections import Counter, OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

from modelvault import codec, wire
from modelvault.errors import CorruptError
from modelvault.objects.tensor import TensorRecord
from modelvault.store.base import ReadTransaction, Store
from modelvault.tensors import CHUNK_BYTES

MAX_CHAIN = 256
"""Longest chain that is followed: far above what any writer makes, so that a cycle in damaged records ends here."""

_MOST_LINKS = 4 * MAX_CHAIN
"""Tensors that one may need in all, through several references."""

CACHE_BYTES = 64 << 20
"""Decoded chunks kept: enough for the references of one batch, small beside a process that trains."""

SHARED_BYTES = 512 << 20
"""Decoded chunks kept where several commits are looked at. As long as two snapshots fit in, one that leans on the
snapshot before takes one decoding of each chunk, however long its chain."""

FETCH_CHUNKS = 8
_FETCH_BYTES = 16 << 20
"""So many chunks are fetched in one transaction, or as many as have so many bytes of frames. To open one takes 0.3 ms,
a third of what decoding a chunk takes."""


class TensorDamagedError(CorruptError):
    """A tensor cannot be decoded; `number` names it in its vault."""

    def __init__(self, number: int, why: str) -> None:
        super().__init__(f"tensor {number}: {why}", hint="run modelvault fsck to see which commits it hurts")
        self.number = number


class _Link(NamedTuple):
    number: int
    record: TensorRecord
    frame: bytes
    references: tuple[int, ...]  # what this frame needs


class _Chain(NamedTuple):
    links: list[_Link]  # references first
    known: dict[int, bytes]  # cached chunks that it begins with


def read_tensor(txn: ReadTransaction, number: int) -> TensorRecord:
    """Return a tensor's record.

    Raises:
        TensorDamagedError: it is missing or damaged.
    """
    data = txn.get("tensors", wire.sortable(number))
    if data is None:
        raise TensorDamagedError(number, "its record is missing")
    try:
        return TensorRecord.from_bytes(data)
    except wire.WireError as error:
        raise TensorDamagedError(number, f"its record is damaged: {error}") from None


class ChunkReader:
    """Decodes chunks; shared by the threads of one operation.

    Args:
        store: where the frames are.
        cache_bytes: how much of what was decoded is kept; little where nothing is wanted twice.
    """

    def __init__(self, store: Store, *, cache_bytes: int = CACHE_BYTES) -> None:
        self._store, self._cache_bytes = store, cache_bytes
        self._lock = threading.Lock()
        self._records: OrderedDict[int, tuple[TensorRecord, list[tuple[int, int, int]]]] = OrderedDict()
        self._chunks: OrderedDict[tuple[int, int], bytes] = OrderedDict()
        self._cached_bytes = 0
        self._fetched: OrderedDict[tuple[int, int], _Chain] = OrderedDict()

    def record(self, number: int) -> TensorRecord:
        """Return a tensor's record."""
        with self._lock:
            known = self._records.get(number)
        if known is not None:
            return known[0]
        with self._store.read() as txn:
            return self._record(txn, number)[0]

    def look(self, txn: ReadTransaction, number: int) -> TensorRecord:
        """Return a tensor's record, in a transaction that is open already.

        Raises:
            TensorDamagedError: it is missing or damaged.
        """
        return self._record(txn, number)[0]

    def fetch(self, wanted: Sequence[tuple[int, int]]) -> None:
        """Fetch frames of (tensor, place) in one transaction, as many as is good, for `chunk` to find."""
        fetched = 0
        with self._lock:
            waiting = self._fetched.keys() & set(wanted)
        missing = [one for one in wanted if one not in waiting and self._recall(*one) is None]
        if not missing:
            return
        with self._store.read() as txn:
            for number, place in missing:
                with contextlib.suppress(TensorDamagedError):  # `chunk` tells
                    chain = self._links(txn, number, place)
                    fetched += sum(len(link.frame) for link in chain.links)
                    with self._lock:
                        self._fetched[number, place] = chain
                        while len(self._fetched) > 4 * FETCH_CHUNKS:
                            self._fetched.popitem(last=False)
                if fetched > _FETCH_BYTES:
                    break

    def frame(self, number: int, place: int) -> bytes:
        """Return the frame of one chunk, as it is stored.

        Raises:
            TensorDamagedError: it is not there.
        """
        with self._store.read() as txn:
            try:
                return self._frame(txn, number, place)[1]
            except TensorDamagedError:
                return self._frame(txn, number, place, anew=True)[1]

    def chunk(self, number: int, place: int, *, again: bool = True, chain: bool = True) -> bytes:
        """Return one raw chunk.

        Args:
            number: the tensor.
            place: which of its chunks, from 0.
            again: whether it may be wanted again soon; if not, nothing is kept.
            chain: whether what it leans on may be, too.

        Raises:
            TensorDamagedError: it, or something its chain needs, cannot be decoded.
        """
        cached = self._recall(number, place)
        if cached is not None:
            if not again:
                self._forget(number, place)
            return cached
        links, known = self._chain(number, place)
        uses = Counter(itertools.chain((number,), *(link.references for link in links)))
        for link in links:
            parameters = codec.Parameters.from_bytes(link.record.parameters)
            size = min(CHUNK_BYTES, link.record.nbytes - place * CHUNK_BYTES)
            try:
                raw = codec.decode_chunk(link.frame, size, parameters, [known[one] for one in link.references])
            except CorruptError as error:
                raise TensorDamagedError(link.number, f"chunk {place} cannot be decoded: {error}") from None
            known[link.number] = raw
            if again and (chain or link.number == number):
                self._remember(link.number, place, raw)
            uses.subtract(link.references)
            for one in link.references:
                if not uses[one]:
                    known.pop(one, None)  # a chain of many references would hold them all
        return known[number]

    def _chain(self, number: int, place: int) -> _Chain:
        """Return what must be decoded, references first, and the cached chunks that it begins with."""
        with self._lock:
            fetched = self._fetched.pop((number, place), None)
        if fetched is not None:
            return fetched
        with self._store.read() as txn:
            try:
                return self._links(txn, number, place)
            except TensorDamagedError:
                # A gc may have coded tensors of the chain anew, or moved their frames, since their records were read.
                return self._links(txn, number, place, anew=True)

    def _links(self, txn: ReadTransaction, number: int, place: int, *, anew: bool = False) -> _Chain:
        links: dict[int, _Link] = {}
        known: dict[int, bytes] = {}

        def visit(number: int, depth: int) -> None:
            if number in links or number in known:
                return
            cached = self._recall(number, place)
            if cached is not None:
                known[number] = cached
                return
            if depth > MAX_CHAIN or len(links) > _MOST_LINKS:
                raise TensorDamagedError(number, f"its chain is longer than {MAX_CHAIN} links")
            record, frame = self._frame(txn, number, place, anew=anew)
            try:
                needed = codec.references_of(frame, len(record.references))
                if not needed and codec.is_delta(frame):
                    raise TensorDamagedError(number, f"chunk {place} is a delta but no reference is recorded")
            except codec.CodecError as error:
                raise TensorDamagedError(number, f"chunk {place} cannot be decoded: {error}") from None
            link = _Link(number, record, frame, record.references[:needed])
            for reference in link.references:
                visit(reference, depth + 1)
            links[number] = link

        visit(number, 0)
        return _Chain(list(links.values()), known)

    def _frame(
        self, txn: ReadTransaction, number: int, place: int, *, anew: bool = False
    ) -> tuple[TensorRecord, bytes]:
        record, frames = self._record(txn, number, anew=anew)
        if place >= len(frames):
            raise TensorDamagedError(number, f"it has {len(frames)} chunks, chunk {place} is wanted")
        pack, offset, length = frames[place]
        value = txn.view("packs", wire.sortable(pack))
        if value is None or offset + length > len(value):
            raise TensorDamagedError(number, f"pack {pack}, which holds chunk {place}, is missing or short")
        return record, bytes(value[offset : offset + length])

    def _record(
        self, txn: ReadTransaction, number: int, *, anew: bool = False
    ) -> tuple[TensorRecord, list[tuple[int, int, int]]]:
        with self._lock:
            known = None if anew else self._records.get(number)
        if known is None:
            record = read_tensor(txn, number)
            known = record, record.frames()
            with self._lock:
                self._records[number] = known
                while len(self._records) > 4096:
                    self._records.popitem(last=False)
        return known

    def _recall(self, number: int, place: int) -> bytes | None:
        with self._lock:
            raw = self._chunks.get((number, place))
            if raw is not None:
                self._chunks.move_to_end((number, place))
            return raw

    def _forget(self, number: int, place: int) -> None:
        with self._lock:
            raw = self._chunks.pop((number, place), None)
            if raw is not None:
                self._cached_bytes -= len(raw)

    def _remember(self, number: int, place: int, raw: bytes) -> None:
        with self._lock:
            if (number, place) in self._chunks:
                return
            self._chunks[number, place] = raw
            self._cached_bytes += len(raw)
            while self._cached_bytes > self._cache_bytes:
                self._cached_bytes -= len(self._chunks.popitem(last=False)[1])
