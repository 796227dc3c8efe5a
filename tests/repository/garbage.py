"""What tests of garbage collection share: giving things up, and proving that nothing dangles afterwards."""

from __future__ import annotations

import time
from collections.abc import Iterable

from modelvault import wire
from modelvault.ids import CommitId, FileId
from modelvault.objects.payload import Payload
from modelvault.objects.recipe import PARTS, Recipe
from modelvault.objects.ref import Move, ReflogEntry
from modelvault.objects.tensor import TensorRecord, index_key, index_number
from modelvault.repository import history, refs
from modelvault.repository.fsck import check
from modelvault.repository.repository import Repository
from modelvault.store.base import TABLES, ReadTransaction, Table

from .vaults import files_of

DAY = 86_400.0
Entries = dict[tuple[Table, bytes], bytes]


def forget(
    repository: Repository, commits: Iterable[CommitId], parts: Iterable[str] = PARTS, *, days_ago: float = 0
) -> None:
    """Mark parts of commits forgotten, some time ago."""
    moment = int((time.time() - days_ago * DAY) * 1000)
    wanted = {PARTS.index(part) for part in parts}
    with repository.store.write(timeout=repository.lock_timeout) as txn:
        for commit_id in commits:
            payload = history.read_payload(txn, commit_id)
            forgotten = tuple(moment if n in wanted else old for n, old in enumerate(payload.forgotten))
            assert len(forgotten) == 3
            txn.put("payloads", commit_id, payload._replace(forgotten=forgotten).to_bytes(commit_id))


def move_ref(repository: Repository, ref: str, target: CommitId | None, *, days_ago: float = 0) -> None:
    """Set a ref, or delete it, some time ago."""
    with repository.store.write(timeout=repository.lock_timeout) as txn:
        refs.move(txn, "move", [Move(ref, target)], time_ms=int((time.time() - days_ago * DAY) * 1000))


def age_reflog(repository: Repository, days: float) -> None:
    """Make every entry of the reflog that much older."""
    with repository.store.write(timeout=repository.lock_timeout) as txn:
        for key, value in list(txn.scan("reflog")):
            entry = ReflogEntry.from_bytes(value)
            txn.put("reflog", key, entry._replace(time_ms=entry.time_ms - int(days * DAY * 1000)).to_bytes())


def entries(repository: Repository) -> Entries:
    """Return everything that is in a vault."""
    with repository.store.read() as txn:
        return {(table, key): value for table in TABLES for key, value in txn.scan(table)}


def assert_restores(repository: Repository, expected: dict[CommitId, dict[str, bytes]]) -> None:
    """Check that commits give back these very bytes, and that a full check finds nothing that hurts them."""
    for commit_id, files in expected.items():
        assert files_of(repository, commit_id) == files
    for problem in check(repository).problems:
        assert problem.commits and not expected.keys() & set(problem.commits), problem


def assert_tidy(repository: Repository, *, swept: bool = True) -> None:
    """Check that every reference in the vault resolves; after a gc, also that nothing is there without need."""
    with repository.store.read() as txn:
        records = {wire.read_sortable(key): TensorRecord.from_bytes(value) for key, value in txn.scan("tensors")}
        _check_depths(records)
        _check_packs(txn, records, swept)
        files = _check_commits(txn)
        templates, tensors = _check_recipes(txn, files, records, swept)
        stored = {wire.read_sortable(key) for key, _ in txn.sizes("templates")}
        assert templates <= stored
        for key, value in txn.scan("latest"):
            if swept:
                assert wire.read_sortable(value) in (stored if len(key) == 9 else records)
    if swept:
        assert templates == stored
        while references := {one for number in tensors for one in records[number].references} - tensors:
            tensors |= references
        assert tensors == records.keys()


def _check_depths(records: dict[int, TensorRecord]) -> None:
    true: dict[int, int] = {}
    for depth in range(17):
        ready = [number for number, record in records.items() if true.keys() >= set(record.references)]
        true |= {number: depth for number in ready if number not in true}
    assert {number: record.depth for number, record in records.items()} == true


def _check_packs(txn: ReadTransaction, records: dict[int, TensorRecord], swept: bool) -> None:
    index = {index_number(key): key for key, _ in txn.scan("index")}
    assert index == {number: index_key(record.tensor_id, number) for number, record in records.items()}
    packs = {wire.read_sortable(key): length for key, length in txn.sizes("packs")}
    frames = [frame for record in records.values() for frame in record.frames()]
    live = dict.fromkeys(packs, 0)
    end: dict[int, int] = {}
    for pack, offset, length in sorted(frames):
        assert end.get(pack, 0) <= offset and offset + length <= packs[pack]
        end[pack] = offset + length
        live[pack] += length
    for pack, length in packs.items():
        assert not swept or (length - live[pack]) * 8 < length, f"pack {pack}: {live[pack]} of {length} bytes are live"


def _check_commits(txn: ReadTransaction) -> dict[FileId, int]:
    """Return the files of all commits and which parts of them are to be there."""
    files: dict[FileId, int] = {}
    commits = {CommitId(key) for key, _ in txn.scan("commits")}
    assert commits == {CommitId(key) for key, _ in txn.scan("payloads")}
    for commit_id in commits:
        commit = history.read_commit(txn, commit_id)
        assert commits.issuperset(commit.parents)
        payload = Payload.from_bytes(txn.get("payloads", commit_id) or b"", commit_id)
        for entry in history.stood_in(commit, payload):
            kept = sum(1 << part for part, moment in enumerate(payload.forgotten) if not moment)
            files[entry.file_id] = files.get(entry.file_id, 0) | kept
    for prefix in (refs.BRANCHES, refs.TAGS):
        assert commits.issuperset(refs.list_refs(txn, prefix).values())
    for logged in refs.read_reflog(txn):
        assert commits.issuperset(target for _, target in logged.moves if target is not None)
    return files


def _check_recipes(
    txn: ReadTransaction, files: dict[FileId, int], records: dict[int, TensorRecord], swept: bool
) -> tuple[set[int], set[int]]:
    """Return the templates and tensors that recipes name."""
    templates, tensors = set[int](), set[int]()
    recipes = {FileId(key): Recipe.from_bytes(value, key) for key, value in txn.scan("recipes")}
    assert recipes.keys() >= {file_id for file_id, parts in files.items() if parts}
    for file_id, recipe in recipes.items():
        assert file_id in files or not swept
        for number, part in zip(recipe.tensors, recipe.parts, strict=True):
            assert number or not files.get(file_id, 0) >> part & 1
        templates.add(recipe.template)
        tensors.update(number for number in recipe.tensors if number)
    assert tensors <= records.keys()
    return templates, tensors
