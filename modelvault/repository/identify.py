"""Which commits a file on disk is from: byte for byte, by its tensors, or the nearest one.

The same bytes are found by their SHA-256. Failing that, the file's own tensors are hashed: a stored file that consists
of the same tensors is the same checkpoint in another container, or under other names. For the nearest, a few chunks of
the largest tensors are held against every stored file that has tensors of these names, and the best is measured whole.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from modelvault import ids
from modelvault.checkpoint import FileSource, Segment, Source, part_of, read_layout
from modelvault.codec import Sums, compare
from modelvault.errors import CorruptError, InputError
from modelvault.ids import CommitId, FileId, TensorId
from modelvault.objects.commit import Commit, FileEntry
from modelvault.objects.recipe import Recipe
from modelvault.repository import history
from modelvault.repository.dissect import read_exactly
from modelvault.repository.encode import find_tensor
from modelvault.repository.inventory import FileTensor, IdCheck, Inventory, TensorReader, read_inventory
from modelvault.repository.repository import Repository
from modelvault.repository.threads import in_order
from modelvault.repository.worktree import file_id, open_regular
from modelvault.store.base import ReadTransaction
from modelvault.tensors import CHUNK_BYTES, DType

Progress = Callable[[str, int, int], None]
Match = Literal["exact", "tensors", "nearest"]

_SAMPLES = 4
"""Tensors of which a chunk each is looked at in every stored file. Snapshots of one run differ everywhere, so that few
suffice to rank them; several guard against a layer that is frozen."""

_COMPARABLE_SHARE = 0.5
"""A stored file with fewer of the elements under the same names is another network."""


class Place(NamedTuple):
    """Where a stored file stands: commit, what it says, and path."""

    commit_id: CommitId
    commit: Commit
    path: str


class Identified(NamedTuple):
    """What became of the question.

    Attributes:
        file_id: the file's SHA-256.
        size: its length.
        tensors: how many tensors were found in it; 0 if nobody had to look.
        match: how it was found, None if it was not.
        places: where, newest first.
        distance: of the nearest: from the stored file to this one, over the tensors that both have.
        share: of the nearest: how much of this file's elements that is.
    """

    file_id: FileId
    size: int
    tensors: int
    match: Match | None
    places: tuple[Place, ...]
    distance: Sums | None = None
    share: float = 1.0


def identify(
    repository: Repository, path: Path, *, nearest: bool = False, progress: Progress | None = None
) -> Identified:
    """Find a file.

    Raises:
        InputError: it cannot be read.
        CorruptError: a record that is needed is damaged.
    """
    told = progress or (lambda *_: None)
    with open_regular(path) as descriptor:
        source = FileSource(descriptor)
        done = 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            told("reading", done, source.size)

        found = file_id(path, advance)
        if found is None:
            raise InputError(f"cannot read {str(path)!a}: it is gone")
        with repository.store.read() as txn:
            stored = _stored_files(txn)
        if found in stored:
            return Identified(found, source.size, 0, "exact", stored[found].places)
        segments = [segment for segment in read_layout(source).segments if segment.length]
        if segments:
            done = 0
            digests = [_digest(source, segment, advance) for segment in segments]
            same = list(_same_tensors(repository, stored, segments, digests))
            if same:
                places = sorted((place for file in same for place in file.places), key=_newest_first)
                return Identified(found, source.size, len(segments), "tensors", tuple(places))
            if nearest:
                best = _nearest(repository, stored, source, segments, told)
                if best is not None:
                    file, distance, share = best
                    return Identified(found, source.size, len(segments), "nearest", file.places, distance, share)
        return Identified(found, source.size, len(segments), None, ())


class _StoredFile(NamedTuple):
    entry: FileEntry
    places: tuple[Place, ...]


def _newest_first(place: Place) -> int:
    return -place.commit.time_ms


def _stored_files(txn: ReadTransaction) -> dict[FileId, _StoredFile]:
    """Return every file of every commit by its id, those of the newest commits first."""
    commits = [(CommitId(key), Commit.from_bytes(data)) for key, data in txn.scan("commits")]
    commits.sort(key=lambda item: -item[1].time_ms)
    entries: dict[FileId, FileEntry] = {}
    places: dict[FileId, list[Place]] = {}
    for commit_id, commit in commits:
        for committed, entry in zip(commit.files, history.kept_files(txn, commit_id, commit), strict=True):
            for found in {committed.file_id, entry.file_id}:  # two where a stand-in is kept
                entries.setdefault(found, entry)
                places.setdefault(found, []).append(Place(commit_id, commit, entry.path))
    return {found: _StoredFile(entry, tuple(places[found])) for found, entry in entries.items()}


def _digest(source: Source, segment: Segment, advance: Callable[[int], None]) -> TensorId:
    hasher = ids.tensor_hasher()
    for data in _pieces(source, segment):
        hasher.update(data)
        advance(len(data))
    return TensorId(hasher.digest())


def _pieces(source: Source, segment: Segment) -> Iterator[bytes]:
    for start in range(0, segment.length, CHUNK_BYTES):
        yield read_exactly(source, segment.offset + start, min(CHUNK_BYTES, segment.length - start))


def _same_tensors(
    repository: Repository,
    stored: dict[FileId, _StoredFile],
    segments: Sequence[Segment],
    digests: Sequence[TensorId],
) -> Iterator[_StoredFile]:
    """Yield the stored files that consist of exactly these tensors, in whatever order and under whatever names."""
    wanted = Counter(digests)
    lengths = sorted(segment.length for segment in segments)
    reader = TensorReader(repository.store)
    with repository.store.read() as txn:
        numbers = {find_tensor(txn, digest, s.length) for digest, s in zip(digests, segments, strict=True)} - {None}
    for file in stored.values():
        with repository.store.read() as txn:
            data = txn.get("recipes", file.entry.file_id)
            # Large tensors stand alone: what does not hold every one that is known cannot be it.
            if data is None:
                continue
            recipe = Recipe.from_bytes(data, file.entry.file_id)
            if not recipe.is_whole or not numbers <= set(recipe.tensors):
                continue
            tensors = [tensor for tensor in read_inventory(txn, file.entry).tensors if tensor.is_understood]
        if sorted(tensor.nbytes for tensor in tensors) == lengths:
            found = Counter(
                reader.tensor_id(t) if t.alone else ids.tensor_id(reader.read(t, 0, t.nbytes)) for t in tensors
            )
            if found == wanted:
                yield file


class _Sample(NamedTuple):
    """Some elements of the file: the tensor's name, its dtype, how many elements it has in all, and the first ones."""

    name: str
    dtype: DType
    elements: int
    raw: bytes


