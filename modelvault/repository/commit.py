"""Files to a commit, durably: read, cut, encode, verify, and then one last transaction.

Everything large is written before anything refers to it, in transactions of bounded size, with no lock held while
compressing. The last transaction, which takes what is left of it, is optimistic: it checks under the write lock that
what the recipes rely on is there, reads the branch again, and only then forms the commit with the parent it finds.
Racing commits to one branch become children of one another. Killed at any moment, a commit is there whole or not at
all; what it wrote before that is unreferenced and goes with the next gc.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Callable, Container, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

from modelvault import ids, wire
from modelvault.checkpoint import FileSource
from modelvault.errors import CorruptError, FileChangedError, UsageError
from modelvault.ids import CommitId, TensorId
from modelvault.objects.commit import Commit, FileEntry
from modelvault.objects.payload import EXACT, LOSSY, Payload
from modelvault.objects.recipe import PARTS, Recipe
from modelvault.objects.ref import Head, Move
from modelvault.objects.template import Template
from modelvault.objects.tensor import TensorRecord
from modelvault.repository import history, refs
from modelvault.repository.bases import Bases, Work, read_range, restoring_of
from modelvault.repository.candidates import Candidates, remember, slot_keys
from modelvault.repository.chunks import ChunkReader
from modelvault.repository.collect import Named, collect
from modelvault.repository.config import author_of
from modelvault.repository.cuts import opaque_pieces
from modelvault.repository.dissect import dissect
from modelvault.repository.encode import Encoder, RaceLostError, find_tensor
from modelvault.repository.lossy import LossyRequest, StandIns, stand_ins
from modelvault.repository.names import check_ref, slug
from modelvault.repository.packs import next_number
from modelvault.repository.repository import Repository
from modelvault.repository.retention import is_held
from modelvault.repository.shapes import Shape, load_template, place, shape_of
from modelvault.repository.sketches import sketch_enough
from modelvault.repository.worktree import open_regular
from modelvault.store.base import ReadTransaction, WriteTransaction

_ATTEMPTS = 3
"""How often a commit is made again because something it relied on was removed or re-encoded meanwhile."""

Progress = Callable[[str, int, int], None]
"""Told what is being done, how many bytes of it are done, and how many there are."""


@dataclass(frozen=True, slots=True)
class Request:
    """What the user asks to be committed.

    Attributes:
        paths: files and directories on disk.
        message: what to say about it; its first line is the subject.
        tag: a tag to put on it, or None.
        step: the training step, or None.
        metrics: measured values by name.
        meta: free text by name.
        lossy: how to round, None to keep every bit.
    """

    paths: Sequence[Path]
    message: str
    tag: str | None = None
    step: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    meta: Mapping[str, str] = field(default_factory=dict)
    lossy: LossyRequest | None = None


class Committed(NamedTuple):
    """A commit that is durable.

    Attributes:
        commit_id: its id.
        commit: what it says.
        payload: what it cost.
        branch: the branch it is on.
        opened: whether that branch was opened for it, because HEAD was detached.
        unchanged: whether every file was in the parent already, byte for byte.
        outside: paths that lie outside the vault's root and were recorded by their bare name.
        notes: what was noticed about a file, "path: note".
    """

    commit_id: CommitId
    commit: Commit
    payload: Payload
    branch: str
    opened: bool
    unchanged: bool
    outside: tuple[str, ...]
    notes: tuple[str, ...]


class Taken(NamedTuple):
    """A file whose tensors are encoded. `recipe` names them once they are settled; it is None for one that is held."""

    entry: FileEntry
    recipe: Recipe | None
    shape: Shape | None
    template: Template | None
    ids: tuple[TensorId, ...]

    def settled(self, numbers: Mapping[TensorId, int]) -> Taken:
        """Return it with the numbers that its tensors have got."""
        if self.recipe is None:
            return self
        return self._replace(recipe=self.recipe._replace(tensors=tuple(numbers[one] for one in self.ids)))


def make_commit(repository: Repository, request: Request, progress: Progress | None = None) -> Committed:
    """Commit files.

    Raises:
        UsageError: an empty message, no path, a bad tag or metric name, a tag that exists.
        InputError: a file that cannot be read, or changed while it was read.
        LockedError, NoSpaceError, CorruptError: as their docs say. Nothing was committed then.
    """
    _check_request(request)
    named = list(collect(repository.root, request.paths))
    if request.tag is not None:
        with repository.store.read() as txn:
            _check_tag_is_free(txn, request.tag)
    told = progress or (lambda *_: None)
    outside = tuple(str(item.on_disk) for item in named if item.outside)
    if request.lossy is None:
        return _commit(repository, request, StandIns(named, {}, None), told)._replace(outside=outside)
    with repository.store.read() as txn:
        parents = parent_files(txn, refs.head_commit(txn))
    with stand_ins(repository, named, request.lossy, parents, told) as made:
        return _commit(repository, request, made, told)._replace(outside=outside)


def _commit(repository: Repository, request: Request, files: StandIns, progress: Progress) -> Committed:
    for attempt in range(_ATTEMPTS):
        try:
            return _attempt(repository, request, files, progress)
        except RaceLostError as error:
            if attempt == _ATTEMPTS - 1:
                raise CorruptError(
                    f"gave up after {_ATTEMPTS} attempts: {error}",
                    hint="run modelvault fsck, then commit again",
                ) from None
    raise AssertionError("unreachable")


def _check_request(request: Request) -> None:
    if not request.message.strip():
        raise UsageError("the message is empty", hint='say what this is: -m "epoch 40"')
    if not request.paths:
        raise UsageError("no file to commit", hint="modelvault commit FILE... -m MESSAGE")
    for what, names in (("metric", request.metrics), ("metadata key", request.meta)):
        for name in names:
            if not name or any(ord(letter) < 32 for letter in name):
                raise UsageError(f"{name!a} cannot be the name of a {what}")
    if request.tag is not None:
        check_ref(request.tag, "tag")
    if request.lossy is not None:
        request.lossy.check()


def _check_tag_is_free(txn: ReadTransaction, tag: str) -> None:
    target = refs.read_ref(txn, refs.TAGS + tag)
    if target is not None:
        raise UsageError(
            f"tag {tag} exists already, on {history.shorten(txn, target)}",
            hint="choose another name, or move it afterwards: modelvault tag --force",
        )


def _attempt(repository: Repository, request: Request, files: StandIns, progress: Progress) -> Committed:
    store, named = repository.store, files.named
    with store.read() as txn:
        floors = {table: next_number(txn, table) for table in ("tensors", "packs", "templates")}
        parent_id = refs.head_commit(txn)
        parents = parent_files(txn, parent_id)
    done, total = 0, 2 * sum(_size_of(item.on_disk) for item in named)  # each file is read twice

    def advance(count: int) -> None:
        nonlocal done
        done += count
        progress("storing", done, total)

    def write_batch(write: Callable[[WriteTransaction], None]) -> None:
        with store.write(timeout=repository.lock_timeout, waiting=repository.waiting) as txn:
            write(txn)

    with store.open_session(floors):
        reader = ChunkReader(store)
        restoring = restoring_of(repository.config, total // 2)
        encoder = Encoder(reader, write_batch, advance, Bases(store, reader, restoring))
        notes: list[str] = []
        with ThreadPoolExecutor(1) as asking:  # git, perhaps, which takes 3 ms
            author = asking.submit(author_of, repository.config, repository.root)
            taken = [take(repository, item, encoder, parents, advance, notes) for item in named]
            progress("storing", total, total)
            return _publish(repository, request, files, taken, encoder, notes, author.result())


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0  # said properly when it is opened


def parent_files(txn: ReadTransaction, parent_id: CommitId | None) -> dict[str, tuple[Template, Recipe]]:
    """Return template and recipe of each of the parent's files that a new one might resemble."""
    files: dict[str, tuple[Template, Recipe]] = {}
    if parent_id is not None:
        for entry in history.kept_files(txn, parent_id, history.read_commit(txn, parent_id)):
            data = txn.get("recipes", entry.file_id)
            if data is None:
                continue
            # A damaged parent is fsck's to report; it must not keep new work from being saved.
            with contextlib.suppress(CorruptError):
                recipe = Recipe.from_bytes(data, entry.file_id)
                files[entry.path] = load_template(txn, recipe), recipe
    return files


