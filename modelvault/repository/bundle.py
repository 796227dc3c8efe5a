"""Commits made into one file for somebody who has what came before: `bundle A..B`.

What the receiver has are the files of A, as a checkout gives them. Every tensor that is new since then is coded anew
against its predecessor among those and what the bundle holds already, decoded and compared; how this vault keeps it
plays no part, so a repack changes no bundle. The file appears whole or not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import NamedTuple

from modelvault import codec, ids, planner
from modelvault.errors import CorruptError, InputError, UsageError, WouldLoseDataError
from modelvault.ids import CommitId, FileId, TensorId
from modelvault.objects import bundle as index
from modelvault.objects.bundle import BaseFile, BaseTensor, Bundle, SentCommit, SentFile, SentTensor
from modelvault.objects.commit import Commit, FileEntry
from modelvault.objects.payload import Payload
from modelvault.objects.recipe import Recipe
from modelvault.objects.template import Template
from modelvault.repository import history, refs, retention, revisions
from modelvault.repository.candidates import Key, slot_keys
from modelvault.repository.checkout import read_recipe
from modelvault.repository.chunks import ChunkReader
from modelvault.repository.recode import encoded, parameters_against
from modelvault.repository.repository import Repository
from modelvault.repository.shapes import load_template
from modelvault.repository.worktree import Publisher
from modelvault.store.base import MAX_VALUE_BYTES, ReadTransaction

Progress = Callable[[str, int, int], None]


class Bundled(NamedTuple):
    """A bundle that was written.

    Attributes:
        nbytes: its length.
        raw_bytes: lengths of the files in it that the receiver does not have.
        commits: what it brings, oldest first.
        base: the commit whose files the receiver is to have, None if it needs nothing.
        modes: how the commits come: "lossless", "lossy abs 0.001", each once.
        refs: full names of the branches and tags in it.
    """

    nbytes: int
    raw_bytes: int
    commits: tuple[CommitId, ...]
    base: CommitId | None
    modes: tuple[str, ...]
    refs: tuple[str, ...]

    @property
    def mode(self) -> str:
        """How they come, for people: what must stand beside the ratio."""
        return ", ".join(self.modes)


class _Wanted(NamedTuple):
    """What goes into a bundle: commits with their payloads, oldest first; the commit it is based on; refs."""

    commits: list[tuple[CommitId, Commit, Payload]]
    base: CommitId | None
    refs: list[tuple[str, CommitId]]


def make_bundle(
    repository: Repository,
    text: str,
    target: Path,
    *,
    only_tip: bool = False,
    force: bool = False,
    progress: Progress | None = None,
) -> Bundled:
    """Write a bundle.

    Args:
        repository: the vault.
        text: `A..B`: what B descends from and A does not, for a receiver who has the files of A; or B with all before.
        target: the file to write.
        only_tip: send the bytes of B alone; of the commits between, only what they say.
        force: overwrite a file that is there.
        progress: told how far it is.

    Raises:
        UsageError: there is nothing between A and B.
        ForgottenError: the bytes of B, or of a part of it, were forgotten.
        WouldLoseDataError: the target is there. Nothing was written.
        CorruptError, InputError, NoSpaceError: as their docs say. Nothing was written.
    """
    if not force and target.exists():
        raise WouldLoseDataError(f"{str(target)!a} exists already", hint="choose another name, or --force")
    if target.is_dir():
        raise InputError(f"{str(target)!a} is a directory, a file is to be written there")
    with repository.store.read() as txn:
        wanted = _select(repository, txn, text)
        maker = _Maker(repository, wanted, only_tip, progress or (lambda *_: None))
        maker.look(txn)
    with Publisher() as publisher:
        publisher.prepare(target, maker.pieces(), 0, False)
        publisher.publish()
    return maker.bundled()


def _select(repository: Repository, txn: ReadTransaction, text: str) -> _Wanted:
    config = repository.config
    span = revisions.resolve_range(txn, text, config)
    excluded = history.ancestors(txn, span.exclude) if span.exclude else set()
    found = list(history.topological(txn, [span.include], excluded))[::-1] if span.include not in excluded else []
    if not found:
        raise UsageError(f"there is nothing in {text}", hint="bundle A..B takes what B has and A has not")
    commits = [(commit_id, commit, history.read_payload(txn, commit_id)) for commit_id, commit in found]
    last = text.rpartition("..")[2] or refs.HEAD
    head = refs.read_head(txn)
    if last in (refs.HEAD, "@") and head.detached is None:
        branch: str | None = head.branch
    else:
        branch = revisions.resolve(txn, last, config).branch
    names = [(refs.BRANCHES + branch, span.include)] if branch is not None else []
    sent = {commit_id for commit_id, _, _ in commits}
    names += [(refs.TAGS + name, at) for name, at in refs.list_refs(txn, refs.TAGS).items() if at in sent]
    return _Wanted(commits, span.exclude, names)


Versions = dict[str, dict[Key, TensorId]]
"""The tensors of a commit, by path and by what makes them comparable."""


class _Maker:
    """Makes one bundle, tensor by tensor."""

    def __init__(self, repository: Repository, wanted: _Wanted, only_tip: bool, progress: Progress) -> None:
        self._store, self._wanted, self._only_tip, self._progress = repository.store, wanted, only_tip, progress
        self._reader = ChunkReader(repository.store)
        self._templates: dict[bytes, int] = {}
        self._files: dict[FileId, tuple[Recipe, Template]] = {}
        self._held: dict[TensorId, tuple[int, int, int]] = {}  # base tensors: number in the vault, base file, slot
        self._base_entries: list[tuple[FileEntry, Recipe, Template]] = []
        self._base: Versions = {}
        self._used: dict[TensorId, None] = {}  # base tensors that are needed, in the order they were met
        self._sent: dict[TensorId, tuple[int, int, TensorId | None, SentTensor]] = {}
        self._nbytes = 0

    def look(self, txn: ReadTransaction) -> None:
        """Read the records of all that is to be sent.

        Raises:
            ForgottenError: the tip was forgotten.
        """
        commit_id, commit, payload = self._wanted.commits[-1]
        retention.check_kept(txn, commit_id, history.stood_in(commit, payload))
        for entry in self._base_files(txn):
            recipe = read_recipe(txn, entry.file_id)
            template = load_template(txn, recipe)
            for slot, number in enumerate(recipe.tensors):
                tensor_id = self._reader.record(number).tensor_id
                self._held.setdefault(tensor_id, (number, len(self._base_entries), slot))
            self._base_entries.append((entry, recipe, template))
        for _, commit, payload in self._wanted.commits:
            for entry in history.stood_in(commit, payload) if self._brings_bytes(payload, commit) else ():
                recipe = read_recipe(txn, entry.file_id)
                self._files[entry.file_id] = recipe, load_template(txn, recipe)

    def _base_files(self, txn: ReadTransaction) -> Iterator[FileEntry]:
        """Yield the files that the receiver is to have; none of what was forgotten."""
        base = self._wanted.base
        if base is not None:
            payload = history.read_payload(txn, base)
            for entry in history.stood_in(history.read_commit(txn, base), payload):
                if not any(payload.forgotten) and retention.is_held(txn, entry.file_id):
                    yield entry

    def _brings_bytes(self, payload: Payload, commit: Commit) -> bool:
        is_tip = commit is self._wanted.commits[-1][1]
        return is_tip or not (self._only_tip or any(payload.forgotten))

    def pieces(self) -> Generator[bytes, None, None]:
        """Yield the bundle's bytes."""
        hasher = ids.file_hasher()
        for data in self._body():
            hasher.update(data)
            self._nbytes += len(data)
            yield data
        digest = hasher.digest()
        self._nbytes += len(digest)
        yield digest

    def _body(self) -> Iterator[bytes]:
        yield index.MAGIC + bytes((index.VERSION,))
        total = sum(recipe.size for recipe, _ in self._files.values())
        done = 0
        versions: dict[CommitId, Versions] = {}
        for entry, recipe, template in self._base_entries:
            self._base[entry.path] = self._version(recipe, template)
        if self._wanted.base is not None:
            versions[self._wanted.base] = self._base
        placed: set[FileId] = set()
        for commit_id, commit, payload in self._wanted.commits:
            before = versions.get(commit.parents[0], {}) if commit.parents else {}
            if not self._brings_bytes(payload, commit):
                versions[commit_id] = before  # what follows leans on what came before
                continue
            mine = versions[commit_id] = {}
            for entry in history.stood_in(commit, payload):
                recipe, template = self._files[entry.file_id]
                mine[entry.path] = self._version(recipe, template)
                if entry.file_id not in placed:
                    placed.add(entry.file_id)
                    for number, key in zip(recipe.tensors, slot_keys(template), strict=True):
                        yield from self._tensor(number, key, before, entry.path)
                    done += recipe.size
                    self._progress("bundling", done, total)
        made = self._index()
        data = made.to_bytes()
        if len(data) > MAX_VALUE_BYTES:
            raise InputError("this is too much for one bundle", hint="make several, of fewer commits each")
        if Bundle.from_bytes(data) != made:
            raise CorruptError("the bundle's index did not survive; nothing was written")
        packed = codec.pack(data)
        yield packed
        yield len(packed).to_bytes(8, "little")

    def _version(self, recipe: Recipe, template: Template) -> dict[Key, TensorId]:
        found: dict[Key, TensorId] = {}
        for number, key in zip(recipe.tensors, slot_keys(template), strict=True):
            found.setdefault(key, self._reader.record(number).tensor_id)
        return found

    def _tensor(self, number: int, key: Key, before: Versions, path: str) -> Iterator[bytes]:
        """Yield the frames of a tensor that neither the receiver has nor the bundle yet."""
        record = self._reader.record(number)
        tensor_id = record.tensor_id
        if tensor_id in self._held:
            self._used[tensor_id] = None
            return
        if tensor_id in self._sent:
            return
        base, depth = self._reference(key, before, path)
        vault_base = self._held[base][0] if base in self._held else self._sent[base][0] if base is not None else 0
        parameters = parameters_against(self._reader, number, vault_base)
        lengths, deltas = [], 0
        for frame in encoded(self._store, number, vault_base, parameters, self._reader, check=True):
            lengths.append(len(frame))
            deltas += codec.is_delta(frame)
            yield frame
        if not deltas:
            base, depth, parameters = None, 0, codec.Parameters(parameters.dtype)
        if base in self._held:
            self._used[base] = None
        sent = SentTensor(tensor_id, record.nbytes, parameters.to_bytes(), 0, tuple(lengths))
        self._sent[tensor_id] = number, depth, base, sent

    def _reference(self, key: Key, before: Versions, path: str) -> tuple[TensorId | None, int]:
        """Return what a tensor is to lean on, and how deep it is then: its predecessor, or what the receiver has."""
        for version in (before, self._base):
            for name in sorted(version, key=lambda name: name != path):
                found = version[name].get(key)
                if found in self._held:
                    return found, 1
                if found in self._sent and self._sent[found][1] < planner.MAX_DEPTH:
                    return found, self._sent[found][1] + 1
        return None, 0

    def _index(self) -> Bundle:
        numbers = {tensor_id: number for number, tensor_id in enumerate((*self._used, *self._sent), start=1)}
        base_files: list[BaseFile] = []
        given: list[BaseTensor] = []
        places: dict[int, int] = {}
        for tensor_id in self._used:
            number, place, slot = self._held[tensor_id]
            if place not in places:
                places[place] = len(base_files)
                entry, recipe, template = self._base_entries[place]
                base_files.append(
                    BaseFile(entry.path, entry.file_id, entry.size, self._template(template), recipe.stem)
                )
            given.append(BaseTensor(tensor_id, self._reader.record(number).nbytes, places[place], slot))
        tensors = tuple(
            sent._replace(base=numbers[base] if base is not None else 0) for _, _, base, sent in self._sent.values()
        )
        files = tuple(
            SentFile(
                file_id,
                recipe.size,
                self._template(template),
                recipe.stem,
                tuple(numbers[self._reader.record(number).tensor_id] for number in recipe.tensors),
            )
            for file_id, (recipe, template) in self._files.items()
        )
        commits, places_of = [], {}
        for place, (commit_id, commit, payload) in enumerate(self._wanted.commits):
            places_of[commit_id] = place
            mode = index.WITHOUT_BYTES
            if self._brings_bytes(payload, commit):
                mode = index.EXACT if payload.lossy is None else index.LOSSY
            commits.append(SentCommit(commit.to_bytes(), mode, payload.lossy if mode == index.LOSSY else None))
        names = tuple((name, places_of[at]) for name, at in self._wanted.refs)
        templates = tuple(self._templates)
        return Bundle(templates, tuple(base_files), tuple(given), tensors, files, tuple(commits), names)

    def _template(self, template: Template) -> int:
        return self._templates.setdefault(template.to_bytes(), len(self._templates))

    def bundled(self) -> Bundled:
        """Return what was made, once all pieces were yielded."""
        had = {entry.file_id for entry, _, _ in self._base_entries}
        brings = [payload for _, commit, payload in self._wanted.commits if self._brings_bytes(payload, commit)]
        return Bundled(
            self._nbytes,
            sum(recipe.size for file_id, (recipe, _) in self._files.items() if file_id not in had),
            tuple(commit_id for commit_id, _, _ in self._wanted.commits),
            self._wanted.base,
            tuple(dict.fromkeys(payload.mode_name for payload in brings)),
            tuple(name for name, _ in self._wanted.refs),
        )