def _nearest(
    repository: Repository,
    stored: dict[FileId, _StoredFile],
    source: Source,
    segments: Sequence[Segment],
    told: Progress,
) -> tuple[_StoredFile, Sums, float] | None:
    """Return the nearest stored file, how far it is, and how much of the file was compared."""
    named = dict(_named(segments))
    weights = [(name, segment) for name, segment in named.items() if segment.dtype.kind in ("float", "complex")]
    weights.sort(key=lambda item: (part_of(item[0]) != "weights", -item[1].length))
    samples = [
        _Sample(name, s.dtype, s.length // s.dtype.size, read_exactly(source, s.offset, min(CHUNK_BYTES, s.length)))
        for name, s in weights[:_SAMPLES]
    ]
    reader = TensorReader(repository.store)
    best: tuple[float, _StoredFile, Inventory] | None = None
    for place, file in enumerate(stored.values()):
        told("comparing", place, len(stored))
        with repository.store.read() as txn:
            inventory = read_inventory(txn, file.entry)
        if _share(inventory, named) < _COMPARABLE_SHARE:
            continue
        distance = _sampled(reader, inventory, samples)
        if distance is not None and (best is None or distance < best[0]):
            best = distance, file, inventory
    if best is None:
        return None
    _, file, inventory = best
    return file, _whole(reader, inventory, source, named), _share(inventory, named)


def _named(segments: Iterable[Segment]) -> Iterator[tuple[str, Segment]]:
    """Yield segments under the names that `read_inventory` gives them."""
    seen = Counter[str]()
    for segment in segments:
        name = segment.name or "(unnamed)"
        seen[name] += 1
        yield (name if seen[name] == 1 else f"{name}#{seen[name]}"), segment


def _comparable(inventory: Inventory, named: dict[str, Segment]) -> Iterator[tuple[FileTensor, Segment]]:
    for tensor in inventory.tensors:
        segment = named.get(tensor.name)
        if (
            segment is None
            or tensor.is_forgotten
            or tensor.nbytes % tensor.dtype.size
            or segment.length % segment.dtype.size
        ):
            continue
        if tensor.elements == segment.length // segment.dtype.size:
            yield tensor, segment


def _share(inventory: Inventory, named: dict[str, Segment]) -> float:
    total = sum(segment.length // segment.dtype.size for segment in named.values())
    return sum(tensor.elements for tensor, _ in _comparable(inventory, named)) / total if total else 0.0


def _sampled(reader: TensorReader, inventory: Inventory, samples: Sequence[_Sample]) -> float | None:
    """Return how far the samples are from a stored file, None if it has none of them or cannot be read."""
    tensors = {tensor.name: tensor for tensor in inventory.tensors}
    total = Sums()
    try:
        for sample in samples:
            tensor = tensors.get(sample.name)
            if tensor is None or tensor.is_forgotten or tensor.elements != sample.elements:
                continue
            count = min(len(sample.raw) // sample.dtype.size, CHUNK_BYTES // tensor.dtype.size)
            raw = reader.read(tensor, 0, count * tensor.dtype.size)
            total = total.plus(compare(raw, tensor.dtype, sample.raw[: count * sample.dtype.size], sample.dtype))
    except CorruptError:
        return None  # fsck's to report; the others may still be near
    return total.relative_l2


def _whole(reader: TensorReader, inventory: Inventory, source: Source, named: dict[str, Segment]) -> Sums:
    """Return the sums over every tensor that both have."""

    def jobs() -> Iterator[tuple[FileTensor, Segment, int, int]]:
        for tensor, segment in _comparable(inventory, named):
            step = CHUNK_BYTES // max(tensor.dtype.size, segment.dtype.size)
            for start in range(0, tensor.elements, step):
                yield tensor, segment, start, min(step, tensor.elements - start)

    def run(job: tuple[FileTensor, Segment, int, int]) -> tuple[FileTensor, int, bytes, Sums]:
        tensor, segment, start, count = job
        raw = reader.read(tensor, start * tensor.dtype.size, count * tensor.dtype.size)
        offset = segment.offset + start * segment.dtype.size
        given = read_exactly(source, offset, count * segment.dtype.size)
        return tensor, start + count, raw, compare(raw, tensor.dtype, given, segment.dtype)

    total = Sums()
    check: IdCheck | None = None
    for tensor, stop, raw, sums in in_order(run, jobs()):
        total = total.plus(sums)
        if tensor.alone:
            check = check or IdCheck(reader, tensor)
            check.update(raw)
            if stop == tensor.elements:
                check.finish()
                check = None
    return total
