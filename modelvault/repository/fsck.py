"""Every object proved readable, and what each damaged one hurts.

Records are checked by checksum and structure, commits by their ids, and every tensor is decoded and compared with its
id. Tensors that lean on one another are decoded together, chunk by chunk: keyframes first, then all that lean on them,
so that each chunk of the vault is decoded once, however deep the chains are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Set
from typing import NamedTuple

from modelvault import codec, ids, wire
from modelvault.errors import CorruptError, ModelVaultError
from modelvault.ids import CommitId, FileId, TensorId
from modelvault.objects.commit import Commit
from modelvault.objects.recipe import PARTS, Recipe
from modelvault.objects.tensor import TensorRecord, index_key
from modelvault.repository import history, refs
from modelvault.repository.chunks import ChunkReader, TensorDamagedError
from modelvault.repository.damage import commits_hurt_by, files_hurt_by
from modelvault.repository.names import check_path
from modelvault.repository.repository import Repository
from modelvault.repository.retention import ALL_PARTS
from modelvault.repository.shapes import load_template, read_template_bytes
from modelvault.repository.sketches import Mark
from modelvault.store.base import ReadTransaction
from modelvault.tensors import CHUNK_BYTES

Progress = Callable[[str, int, int], None]


class Problem(NamedTuple):
    """One damaged or missing object: what it is, what is wrong with it, and the commits it hurts, newest first."""

    what: str
    why: str
    commits: tuple[CommitId, ...]


class Findings(NamedTuple):
    """What was checked and what is wrong."""

    commits: int
    files: int
    tensors: int
    bytes_decoded: int
    problems: tuple[Problem, ...]


def check(repository: Repository, *, quick: bool = False, progress: Progress | None = None) -> Findings:
    """Check the whole vault.

    Args:
        repository: the vault.
        quick: records only; no tensor is decoded.
        progress: told how far it is.
    """
    return _Check(repository, progress or (lambda *_: None)).run(quick)


class _Check:
    def __init__(self, repository: Repository, progress: Progress) -> None:
        self._store, self._progress = repository.store, progress
        self._lock_timeout = repository.lock_timeout
        self._problems: list[Problem] = []
        self._records: dict[int, TensorRecord] = {}
        self._decoded = 0
        self._kept: dict[FileId, set[int]] = {}  # of each file, the parts that some commit keeps

    def run(self, quick: bool) -> Findings:
        broken = self._store.structure_problems(timeout=self._lock_timeout)
        if broken:
            # Reading on through broken pages may end the process: the contents are not looked at.
            for problem in broken[:20]:
                self._report("database", problem, [])
            return Findings(0, 0, 0, 0, tuple(self._problems))
        with self._store.read() as txn:
            commits, files = self._check_commits(txn)
            self._check_refs(txn, commits)
            self._check_tensor_records(txn)
            self._check_files(txn, files)
            self._check_sketches(txn)
        if not quick:
            with self._store.kept_open():
                bad = {number: why for number, why in self._decode_all().items() if self._is_still_bad(number)}
            with self._store.read() as txn:
                for number in sorted(bad):
                    self._report(f"tensor {number}", bad[number], commits_hurt_by(txn, {number}, set()))
        return Findings(len(commits), len(files), len(self._records), self._decoded, tuple(self._problems))

    def _report(self, what: str, why: str, commits: Iterable[CommitId]) -> None:
        self._problems.append(Problem(what, why, tuple(commits)))

    def _check_commits(self, txn: ReadTransaction) -> tuple[dict[CommitId, Commit], dict[FileId, int]]:
        """Check commits; return them, and the size of every file that is to be kept for one."""
        commits: dict[CommitId, Commit] = {}
        sizes: dict[FileId, int] = {}
        for key, value in txn.scan("commits"):
            commit_id = CommitId(key)
            try:
                if ids.commit_id(value) != commit_id:
                    raise CorruptError("its bytes do not match its id")
                commits[commit_id] = Commit.from_bytes(value)
                payload = history.read_payload(txn, commit_id)
                kept = {part for part, moment in enumerate(payload.forgotten) if not moment}
                stored = history.stood_in(commits[commit_id], payload)
                for entry in stored:
                    sizes[entry.file_id] = entry.size
                    self._kept.setdefault(entry.file_id, set()).update(kept)
                for entry in commits[commit_id].files:
                    check_path(entry.path)
            except ModelVaultError as error:
                self._report(f"commit {commit_id.hex()[:16]}", str(error), [commit_id])
        for commit_id, commit in commits.items():
            for parent in commit.parents:
                if parent not in commits:
                    self._report(
                        f"commit {parent.hex()[:16]}",
                        "it is missing, or damaged, but is a parent",
                        [commit_id],
                    )
        return commits, sizes

    def _check_refs(self, txn: ReadTransaction, commits: dict[CommitId, Commit]) -> None:
        for key, _ in txn.scan("refs"):
            name = key.decode("utf-8", "surrogateescape")
            try:
                target = refs.read_head(txn).detached if name == refs.HEAD else refs.read_ref(txn, name)
            except CorruptError as error:
                self._report(f"ref {name}", str(error), [])
                continue
            if target is not None and target not in commits:
                self._report(f"ref {name}", f"it points at {target.hex()[:16]}, which is not there", [])
        try:
            for entry in refs.read_reflog(txn):
                del entry
        except CorruptError as error:
            self._report("reflog", str(error), [])

    def _check_tensor_records(self, txn: ReadTransaction) -> None:
        for key, value in txn.scan("tensors"):
            try:
                number = wire.read_sortable(key)
                record = TensorRecord.from_bytes(value)
                codec.Parameters.from_bytes(record.parameters)
                if record.chunks != -(-record.nbytes // CHUNK_BYTES):
                    raise CorruptError(f"{record.chunks} chunks for {record.nbytes} bytes")
                self._records[number] = record
            except CorruptError as error:
                self._report(f"tensor {key[1:].hex()}", f"its record is damaged: {error}", self._hurt(txn, key))
        for number, record in self._records.items():
            why = ""
            if txn.get("index", index_key(record.tensor_id, number)) is None:
                why = "it has no index entry"
            wanted = codec.Parameters.from_bytes(record.parameters).references
            if len(record.references) < wanted:
                why = f"its predictors need {wanted} references, its record names {len(record.references)}"
            for reference in record.references:
                base = self._records.get(reference)
                if base is None:
                    why = f"its reference, tensor {reference}, is missing or damaged"
                elif base.nbytes != record.nbytes or record.depth <= base.depth:
                    why = f"its reference, tensor {reference}, does not fit it"
            if why:
                self._report(f"tensor {number}", why, commits_hurt_by(txn, {number}, set()))

    @staticmethod
    def _hurt(txn: ReadTransaction, key: bytes) -> list[CommitId]:
        try:
            return commits_hurt_by(txn, {wire.read_sortable(key)}, set())
        except CorruptError:
            return []

    def _check_files(self, txn: ReadTransaction, sizes: dict[FileId, int]) -> None:
        damaged_templates: dict[int, str] = {}
        for key, _ in txn.scan("templates"):
            number = wire.read_sortable(key)
            try:
                read_template_bytes(txn, number)
            except CorruptError as error:
                damaged_templates[number] = str(error)
        for number, why in damaged_templates.items():
            self._report(f"template {number}", why, commits_hurt_by(txn, set(), files_hurt_by(txn, set(), {number})))
        for file_id in sorted(sizes):
            try:
                data = txn.get("recipes", file_id)
                if data is None and not self._kept.get(file_id, ALL_PARTS):
                    continue  # all commits that had it have forgotten it, and gc took it
                if data is None:
                    raise CorruptError("its recipe is missing")
                recipe = Recipe.from_bytes(data, file_id)
                if recipe.template in damaged_templates:
                    continue  # said already
                self._check_recipe(txn, recipe, sizes[file_id], self._kept.get(file_id, ALL_PARTS))
            except CorruptError as error:
                self._report(f"file {file_id.hex()[:16]}", str(error), commits_hurt_by(txn, set(), {file_id}))

    def _check_recipe(self, txn: ReadTransaction, recipe: Recipe, size: int, kept: Set[int]) -> None:
        template = load_template(txn, recipe)
        lengths = [0] * template.slots
        for segment in template.segments:
            lengths[segment.slot] += segment.length
        for slot, number in enumerate(recipe.tensors):
            if not number:
                if recipe.parts[slot] in kept:
                    raise CorruptError(f"its {PARTS[recipe.parts[slot]]} part was given up, but a commit keeps it")
                continue
            record = self._records.get(number)
            if record is None:
                raise CorruptError(f"tensor {number} is missing or damaged")
            if record.nbytes != lengths[slot]:
                raise CorruptError(f"tensor {number} has {record.nbytes} bytes, {lengths[slot]} are wanted")
        stems = template.kinds.count(1) * len(recipe.stem)
        total = sum(lengths) + len(template.skeleton) + stems + 4 * len(template.checks)
        if not total == recipe.size == size:
            raise CorruptError(f"its recipe yields {total} bytes, {size} were committed")

    def _check_sketches(self, txn: ReadTransaction) -> None:
        """Check that hashes lead to tensors. Nothing is restored by them: no commit is hurt."""
        bad = 0
        for _, value in txn.scan("sketches"):
            try:
                bad += any(txn.view("tensors", wire.sortable(number)) is None for number in Mark.from_bytes(value))
            except wire.WireError:
                bad += 1
        if bad:
            self._report("table sketches", f"{bad} entries lead to no tensor; modelvault gc takes them out", [])

    def _decode_all(self) -> dict[int, str]:
        """Decode every tensor; return number -> what is wrong with it."""
        total = sum(record.nbytes for record in self._records.values())
        bad: dict[int, str] = {}
        for group in self._groups():
            self._decode_group(group, total, bad)
        return bad

    def _groups(self) -> list[list[int]]:
        """Return the tensors that lean on one another, group by group, each after its references.

        What leans on something that is missing, or on itself, is in none: its record has been reported.
        """
        children: dict[int, list[int]] = {}
        above: dict[int, int] = {}
        waiting = {number: set(record.references) for number, record in self._records.items()}

        def top(number: int) -> int:
            while above.setdefault(number, number) != number:
                above[number] = above[above[number]]
                number = above[number]
            return number

        for number, references in waiting.items():
            for reference in references:
                children.setdefault(reference, []).append(number)
                above[top(number)] = top(reference)
        groups: dict[int, list[int]] = {}
        ready = [number for number, references in waiting.items() if not references]
        while ready:
            number = ready.pop()
            groups.setdefault(top(number), []).append(number)
            for child in children.get(number, ()):
                waiting[child].discard(number)
                if not waiting[child]:
                    ready.append(child)
        return list(groups.values())

    def _decode_group(self, group: list[int], total: int, bad: dict[int, str]) -> None:
        """Decode all tensors of one group."""
        hashers = {number: ids.tensor_hasher() for number in group}
        frames = {number: self._records[number].frames() for number in group}
        uses = Counter(reference for number in group for reference in self._records[number].references)
        orphaned: set[int] = set()  # what leans on something bad is not itself a finding
        for place in range(max(self._records[number].chunks for number in group)):
            left, known = uses.copy(), dict[int, bytes | None]()
            for number in group:
                references = self._records[number].references
                if place < len(frames[number]):
                    raw = None
                    try:
                        raw = self._decode(number, place, frames[number][place], [known.get(one) for one in references])
                        if raw is None:
                            orphaned.add(number)
                        else:
                            hashers[number].update(raw)
                    except CorruptError as error:
                        bad.setdefault(number, f"chunk {place}: {error}")
                    if left[number]:
                        known[number] = raw
                left.subtract(references)
                for one in references:
                    if not left[one]:
                        known.pop(one, None)
            self._progress("checking", self._decoded, total)
        for number, hasher in hashers.items():
            wrong = TensorId(hasher.digest()) != self._records[number].tensor_id
            if wrong and number not in bad and number not in orphaned:
                bad[number] = "its bytes do not match its id"

    def _is_still_bad(self, number: int) -> bool:
        """Read a tensor again, by its record as it is now: a gc may have moved it while we were reading."""
        try:
            reader = ChunkReader(self._store)
            record = reader.record(number)
            hasher = ids.tensor_hasher()
            for place in range(record.chunks):
                hasher.update(reader.chunk(number, place))
        except TensorDamagedError:
            with self._store.read() as txn:
                return txn.get("tensors", wire.sortable(number)) is not None
        return hasher.digest() != record.tensor_id

    def _decode(
        self, number: int, place: int, where: tuple[int, int, int], references: list[bytes | None]
    ) -> bytes | None:
        """Return one raw chunk, None if it needs a reference that is damaged."""
        record, (pack, offset, length) = self._records[number], where
        size = min(CHUNK_BYTES, record.nbytes - place * CHUNK_BYTES)
        self._decoded += size
        with self._store.read() as txn:
            value = txn.view("packs", wire.sortable(pack))
            if value is None or offset + length > len(value):
                raise CorruptError(f"pack {pack} is missing or short")
            frame = bytes(value[offset : offset + length])
            del value
        needed = codec.references_of(frame, len(references))
        if not needed and codec.is_delta(frame):
            raise CorruptError("it is a delta but no reference is recorded")
        present = [raw for raw in references[:needed] if raw is not None]
        if len(present) < needed:
            return None
        return codec.decode_chunk(frame, size, codec.Parameters.from_bytes(record.parameters), present)
