"""Stored tensors coded anew against another reference, chunk by chunk, verified as a commit verifies.

The frames are written before anything refers to them; then, in one transaction, the record changes, every depth above
it is put right, and packs that hold nothing any more go. Readers follow either the old frames or the new ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager

from modelvault import codec, ids, planner, wire
from modelvault.errors import CorruptError
from modelvault.objects.tensor import Extent, TensorRecord
from modelvault.repository.chains import Chains
from modelvault.repository.chunks import ChunkReader, TensorDamagedError
from modelvault.repository.packs import BATCH_BYTES, Packer, move_frames
from modelvault.repository.repository import Repository
from modelvault.repository.samples import fit_pieces, pieces
from modelvault.repository.threads import in_order
from modelvault.store.base import ReadTransaction, Store, WriteTransaction
from modelvault.tensors import CHUNK_BYTES, DType

_MOVE_TENSORS = 1024
"""Tensors whose frames are copied in one transaction; their bytes are bounded by `BATCH_BYTES` besides."""


def parameters_against(
    reader: ChunkReader,
    number: int,
    base: int,
    others: Sequence[int] = (),
    terms: Sequence[codec.Term] = (),
) -> codec.Parameters:
    """Return the codec's parameters for a tensor against another reference (0: none), fitted on a sample of both.

    Args:
        reader: decodes chunks.
        number: the tensor.
        base: the reference, or 0.
        others: references behind it.
        terms: what of these might help; without any, the word of each.

    Raises:
        CorruptError: the tensor or a reference cannot be read.
    """
    record = reader.record(number)
    dtype = dtype_of(record)
    if not base:
        return codec.Parameters(dtype)
    row = _row(reader, number)
    sample = list(fit_pieces(record.nbytes, dtype, row))
    pairs = [
        (reader.chunk(number, place)[start : start + size], reader.chunk(base, place)[start : start + size])
        for place, start, size in sample
    ]
    share = sum(piece.size for piece in sample) / max(1, record.nbytes)
    known = codec.fit(dtype, pairs, row=row, share=share)
    if not others:
        return known
    samples = [
        (new, [old, *(reader.chunk(other, place)[start : start + size] for other in others)])
        for (place, start, size), (new, old) in zip(sample, pairs, strict=True)
    ]
    return codec.fit_terms(dtype, samples, terms or _words(len(others)), known.predictors, row=row, share=share)


def _words(count: int) -> list[codec.Term]:
    return [codec.Term(codec.TermKind.WORD, place, 1.0) for place in range(1, count + 1)]


def sampled(reader: ChunkReader, number: int, references: Sequence[int], parameters: codec.Parameters) -> int:
    """Return how many bytes a sample of a tensor takes, coded so.

    Raises:
        CorruptError: the tensor or a reference cannot be read.
    """
    record = reader.record(number)
    row = _row(reader, number)
    sides = [bytearray() for _ in (number, *references[: parameters.references])]
    for place, start, size in pieces(record.nbytes, parameters.dtype, row):
        for side, one in zip(sides, (number, *references), strict=False):
            side += reader.chunk(one, place)[start : start + size]
    raw, *beside = map(bytes, sides)
    return len(codec.encode_chunk(raw, parameters, beside, row=row))


def encoded(
    store: Store,
    number: int,
    base: int,
    parameters: codec.Parameters | None = None,
    reader: ChunkReader | None = None,
    *,
    others: Sequence[int] = (),
    check: bool = False,
) -> Iterator[bytes]:
    """Yield the frames of a tensor, coded against `base` (0: alone), each decoded and compared before it is yielded.

    Args:
        store: where the tensor is.
        number: the tensor.
        base: the reference, or 0.
        parameters: what `parameters_against` returned, if it was asked.
        reader: decodes chunks; one that is shared remembers them.
        others: references behind the base, as many as the parameters ask for.
        check: whether the bytes must give the tensor's id as well.

    Raises:
        CorruptError: the tensor or the reference cannot be read, or a frame did not survive.
    """
    reader = reader or ChunkReader(store)
    record = reader.record(number)
    fitted = parameters or parameters_against(reader, number, base)
    row = _row(reader, number)
    word = codec.word_bytes(fitted.dtype)
    hasher = ids.tensor_hasher()

    def encode(place: int) -> tuple[bytes, bytes]:
        raw = reader.chunk(number, place)
        references = [reader.chunk(one, place) for one in (base, *others)] if base else []
        runs = codec.runs_of(reader.frame(number, place), len(raw), fitted.dtype)
        frame = codec.encode_chunk(raw, fitted, references, row=row, start=place * CHUNK_BYTES // word, runs=runs)
        if not codec.decodes_to(frame, raw, fitted, references):
            raise CorruptError(f"chunk {place} of tensor {number} did not survive coding anew; nothing was changed")
        return raw, frame

    for raw, frame in in_order(encode, range(record.chunks)):
        if check:
            hasher.update(raw)
        yield frame
    if check and hasher.digest() != record.tensor_id:
        raise TensorDamagedError(number, "its bytes do not match its id")


def _row(reader: ChunkReader, number: int) -> int:
    """Return the words of a row that a tensor was coded by."""
    return codec.row_of(reader.frame(number, 0)) if reader.record(number).chunks else 0


def encoded_bytes(store: Store, number: int, base: int) -> int:
    """Return how many bytes `encoded` would yield in all."""
    return sum(map(len, encoded(store, number, base)))


def sample_bytes(raw: bytes, dtype: DType, *references: bytes) -> int:
    """Return how many bytes a piece of a tensor takes, alone or against the same piece of one reference or several."""
    if not references:
        return len(codec.encode_chunk(raw, codec.Parameters(dtype)))
    parameters = codec.fit(dtype, [(raw, references[0])])
    if len(references) > 1:
        terms = _words(len(references) - 1)
        parameters = codec.fit_terms(dtype, [(raw, references)], terms, parameters.predictors)
    return len(codec.encode_chunk(raw, parameters, references[: parameters.references]))


def dtype_of(record: TensorRecord) -> DType:
    """Return what the elements of a tensor are."""
    return codec.Parameters.from_bytes(record.parameters).dtype


def is_computed(dtype: DType) -> bool:
    """Return whether several references can foretell numbers of this kind together."""
    return dtype in codec.COMPUTED_DTYPES


def is_delta(frame: bytes) -> bool:
    """Return whether a frame needs its reference."""
    return codec.is_delta(frame)


def alone(parameters: codec.Parameters) -> codec.Parameters:
    """Return the parameters of the same tensor without a reference."""
    return codec.Parameters(parameters.dtype)


class Recoder:
    """Codes tensors anew, one after the other.

    Args:
        repository: the vault.
        max_depth: the longest chain that may arise.

    Attributes:
        waste: by pack, bytes of frames that were given up in packs that others still need.
    """

    def __init__(self, repository: Repository, max_depth: int = planner.MAX_DEPTH) -> None:
        self._repository, self._max_depth = repository, max_depth
        self.chains = Chains()
        self.reader = ChunkReader(repository.store)
        self._kept: dict[int, int] = {}
        self.waste: dict[int, int] = {}
        self._look()

    def _look(self) -> None:
        self._kept.clear()
        self.waste.clear()
        with self._repository.store.read() as txn:
            self.chains.refresh(txn)
            for _, value in txn.scan("tensors"):
                self._count(TensorRecord.from_bytes(value).extents, 1)

    def _count(self, extents: tuple[Extent, ...], sign: int) -> None:
        for extent in extents:
            if sign > 0 or extent.pack in self._kept:
                self._kept[extent.pack] = self._kept.get(extent.pack, 0) + sign * sum(extent.lengths)

    def recode(
        self, number: int, base: int, parameters: codec.Parameters | None = None, others: tuple[int, ...] = ()
    ) -> int:
        """Code a tensor against `base` (0: alone), durably; return by how many bytes its frames have grown.

        Where no chunk gains by the reference it becomes a keyframe.

        Args:
            number: the tensor.
            base: its first reference, or 0.
            parameters: how; fitted if not given.
            others: references behind the base. Those that the parameters do not ask for are left out.

        Raises:
            StaleError: somebody else changed it, or the reference, meanwhile. Nothing was changed.
            TooDeepError: something that leans on it would become too deep. Nothing was changed.
            CorruptError: it or the reference cannot be read, or did not survive. Nothing was changed.
        """
        store = self._repository.store
        with store.read() as txn:
            before = txn.get("tensors", wire.sortable(number))
        if before is None:
            return 0  # collected meanwhile
        old = TensorRecord.from_bytes(before)
        extents: list[Extent] = []
        pending: list[bytes] = []
        size = deltas = 0

        def pack(txn: WriteTransaction) -> None:
            packer = Packer(txn)
            for frame in pending:
                packer.add(extents, frame)
            packer.close()

        parameters = parameters or parameters_against(self.reader, number, base, others)
        others = others[: max(0, parameters.references - 1)]
        for frame in encoded(store, number, base, parameters, self.reader, others=others, check=True):
            pending.append(frame)
            size += len(frame)
            deltas += is_delta(frame)
            if size >= BATCH_BYTES:
                with self._write() as writing:
                    pack(writing)
                pending, size = [], 0
        with self._write() as writing:
            pack(writing)
            new = old._replace(
                parameters=(parameters if deltas else alone(parameters)).to_bytes(),
                base=base if deltas else 0,
                deltas=deltas,
                extents=tuple(extents),
                others=others if deltas else (),
            )
            self.chains.put(writing, number, before, new, self._max_depth)
            gone = self._given_up(writing, old)
        self._count(old.extents, -1)
        self._count(new.extents, 1)
        for pack_number in gone:
            self._kept.pop(pack_number, None)
            self.waste.pop(pack_number, None)
        for extent in old.extents:
            if extent.pack not in gone:
                self.waste[extent.pack] = self.waste.get(extent.pack, 0) + sum(extent.lengths)
        return new.stored_bytes - old.stored_bytes

    def tidy(self) -> None:
        """Copy what is needed out of packs that are partly given up, and delete these."""
        if not self.waste:
            return
        leaving = set(self.waste)
        owners = self._owners(leaving)
        place = 0
        while place < len(owners):
            with self._write() as txn:
                place += move_frames(txn, owners[place : place + _MOVE_TENSORS], leaving)
        with self._write() as txn:
            still = {pack for number in self._owners(leaving, txn) for pack in _packs_of(txn, number)}
            for pack in leaving - still:
                txn.delete("packs", wire.sortable(pack))
        self._look()

    def _owners(self, packs: set[int], txn: ReadTransaction | None = None) -> list[int]:
        """Return the tensors that have frames in some packs."""
        if txn is None:
            with self._repository.store.read() as reading:
                return self._owners(packs, reading)
        return [
            wire.read_sortable(key)
            for key, value in txn.scan("tensors")
            if any(extent.pack in packs for extent in TensorRecord.from_bytes(value).extents)
        ]

    def _write(self) -> AbstractContextManager[WriteTransaction]:
        repository = self._repository
        return repository.store.write(timeout=repository.lock_timeout, waiting=repository.waiting)

    def _given_up(self, txn: WriteTransaction, old: TensorRecord) -> set[int]:
        """Delete the packs that hold nothing but these frames, which nothing refers to any more.

        Nobody ever adds a frame to a pack that exists, so what a pack holds for others can only be less than counted.
        One that was not counted was made since, by a gc that moved frames of several tensors there: it stays.
        """
        own: dict[int, int] = {}
        for extent in old.extents:
            own[extent.pack] = own.get(extent.pack, 0) + sum(extent.lengths)
        gone = {number for number, nbytes in own.items() if number in self._kept and self._kept[number] <= nbytes}
        for number in gone:
            txn.delete("packs", wire.sortable(number))
        return gone


def _packs_of(txn: ReadTransaction, number: int) -> set[int]:
    data = txn.get("tensors", wire.sortable(number))
    return {extent.pack for extent in TensorRecord.from_bytes(data).extents} if data is not None else set()
