"""Which stored tensor each new one is coded against, found by measuring on samples.

While a run goes on, the parent's tensor is the one, and to look further would cost more than it finds. So a few
tensors of each class of a file are witnesses: together they are measured against the parent's, against what that leans
on, the keyframe its chain ends in, what was last stored under the name, and what is alike by content. If the parent's
wins, the whole class leans on it. Otherwise, and where there is no parent or its chain is as long as the policy allows,
tensors are measured one by one.
"""

from __future__ import annotations

import bisect
import contextlib
import itertools
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from modelvault import codec, planner
from modelvault.checkpoint import Source
from modelvault.repository.chunks import FETCH_CHUNKS, MAX_CHAIN, ChunkReader, TensorDamagedError
from modelvault.repository.config import Config
from modelvault.repository.cost import work_in
from modelvault.repository.dissect import Slot, read_exactly
from modelvault.repository.samples import Piece, few_pieces, fit_pieces
from modelvault.repository.sketches import find_alike
from modelvault.store.base import ReadTransaction, Store
from modelvault.tensors import CHUNK_BYTES, DType

_WITNESSES = 3
"""Tensors of a class that are measured while all goes well, the larger the likelier."""

_WITNESS_SHARE = 256
_WITNESS_LEAST = 48 << 10
_WITNESS_MOST = 512 << 10
"""How much of a class is coded of them, together: enough to see which of two references is better by `_WINS`."""

_WITNESS_CLASS = 128
"""Classes of less than one in so many bytes of a file, such as counters, lean on the parent's unseen."""

_WINS = 0.99
"""What another reference may cost of what the parent's does for a class to be measured one by one. Twice as far away is
half a bit a number, 4 % of an fp32 delta. A family of bf16 fine-tunes took 1.9 % more than it need at 0.98, 0.0 % at
0.99."""

_POOR = 0.75
"""What is alike by content is looked for where the best of all others at hand is not below this share of a keyframe. A
relative stands at 0.1 (bf16 fine-tunes) to 0.7 (fp32 epochs), what is not related at 1."""


class Work(NamedTuple):
    """One tensor to store.

    Attributes:
        slot: what it is and where its bytes stand in the source.
        source: the file.
        candidates: numbers of tensors that might be its reference by their names, the likeliest first.
        sketch: its hashes, by which others are found.
    """

    slot: Slot
    source: Source
    candidates: tuple[int, ...]
    sketch: tuple[bytes, ...] = ()

    @property
    def extent(self) -> tuple[int, DType, int]:
        """Length, dtype and row: what the places of a sample depend on."""
        return self.slot.nbytes, self.slot.dtype, self.slot.row


class Choice(NamedTuple):
    """How a tensor is coded: the number of its reference, 0 for none, and the codec's parameters."""

    base: int
    parameters: codec.Parameters


class Restoring(NamedTuple):
    """What restoring a commit may take.

    Attributes:
        max_depth: the longest chain.
        max_work: the most work units for all of its files; None: no bound.
        raw_bytes: what its files have together.
    """

    max_depth: int = planner.MAX_DEPTH
    max_work: float | None = None
    raw_bytes: int = 0

    def allowance(self, nbytes: int) -> planner.Allowance:
        """Return what one of its tensors may take: as much of the work as it is of the files."""
        if self.max_work is None:
            return planner.Allowance(self.max_depth)
        share = nbytes / max(nbytes, self.raw_bytes)
        return planner.Allowance(self.max_depth, int(self.max_work * share), nbytes)


def restoring_of(config: Config, raw_bytes: int) -> Restoring:
    """Return what a vault's configuration says restoring a commit of so many bytes may take."""
    seconds = config.max_restore_seconds
    return Restoring(config.longest_chain, None if seconds is None else work_in(seconds), raw_bytes)


