"""Commits that are kept exactly, turned into lossy ones: their files make room for stand-ins, their ids stay.

Oldest first, each commit by itself: its files are restored into a temporary directory, rounded as `commit --lossy`
rounds, and the stand-ins stored and verified as a commit's files are, against the stand-ins of its parent. Then one
transaction checks that the commit is kept as it was, and changes its payload. Killed at any moment, every commit is
either exact or lossy, and complete. The exact bytes are not touched here: nothing refers to them any more, and the next
gc takes them. Until then the payload can be put back.

What is rounded already is left alone, whatever its bound: nothing is ever rounded twice.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import NamedTuple

from modelvault.checkpoint import FileSource
from modelvault.codec import Bound
from modelvault.errors import CorruptError, UsageError
from modelvault.ids import CommitId, FileId, TensorId
from modelvault.objects.commit import Commit, FileEntry
from modelvault.objects.lossy import Lossy
from modelvault.objects.payload import EXACT, LOSSY, Payload
from modelvault.objects.recipe import Recipe
from modelvault.objects.tensor import TensorRecord
from modelvault.repository import estimate, history, refs
from modelvault.repository.bases import Bases, restoring_of
from modelvault.repository.candidates import Key
from modelvault.repository.checkout import read_recipe, restore
from modelvault.repository.chunks import ChunkReader, read_tensor
from modelvault.repository.collect import Named
from modelvault.repository.commit import Taken, parent_files, place_file, take
from modelvault.repository.config import Config
from modelvault.repository.dissect import dissect
from modelvault.repository.encode import Encoder, RaceLostError, find_tensor
from modelvault.repository.estimate import Reference, References
from modelvault.repository.lossy import LossyRequest, StandIns, no_room, stand_ins
from modelvault.repository.names import check_path
from modelvault.repository.packs import next_number
from modelvault.repository.repository import Repository
from modelvault.repository.retention import always_kept, is_held
from modelvault.repository.revisions import resolve_each
from modelvault.repository.worktree import open_regular
from modelvault.store.base import ReadTransaction, WriteTransaction

Progress = Callable[[str, int, int], None]


class Choice(NamedTuple):
    """A commit, and why it stays exact: "" if it is to become lossy."""

    commit_id: CommitId
    commit: Commit
    reason: str = ""


class Turned(NamedTuple):
    """A commit that became lossy, or would.

    Attributes:
        commit_id: its id, which is what it was.
        commit: what it says.
        lossy: the bound, and what was measured; None if nothing in it was rounded, so that it stays exact.
        given_up: bytes of the exact frames that nothing needs any more.
        taken: bytes of the frames of its stand-ins.
    """

    commit_id: CommitId
    commit: Commit
    lossy: Lossy | None
    given_up: int
    taken: int


class LossyRepacked(NamedTuple):
    """What a lossy repack did, or would do.

    Attributes:
        turned: the commits, oldest first.
        before: bytes of the frames that the vault needed before.
        after: bytes of those it needs then, once a gc has taken the exact ones.
        leaning: of these, frames of exact tensors that lean on what goes: the gc codes them anew, and they may grow.
    """

    turned: tuple[Turned, ...]
    before: int
    after: int
    leaning: int


def choose(txn: ReadTransaction, named: Sequence[str], config: Config) -> list[Choice]:
    """Return commits, oldest first, and which of them are to become lossy.

    Args:
        txn: the state to look at.
        named: revisions and ranges; none: the current branch, but for tips, tagged commits and what HEAD is on.
        config: says which metrics are better high.

    Raises:
        RevisionError: one names no commit.
    """
    wanted = set(resolve_each(txn, named, config))
    protected: Mapping[CommitId, Sequence[str]] = {}
    if not named:
        tip = refs.head_commit(txn)
        wanted = history.ancestors(txn, tip) if tip else set()
        protected = always_kept(txn)
    found = []
    for commit_id, commit in history.topological(txn, wanted):
        if commit_id in wanted:
            reasons = protected.get(commit_id)
            found.append(Choice(commit_id, commit, ", ".join(reasons) if reasons else _reason(txn, commit_id)))
    return found[::-1]


def _reason(txn: ReadTransaction, commit_id: CommitId) -> str:
    payload = history.read_payload(txn, commit_id)
    if any(payload.forgotten):
        return "it is forgotten, or a part of it"
    return f"it is {payload.mode_name} already" if payload.mode != EXACT else ""


def choose_to_undo(txn: ReadTransaction, named: Sequence[str], config: Config) -> list[Choice]:
    """Return which of these commits, or of all lossy ones, can be exact again, and why the others cannot.

    Raises:
        RevisionError: one names no commit.
    """
    if named:
        wanted = set(resolve_each(txn, named, config))
    else:
        wanted = {CommitId(key) for key, _ in txn.sizes("payloads") if _is_lossy(txn, CommitId(key))}
    found = []
    for commit_id, commit in sorted(
        ((commit_id, history.read_commit(txn, commit_id)) for commit_id in wanted), key=lambda item: item[1].time_ms
    ):
        gone = [entry.path for entry in commit.files if not is_held(txn, entry.file_id)]
        reason = "" if _is_lossy(txn, commit_id) else "it is not lossy"
        if not reason and gone:
            more = f" and {len(gone) - 1} more" if len(gone) > 1 else ""
            reason = f"the exact bytes of {gone[0]}{more} are gone"
        found.append(Choice(commit_id, commit, reason))
    return found


def undo_lossy(txn: WriteTransaction, choices: Iterable[Choice]) -> None:
    """Make commits exact again whose files the vault still has; those with a reason stay as they are."""
    able = [choice for choice in choices if not choice.reason]
    for commit_id, commit, _ in able:
        numbers = {number for entry in commit.files for number in read_recipe(txn, entry.file_id).tensors}
        records = [read_tensor(txn, number) for number in sorted(numbers)]
        deltas = sum(record.deltas for record in records)
        payload = Payload(
            EXACT,
            sum(record.stored_bytes for record in records),
            sum(record.chunks for record in records) - deltas,
            deltas,
            max((record.depth for record in records), default=0),
            history.read_payload(txn, commit_id).forgotten,
        )
        txn.put("payloads", commit_id, payload.to_bytes(commit_id))
    if able:
        refs.move(txn, f"repack --undo-lossy {len(able)} commit{'s' if len(able) != 1 else ''}", [])


def _is_lossy(txn: ReadTransaction, commit_id: CommitId) -> bool:
    return history.read_payload(txn, commit_id).mode == LOSSY


def lossy_repack(
    repository: Repository,
    choices: Iterable[Choice],
    request: LossyRequest,
    *,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> LossyRepacked:
    """Turn commits into lossy ones.

    Args:
        repository: the vault.
        choices: what `choose` returned; those with a reason stay as they are.
        request: how to round.
        dry_run: change nothing; say what would happen.
        progress: told how far it is.

    Raises:
        CorruptError: a commit's files cannot be restored. It and all after it stay exact; what was done before stands.
        NoSpaceError: there is no room for the stand-ins, or none in the temporary directory. As above.
        LockedError: another writer did not end in time. As above.
    """
    request.check()
    if request.bound is Bound.PAPER:
        raise UsageError("the paper's formula is for new commits", hint="--bound abs has the same bound")
    wanted = [choice for choice in choices if not choice.reason]
    return _LossyRepack(repository, wanted, request, progress or (lambda *_: None)).run(dry_run)


class _LossyRepack:
    def __init__(
        self, repository: Repository, choices: list[Choice], request: LossyRequest, progress: Progress
    ) -> None:
        self._repository, self.store = repository, repository.store
        self._choices, self._request, self._progress = choices, request, progress
        self._leaving: dict[int, int] = {}  # exact tensors that will not be needed -> bytes of their frames
        self._exact: set[int] = set()  # all of these commits' tensors: not to be leant on
        self._before = self._leaning = 0

    def run(self, dry_run: bool) -> LossyRepacked:
        with self.store.read() as txn:
            self._look(txn)
        turned = []
        with _Foretelling(self, self._choices) if dry_run else contextlib.nullcontext(None) as foretelling:
            for place, choice in enumerate(self._choices):
                self._progress("rounding", place, len(self._choices))
                done = foretelling.turn(choice) if foretelling else self._turn(choice)
                if done is not None:
                    turned.append(done)
        after = self._before + sum(one.taken - one.given_up for one in turned)
        return LossyRepacked(tuple(turned), self._before, after, self._leaning)

    def _look(self, txn: ReadTransaction) -> None:
        """Find out what is needed now, and which tensors only the exact files of these commits need."""
        chosen = {choice.commit_id for choice in self._choices}
        staying: set[FileId] = set()
        for key, value in txn.scan("commits"):
            if CommitId(key) not in chosen:
                files = history.kept_files(txn, CommitId(key), Commit.from_bytes(value))
                staying.update(entry.file_id for entry in files)
        needed: set[int] = set()
        for file_id in staying:
            data = txn.get("recipes", file_id)
            needed.update(Recipe.from_bytes(data, file_id).tensors if data is not None else ())
        for choice in self._choices:
            for entry in choice.commit.files:
                self._exact.update(read_recipe(txn, entry.file_id).tensors)
        self._leaving = {number: read_tensor(txn, number).stored_bytes for number in self._exact - needed if number}
        everything = _with_bases(txn, needed | self._exact)
        self._before = sum(record.stored_bytes for record in everything.values())
        self._leaning = sum(
            record.stored_bytes
            for number, record in everything.items()
            if number in needed and not self._leaving.keys().isdisjoint(record.references)
        )

    def give_up(self, txn: ReadTransaction, commit: Commit, reused: Collection[int]) -> int:
        """Return the bytes of exact frames that go with a commit: of what several share, with the first of them."""
        for number in reused:
            self._leaving.pop(number, None)
        return sum(
            self._leaving.pop(number, 0) for entry in commit.files for number in read_recipe(txn, entry.file_id).tensors
        )

    def _turn(self, choice: Choice) -> Turned | None:
        """Turn one commit; None if it was dealt with meanwhile."""
        repository, commit_id = self._repository, choice.commit_id
        with self.store.read() as txn:
            before = txn.get("payloads", commit_id)
            if before is None or _reason(txn, commit_id):
                return None
            floors = {table: next_number(txn, table) for table in ("tensors", "packs", "templates")}

        def write_batch(write: Callable[[WriteTransaction], None]) -> None:
            with self.store.write(timeout=repository.lock_timeout, waiting=repository.waiting) as txn:
                write(txn)

        with self.store.open_session(floors), self.rounded(choice.commit) as made:
            if made.lossy is None:
                return Turned(commit_id, choice.commit, None, 0, 0)
            for _ in range(_ATTEMPTS):
                with self.store.read() as txn:
                    parents = parent_files(txn, _first_parent(choice.commit))
                reader = ChunkReader(self.store)
                restoring = restoring_of(repository.config, sum(item.on_disk.stat().st_size for item in made.named))
                bases = Bases(self.store, reader, restoring, self._exact)
                encoder = Encoder(reader, write_batch, lambda _: None, bases)
                with contextlib.suppress(RaceLostError):
                    taken = [take(repository, i, encoder, parents, lambda _: None, [], self._exact) for i in made.named]
                    return self._publish(choice, before, made.lossy, taken, encoder, floors["tensors"])
        raise CorruptError(
            f"gave up on commit {commit_id.hex()[:16]} after {_ATTEMPTS} attempts; it stays exact",
            hint="run modelvault fsck, then repack again",
        )

    def _publish(
        self, choice: Choice, before: bytes, lossy: Lossy, taken: Sequence[Taken], encoder: Encoder, floor: int
    ) -> Turned | None:
        """Let the stand-ins count, in one transaction.

        Raises:
            RaceLostError: something that they rely on is gone.
        """
        repository, commit_id = self._repository, choice.commit_id
        with self.store.write(timeout=repository.lock_timeout, waiting=repository.waiting) as txn:
            if txn.get("payloads", commit_id) != before:
                return None  # forgotten meanwhile, or somebody else dealt with it
            encoder.settle(txn)
            added, depth = encoder.tally.added_bytes, 0
            new_templates: dict[bytes, int] = {}
            for file in taken:
                file_added, file_depth = place_file(txn, file.settled(encoder.numbers), new_templates)
                added += file_added
                depth = max(depth, file_depth)
            needs = {number for file in taken for number in read_recipe(txn, file.entry.file_id).tensors}
            given_up = self.give_up(txn, choice.commit, needs)
            frames = sum(read_tensor(txn, number).stored_bytes for number in needs if number >= floor)
            tally = encoder.tally
            payload = Payload(LOSSY, added, tally.keyframes, tally.deltas, depth, lossy=lossy)
            txn.put("payloads", commit_id, payload.to_bytes(commit_id))
            refs.move(txn, f"repack --lossy {history.shorten(txn, commit_id)}", [])
        return Turned(commit_id, choice.commit, lossy, given_up, frames)

    @contextlib.contextmanager
    def rounded(self, commit: Commit) -> Iterator[StandIns]:
        """Restore a commit's files into a temporary directory and make stand-ins for them; gone when the block ends."""
        with tempfile.TemporaryDirectory(prefix="modelvault-") as directory:
            named = []
            for entry in commit.files:
                check_path(entry.path)
                named.append(Named(entry.path, Path(directory, entry.path), False))
                self._write(entry, named[-1].on_disk)
            with stand_ins(self._repository, named, self._request, {}, lambda *_: None) as made:
                yield made

    def _write(self, entry: FileEntry, target: Path) -> None:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.closing(restore(self.store, entry)) as pieces, target.open("wb") as out:
                out.writelines(pieces)
            target.chmod(0o700 if entry.executable else 0o600)
        except OSError as error:
            raise no_room(error, target) from None