def take(
    repository: Repository,
    item: Named,
    encoder: Encoder,
    parents: Mapping[str, tuple[Template, Recipe]],
    advance: Callable[[int], None],
    notes: list[str],
    avoid: Container[int] | None = None,
) -> Taken:
    """Cut one file up and encode its new tensors.

    Args:
        repository: the vault.
        item: the file.
        encoder: stores them.
        parents: template and recipe of files that it may resemble, by path.
        advance: told how many bytes were dealt with.
        notes: takes what was noticed.
        avoid: tensors that are about to go, and no references therefore.

    Raises:
        FileChangedError: the file changed while it was read.
    """
    with open_regular(item.on_disk) as descriptor:
        before = os.fstat(descriptor)
        source = FileSource(descriptor)
        try:
            parent = parents.get(item.path)
            same_size = parent is not None and parent[1].size == source.size
            found = dissect(source, advance, opaque_pieces(parent[0], parent[1].stem) if parent and same_size else ())
            encoder.settle()  # the file before this one: it may have the same tensors, or some to lean on
            works, template = [], found.template
            notes.extend(f"{item.path}: {note}" for note in found.notes)
            with repository.store.read() as txn:
                others = [parents[path] for path in parents if path != item.path]
                candidates = Candidates(parent, others, avoid)
                wanted = set[TensorId]()
                for slot, key in zip(found.slots, slot_keys(template), strict=True):
                    if slot.tensor_id in encoder.numbers or slot.tensor_id in wanted:
                        continue
                    number = find_tensor(txn, slot.tensor_id, slot.nbytes)
                    if number is not None:
                        encoder.numbers[slot.tensor_id] = number
                        continue
                    wanted.add(slot.tensor_id)
                    work = Work(slot, source, candidates.of(txn, key))
                    sketch = sketch_enough(txn, slot.dtype, slot.nbytes, partial(read_range, work))
                    works.append(work._replace(sketch=sketch))
                shape = shape_of(txn, template, parent[1] if parent else None)
            encoder.store(works)
            # The file's id is asked for no sooner, because it takes longest. Of a file that is held nothing was new.
            entry = FileEntry(item.path, found.size, bool(before.st_mode & stat.S_IXUSR), found.file_id)
            with repository.store.read() as txn:
                if is_held(txn, found.file_id):
                    advance(found.size)
                    return Taken(entry, None, None, None, ())
        except FileChangedError as error:
            raise FileChangedError(
                f"{item.path}: {error.message}; nothing was committed",
                hint="commit it when nothing writes to it",
            ) from None
        after = os.fstat(descriptor)
    if (before.st_size, before.st_mtime_ns) != (
        after.st_size,
        after.st_mtime_ns,
    ) or after.st_size != found.size:
        raise FileChangedError(
            f"{item.path}: the file changed while it was read; nothing was committed",
            hint="commit it when nothing writes to it",
        )
    parts = bytes(PARTS.index(slot.part) for slot in found.slots)
    recipe = Recipe(found.size, shape.number, shape.patch, found.stem, (), parts)
    return Taken(entry, recipe, shape, template, tuple(slot.tensor_id for slot in found.slots))


