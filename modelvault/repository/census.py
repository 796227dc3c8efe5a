"""What is live in a vault and what it takes. Light: records are read, no chunk is decoded.

Live is what a ref or a reflog entry leads to. Everything else (what a killed commit left behind, what forgotten
branches held) is what a gc could free.
"""

from __future__ import annotations

from dataclasses import dataclass

from modelvault import wire
from modelvault.ids import CommitId, FileId
from modelvault.objects.recipe import Recipe
from modelvault.objects.tensor import TensorRecord, index_key
from modelvault.repository import history, refs
from modelvault.store.base import TABLES, ReadTransaction

_FIXED_TABLES = ("meta", "refs", "reflog", "latest", "stats")
"""Tables whose entries are all live: they are small and belong to the vault, not to a commit."""


@dataclass(frozen=True, slots=True)
class Census:
    """What a vault holds.

    Attributes:
        commits: live commits.
        raw_bytes: sizes of the files of all live commits, added up.
        stored_bytes: bytes of the frames and records that live commits need, keys included.
        coded_bytes: those of them that are frames or codec parameters.
        keyframes: live chunks that need nothing else.
        deltas: live chunks that need a reference.
        depths: how many live tensors have each depth.
        reclaimable_bytes: bytes of frames, packs and records that nothing live needs.
    """

    commits: int
    raw_bytes: int
    stored_bytes: int
    coded_bytes: int
    keyframes: int
    deltas: int
    depths: dict[int, int]
    reclaimable_bytes: int

    @property
    def depth_mean(self) -> float:
        """Mean depth of the live tensors."""
        tensors = sum(self.depths.values())
        return sum(depth * count for depth, count in self.depths.items()) / tensors if tensors else 0.0

    @property
    def depth_max(self) -> int:
        """Depth of the deepest live tensor."""
        return max(self.depths, default=0)


def roots(txn: ReadTransaction) -> set[CommitId]:
    """Return the commits that refs and the reflog hold on to."""
    found = {target for prefix in (refs.BRANCHES, refs.TAGS) for target in refs.list_refs(txn, prefix).values()}
    tip = refs.head_commit(txn)
    if tip is not None:
        found.add(tip)
    for entry in refs.read_reflog(txn):
        found.update(target for _, target in entry.moves if target is not None)
    return found


def take_census(txn: ReadTransaction) -> Census:
    """Count everything, table by table.

    Raises:
        CorruptError: a record is damaged.
    """
    commits: set[CommitId] = set()
    files: set[FileId] = set()
    raw_bytes = 0
    for commit_id, commit in history.walk(txn, roots(txn)):
        commits.add(commit_id)
        files.update(entry.file_id for entry in commit.files)
        raw_bytes += commit.raw_bytes

    live = dead = coded = 0
    tensors: set[int] = set()
    templates: set[int] = set()
    for key, value in txn.scan("recipes"):
        if key in files:
            recipe = Recipe.from_bytes(value, key)
            tensors.update(recipe.tensors)
            templates.add(recipe.template)
            live += len(key) + len(value)
        else:
            dead += len(key) + len(value)

    bases: dict[int, int] = {}
    records: dict[int, tuple[int, int, int, int, int]] = {}  # frames, parameters, record, chunks, deltas
    depth_of: dict[int, int] = {}
    for key, value in txn.scan("tensors"):
        number, record = wire.read_sortable(key), TensorRecord.from_bytes(value)
        overhead = len(key) + len(value) + len(index_key(record.tensor_id, number)) - len(record.parameters)
        records[number] = record.stored_bytes, len(record.parameters), overhead, record.chunks, record.deltas
        bases[number], depth_of[number] = record.base, record.depth
    needed = _with_bases(tensors, bases)

    keyframes = deltas = live_frames = 0
    depths: dict[int, int] = {}
    for number, (frames, parameters, overhead, chunks, delta_chunks) in records.items():
        if number not in needed:
            dead += parameters + overhead
            continue
        live_frames += frames
        live += frames + parameters + overhead
        coded += frames + parameters
        keyframes += chunks - delta_chunks
        deltas += delta_chunks
        depths[depth_of[number]] = depths.get(depth_of[number], 0) + 1
    packed = keys = 0
    for key, length in txn.sizes("packs"):
        packed += length
        keys += len(key)
    live += keys
    dead += packed - live_frames

    for key, length in txn.sizes("templates"):
        if wire.read_sortable(key) in templates:
            live += len(key) + length
        else:
            dead += len(key) + length
    for table in ("commits", "payloads"):
        for key, length in txn.sizes(table):
            if key in commits:
                live += len(key) + length
            else:
                dead += len(key) + length
    for table in TABLES:
        if table in _FIXED_TABLES:
            live += sum(len(key) + length for key, length in txn.sizes(table))
    return Census(len(commits), raw_bytes, live, coded, keyframes, deltas, depths, dead)


def _with_bases(tensors: set[int], bases: dict[int, int]) -> set[int]:
    """Return these tensors and every reference their chains lead through."""
    needed: set[int] = set()
    for number in tensors:
        while number and number not in needed:
            needed.add(number)
            number = bases.get(number, 0)
    return needed