class _Foretelling:
    """Rounds commits without storing anything, and codes them against the stand-ins of their parents.

    Used as a context manager: stand-ins stay open, though their directories are gone, until no child needs them.
    """

    def __init__(self, repack: _LossyRepack, choices: Iterable[Choice]) -> None:
        self._repack = repack
        self._children = Counter(_first_parent(choice.commit) for choice in choices)
        self._open: dict[CommitId | None, tuple[contextlib.ExitStack, dict[str, References]]] = {}
        self._held: set[TensorId] = set()  # tensors of the stand-ins that were made

    def __enter__(self) -> _Foretelling:
        return self

    def __exit__(self, *_: object) -> None:
        for stack, _files in self._open.values():
            stack.close()

    def turn(self, choice: Choice) -> Turned:
        """Return what would become of a commit."""
        commit, store = choice.commit, self._repack.store
        parent = _first_parent(commit)
        taken, needs = 0, set[int]()
        with self._repack.rounded(commit) as made:
            if made.lossy is None:
                return Turned(choice.commit_id, commit, None, 0, 0)
            stack, files = self._open[choice.commit_id] = contextlib.ExitStack(), {}
            for item in made.named:
                source = FileSource(stack.enter_context(open_regular(item.on_disk)))
                cut = dissect(source)
                files[item.path] = estimate.of_file(source, cut)
                taken += estimate.stored_bytes(store, source, cut, self._references(parent, item.path), self._held)
                self._held.update(slot.tensor_id for slot in cut.slots)
                with store.read() as txn:
                    needs.update(find_tensor(txn, slot.tensor_id, slot.nbytes) or 0 for slot in cut.slots)
        with store.read() as txn:
            given_up = self._repack.give_up(txn, commit, needs)
        self._children[parent] -= 1
        for one in (parent, choice.commit_id):
            if one in self._open and not self._children[one]:
                self._open.pop(one)[0].close()
        return Turned(choice.commit_id, commit, made.lossy, given_up, taken)

    def _references(self, parent: CommitId | None, path: str) -> References:
        """Return what a file's tensors may lean on: of several, those of the parent's file of the same path."""
        if parent in self._open:
            files = self._open[parent][1]
            found = dict[Key, Reference]()
            for other in sorted(files, key=lambda other: other == path):
                found.update(files[other])
            return found
        with self._repack.store.read() as txn:
            kept = parent_files(txn, parent)
        others_kept = [kept[other] for other in kept if other != path]
        return estimate.of_vault(self._repack.store, ([kept[path]] if path in kept else []) + others_kept)


def _first_parent(commit: Commit) -> CommitId | None:
    return commit.parents[0] if commit.parents else None


_ATTEMPTS = 3
"""How often a commit is tried again because something it relied on was removed or coded anew meanwhile."""


def _with_bases(txn: ReadTransaction, numbers: Set[int]) -> dict[int, TensorRecord]:
    """Return the records of tensors and of all that their chains lead through."""
    found: dict[int, TensorRecord] = {}
    todo = [number for number in numbers if number]
    while todo:
        number = todo.pop()
        if number not in found:
            found[number] = read_tensor(txn, number)
            todo.extend(found[number].references)
    return found