def _publish(
    repository: Repository,
    request: Request,
    files: StandIns,
    taken: list[Taken],
    encoder: Encoder,
    notes: list[str],
    author: str,
) -> Committed:
    """Make the commit visible: the last transaction."""
    with repository.store.write(timeout=repository.lock_timeout, waiting=repository.waiting) as txn:
        head = refs.read_head(txn)
        parent = refs.head_commit(txn)
        branch, opened = head.branch, head.detached is not None
        if head.detached is not None:
            branch = _free_branch(txn, slug(history.read_commit(txn, head.detached).subject) or "commit")
        if request.tag is not None:
            _check_tag_is_free(txn, request.tag)

        encoder.settle(txn)
        added, depth = encoder.tally.added_bytes, 0
        new_templates: dict[bytes, int] = {}
        for file in taken:
            file_added, file_depth = place_file(txn, file.settled(encoder.numbers), new_templates)
            added += file_added
            depth = max(depth, file_depth)

        now = time.time_ns() // 1_000_000
        commit = Commit(
            (parent,) if parent is not None else (),
            now,
            (time.localtime(now // 1000).tm_gmtoff or 0) // 60,
            author,
            request.message,
            tuple(
                sorted(
                    (files.originals.get(file.entry.path, file.entry) for file in taken),
                    key=lambda entry: entry.path.encode(),
                )
            ),
            request.step,
            dict(request.metrics),
            dict(request.meta),
        )
        unchanged = parent is not None and history.read_commit(txn, parent).files == commit.files
        data = commit.to_bytes()
        commit_id = ids.commit_id(data)
        added += len(data) + len(commit_id)
        tally, mode = encoder.tally, EXACT if files.lossy is None else LOSSY
        payload = Payload(mode, added, tally.keyframes, tally.deltas, depth, lossy=files.lossy)
        txn.put("commits", commit_id, data)
        txn.put("payloads", commit_id, payload.to_bytes(commit_id))
        moves = [Move(refs.BRANCHES + branch, commit_id)]
        if request.tag is not None:
            moves.append(Move(refs.TAGS + request.tag, commit_id))
        refs.move(txn, "commit", moves, head=Head(branch) if opened else None, time_ms=now)
    return Committed(commit_id, commit, payload, branch, opened, unchanged, (), tuple(notes))


def place_file(txn: WriteTransaction, file: Taken, new_templates: dict[bytes, int]) -> tuple[int, int]:
    """Write one file's recipe after checking what it relies on; return (bytes added, depth of its deepest tensor).

    Raises:
        RaceLostError: something it relies on is gone.
    """
    present = txn.get("recipes", file.entry.file_id)
    if present is not None:
        known = Recipe.from_bytes(present, file.entry.file_id)
        if known.is_whole:  # one that has lost a part is replaced by the new one
            return 0, max((_record(txn, number).depth for number in known.tensors), default=0)
    if file.recipe is None or file.shape is None or file.template is None:
        raise RaceLostError(f"the recipe of {file.entry.path} is gone")
    depth = 0
    for number, tensor_id in zip(file.recipe.tensors, file.ids, strict=True):
        record = _record(txn, number)
        if record.tensor_id != tensor_id:
            raise RaceLostError(f"tensor {number} is another one now")
        depth = max(depth, record.depth)
    added = 0
    recipe = file.recipe
    if not recipe.template:
        if file.shape.packed not in new_templates:
            number = next_number(txn, "templates")
            place(txn, file.shape, number)
            txn.put("meta", b"next templates", wire.sortable(number + 1))
            new_templates[file.shape.packed] = number
            added += len(file.shape.packed)
        recipe = recipe._replace(template=new_templates[file.shape.packed])
    elif txn.view("templates", wire.sortable(recipe.template)) is None:
        raise RaceLostError(f"template {recipe.template} is gone")
    data = recipe.to_bytes(file.entry.file_id)
    txn.put("recipes", file.entry.file_id, data)
    remember(txn, file.template, recipe)
    return added + len(data) + len(file.entry.file_id), depth


def _record(txn: ReadTransaction, number: int) -> TensorRecord:
    data = txn.get("tensors", wire.sortable(number))
    if data is None:
        raise RaceLostError(f"tensor {number} is gone")
    return TensorRecord.from_bytes(data)


def _free_branch(txn: ReadTransaction, start: str) -> str:
    """Return a branch name that nothing answers to yet, made from the subject of the commit it begins at."""
    name, count = f"{start}-branch", 1
    while refs.read_ref(txn, refs.BRANCHES + name) or refs.read_ref(txn, refs.TAGS + name):
        count += 1
        name = f"{start}-branch-{count}"
    return name