class Bases:
    """Chooses references for the new tensors of one commit.

    Args:
        store: where hashes lead to tensors.
        reader: gives the chunks of references.
        restoring: what restoring the commit may take.
        avoid: tensors that are about to go, while old commits are rewritten, and no references therefore. What is alike
            by content may be newer than these then, and is not looked for.
    """

    def __init__(
        self, store: Store, reader: ChunkReader, restoring: Restoring, avoid: Container[int] | None = None
    ) -> None:
        self._store, self._reader, self._restoring, self._avoid = store, reader, restoring, avoid

    @property
    def max_depth(self) -> int:
        """The longest chain that may arise."""
        return self._restoring.max_depth

    def choose(self, works: Sequence[Work]) -> Iterator[tuple[Work, int]]:
        """Yield each tensor of one file with its reference, 0 if it is better off alone.

        They come in their order, and none is looked at before it is asked for.
        """
        trusted, left_out = self._trusted(works), 0
        for place, work in enumerate(works):
            if trusted.get(place):
                if place >= left_out:
                    left_out = self._fetch_ahead(works, place, trusted)
                yield work, work.candidates[0]
            else:
                yield work, self._measured(work, place in trusted)

    def fitted(self, work: Work, base: int, chunk: Callable[[int], bytes]) -> Choice:
        """Return how a tensor is coded against `base`, by a sample of both; alone if that cannot be decoded.

        Args:
            work: the tensor.
            base: the reference, 0 for none.
            chunk: gives the tensor's chunk of that number. Read whole: pieces of it take a system call each, and each
                time another thread may take the interpreter over.
        """
        slot = work.slot
        if base:
            sample = list(fit_pieces(*work.extent))
            with contextlib.suppress(TensorDamagedError):
                pairs = list[tuple[memoryview, memoryview]]()
                for place, some in itertools.groupby(sample, lambda piece: piece.place):
                    new, old = chunk(place), self._reader.chunk(base, place, chain=False)
                    pairs += [(_piece_of(new, piece), _piece_of(old, piece)) for piece in some]
                share = sum(piece.size for piece in sample) / slot.nbytes
                return Choice(base, codec.fit(slot.dtype, pairs, row=slot.row, share=share))
        return Choice(0, codec.Parameters(slot.dtype))

    def _fetch_ahead(self, works: Sequence[Work], first: int, trusted: Mapping[int, bool]) -> int:
        """Fetch what the next samples will be held against, and return which tensor is the first left out.

        A small one has a chunk or two: opening a transaction for each took as long as decoding them.
        """
        wanted: list[tuple[int, int]] = []
        place = first
        while place < len(works) and len(wanted) < FETCH_CHUNKS:
            if trusted.get(place):
                work = works[place]
                wanted += sorted({(work.candidates[0], piece.place) for piece in fit_pieces(*work.extent)})
            place += 1
        self._reader.fetch(wanted)
        return place

    # what may be leant on

    def _candidate(self, txn: ReadTransaction, work: Work, number: int) -> planner.Candidate | None:
        """Return a tensor as a reference that would cost what its own frames take, None if it is of no use."""
        if self._avoid is not None and number in self._avoid:
            return None
        try:
            record = self._reader.look(txn, number)
            if record.nbytes != work.slot.nbytes:
                return None
            effort = self._work(txn, number) if self._restoring.max_work is not None else 0
        except TensorDamagedError:  # a gc may have taken it since it was found, or it is damaged: nothing to build on
            return None
        return planner.Candidate(number, record.stored_bytes, record.depth, effort)

    def _is_usable(self, txn: ReadTransaction, work: Work, number: int) -> bool:
        candidate = self._candidate(txn, work, number)
        return candidate is not None and self._restoring.allowance(work.slot.nbytes).links(candidate) > 0

    def _alike(self, txn: ReadTransaction, work: Work) -> tuple[int, ...]:
        """Return tensors that are like one by content."""
        return find_alike(txn, work.sketch) if self._avoid is None else ()

    def _relatives(self, txn: ReadTransaction, work: Work) -> Iterator[int]:
        """Yield tensors that are like one by content, what each leans on, and the keyframe its chain ends in."""
        for number in self._alike(txn, work):
            line = self._line(txn, number)
            yield from line[:2] + line[2:][-1:]

    def _line(self, txn: ReadTransaction, number: int) -> list[int]:
        """Return a tensor, its base, the base of that, and so on, as far as records can be read."""
        line: list[int] = []
        with contextlib.suppress(TensorDamagedError):
            while number and len(line) <= MAX_CHAIN:
                base = self._reader.look(txn, number).base
                line.append(number)
                number = base
        return line

    def _work(self, txn: ReadTransaction, number: int) -> int:
        """Return the work units that it takes to decode a tensor and all that it needs.

        Raises:
            TensorDamagedError: a record is missing or damaged.
        """
        total, seen, todo = 0, {number}, [number]
        while todo:
            record = self._reader.look(txn, todo.pop())
            total += record.nbytes + record.stored_bytes
            todo += set(record.references) - seen
            seen.update(record.references)
        return total

    # witnesses

    def _trusted(self, works: Sequence[Work]) -> dict[int, bool]:
        """Return the places of tensors that could lean on the parent's, and whether those are best for their class."""
        classes: dict[tuple[str, DType], list[int]] = {}
        total = sum(work.slot.nbytes for work in works)
        asked: list[tuple[list[int], list[Work], list[tuple[int, ...]]]] = []
        with self._store.read() as txn:
            for place, work in enumerate(works):
                if work.candidates and self._is_usable(txn, work, work.candidates[0]):
                    classes.setdefault((work.slot.part, work.slot.dtype), []).append(place)
            for places in classes.values():
                if sum(works[place].slot.nbytes for place in places) * _WITNESS_CLASS >= total:
                    witnesses = _spread([works[place] for place in places])
                    asked.append((places, witnesses, self._roles(txn, witnesses)))
        trusted = dict.fromkeys(itertools.chain.from_iterable(classes.values()), True)
        for places, witnesses, roles in asked:
            nbytes = sum(works[place].slot.nbytes for place in places)
            trusted.update(dict.fromkeys(places, not roles or self._is_best(witnesses, roles, nbytes)))
        return trusted

    def _roles(self, txn: ReadTransaction, witnesses: Sequence[Work]) -> list[tuple[int, ...]]:
        """Return what else witnesses could lean on, all in the same way; the parent's where one of them cannot."""
        rows = []
        for work in witnesses:
            parent = work.candidates[0]
            line = self._line(txn, parent)
            others = [*(line[1:2] or [parent]), *(line[-1:] or [parent]), *(work.candidates[1:2] or [parent])]
            others += self._alike(txn, work)
            rows.append([number if self._is_usable(txn, work, number) else parent for number in others])
        width = max(map(len, rows))
        parents = tuple(work.candidates[0] for work in witnesses)
        filled = [row + [parent] * (width - len(row)) for row, parent in zip(rows, parents, strict=True)]
        return [role for role in dict.fromkeys(zip(*filled, strict=True)) if role != parents]

    def _is_best(self, witnesses: Sequence[Work], roles: Sequence[tuple[int, ...]], nbytes: int) -> bool:
        """Whether the parent's are the best references of some witnesses for a class of so many bytes."""
        size = min(_WITNESS_MOST, max(_WITNESS_LEAST, nbytes // _WITNESS_SHARE)) // len(witnesses)
        samples = [_Sample(work, few_pieces(*work.extent, size)) for work in witnesses]
        parents = tuple(work.candidates[0] for work in witnesses)
        self._reader.fetch(
            [
                (number, at)
                for role in (parents, *roles)
                for sample, number in zip(samples, role, strict=True)
                for at in sample.places
            ]
        )
        cost = self._joint(samples, parents)
        if cost is None:
            return False
        for role in roles:
            other = self._joint(samples, role)
            if other is not None and other < cost * _WINS:
                return False
        return True

    def _joint(self, samples: Sequence[_Sample], numbers: Sequence[int]) -> int | None:
        """Return what samples take together, each against one tensor; None if one cannot be decoded."""
        pairs: list[tuple[bytes, bytes]] = []
        try:
            for sample, number in zip(samples, numbers, strict=True):
                pairs += sample.beside(self._reader, number)
        except TensorDamagedError:
            return None
        slots = [sample.work.slot for sample in samples]
        row = slots[0].row if all(slot.row == slots[0].row for slot in slots) else 0
        return coded_bytes(slots[0].dtype, pairs, row)

    # one by one

    def _measured(self, work: Work, far_and_wide: bool) -> int:
        """Return the best reference of one tensor by its sample, 0 if it is better off alone.

        Args:
            work: the tensor.
            far_and_wide: whether to look for what is alike even if those at hand will do.
        """
        slot, allowed = work.slot, self._restoring.allowance(work.slot.nbytes)
        known: dict[int, planner.Candidate | None] = {}
        with self._store.read() as txn:
            at_hand = [*(_ladder(self._line(txn, work.candidates[0])) if work.candidates else ()), *work.candidates[1:]]
            alike = list(self._relatives(txn, work))
            for number in itertools.chain(at_hand, alike):
                if number not in known:
                    known[number] = self._candidate(txn, work, number)
        if not any(known.values()):
            return 0
        sample = _Sample(work, few_pieces(*work.extent))
        frame = codec.encode_chunk(sample.raw, codec.Parameters(slot.dtype), row=slot.row)
        keyframe = of_whole(len(frame), sample.nbytes, slot.nbytes)
        measured: dict[int, planner.Candidate] = {}

        def measure(numbers: Iterable[int]) -> planner.Candidate | None:
            for number in numbers:
                candidate = known[number]
                if candidate is None or number in measured:
                    continue
                # What is damaged is fsck's to report; it must not keep new work from being saved.
                with contextlib.suppress(TensorDamagedError):
                    size = coded_bytes(slot.dtype, sample.beside(self._reader, number), slot.row)
                    measured[number] = candidate._replace(bytes=of_whole(size, sample.nbytes, slot.nbytes))
            return planner.choose(keyframe, measured.values(), allowed)

        best = measure(at_hand)
        if far_and_wide or best is None or best.bytes > _POOR * keyframe:
            best = measure(alike)
        return best.number if best else 0


def _spread(works: Sequence[Work]) -> list[Work]:
    """Return a few of some tensors, the larger the likelier."""
    ends = list(itertools.accumulate(work.slot.nbytes for work in works))
    at = {bisect.bisect(ends, (2 * i + 1) * ends[-1] // (2 * _WITNESSES)) for i in range(_WITNESSES)}
    return [works[min(place, len(works) - 1)] for place in sorted(at)]


def _ladder(line: Sequence[int]) -> list[int]:
    """Return the tensors of a chain that are 0, 1, 2, 4, ... links away, and the keyframe at its end.

    >>> _ladder([9, 8, 7, 6, 5, 4])
    [9, 8, 7, 5, 4]
    """
    steps = [0, *(1 << n for n in range(len(line).bit_length()))]
    return list(dict.fromkeys([*(line[step] for step in steps if step < len(line)), *line[-1:]]))


def _piece_of(chunk: bytes, piece: Piece) -> memoryview:
    return memoryview(chunk)[piece.start : piece.start + piece.size]


class _Sample:
    """Pieces of a new tensor."""

    def __init__(self, work: Work, places: Iterable[Piece]) -> None:
        self.work = work
        self._pieces = [
            (piece, read_range(work, piece.place * CHUNK_BYTES + piece.start, piece.size)) for piece in places
        ]
        self.nbytes = sum(len(raw) for _, raw in self._pieces)

    @property
    def places(self) -> list[int]:
        """The chunks that they are from."""
        return sorted({piece.place for piece, _ in self._pieces})

    @property
    def raw(self) -> bytes:
        """All of them, one after the other."""
        return b"".join(raw for _, raw in self._pieces)

    def beside(self, reader: ChunkReader, number: int) -> list[tuple[bytes, bytes]]:
        """Return each piece with the same one of a stored tensor.

        Raises:
            TensorDamagedError: that cannot be decoded.
        """
        return [
            (raw, reader.chunk(number, piece.place)[piece.start : piece.start + len(raw)])
            for piece, raw in self._pieces
        ]


def coded_bytes(dtype: DType, pairs: Sequence[tuple[bytes, bytes]], row: int) -> int:
    """Return how many bytes pieces take against others, coded as they would be."""
    raw, reference = (b"".join(sides) for sides in zip(*pairs, strict=True))
    return len(codec.encode_chunk(raw, codec.fit(dtype, pairs, row=row), [reference], row=row))


_HEAD_BYTES = 96
"""About what a frame takes before its first number: scales, tables. Where almost nothing changed, 32 KiB take 400
bytes, and that is much of them: fine-tunes in bf16 at 90x were foretold 10 % too large without it, 1 % too small with
it, and nothing else got worse."""


def of_whole(coded: int, sampled: int, nbytes: int) -> int:
    """Return how many bytes a tensor takes of which so many sampled bytes were coded in so many.

    >>> of_whole(1048, 65_536, 131_072), of_whole(1048, 65_536, 65_536)
    (2000, 1048)
    """
    head = min(coded, _HEAD_BYTES)
    return round((coded - head) * nbytes / max(1, sampled)) + head * -(-nbytes // CHUNK_BYTES)


def read_range(work: Work, start: int, size: int) -> bytes:
    """Return raw bytes of a slot, or what is left of it, collected from the pieces of the file it is made of."""
    slot = work.slot
    end = min(slot.nbytes, start + size)
    parts, piece = [], max(0, bisect.bisect_right(slot.starts, start) - 1)
    while start < end:
        offset, length = slot.ranges[piece]
        skip = start - slot.starts[piece]
        take = min(length - skip, end - start)
        parts.append(read_exactly(work.source, offset + skip, take))
        start += take
        piece += 1
    return parts[0] if len(parts) == 1 else b"".join(parts)
