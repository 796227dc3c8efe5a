"""A commit's files back on disk, verified while they are written.

Every tensor is checked against its id as it streams by and every file against its SHA-256 before it gets its name.
Bytes that go to a stream cannot be taken back, so for those the file is verified once before the first byte is sent.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from modelvault import ids
from modelvault.errors import CorruptError, InputError, UsageError, WouldLoseDataError
from modelvault.ids import CommitId, FileId, TensorId
from modelvault.objects.commit import FileEntry
from modelvault.objects.recipe import Recipe
from modelvault.objects.ref import Head
from modelvault.objects.template import Template
from modelvault.repository import history, refs, retention
from modelvault.repository.assemble import assemble
from modelvault.repository.chunks import FETCH_CHUNKS, ChunkReader, TensorDamagedError
from modelvault.repository.damage import commits_hurt_by
from modelvault.repository.names import check_path
from modelvault.repository.repository import Repository
from modelvault.repository.revisions import Resolved
from modelvault.repository.shapes import load_template
from modelvault.repository.threads import Aside, in_order, thread_count
from modelvault.repository.worktree import Publisher, file_id
from modelvault.store.base import ReadTransaction, Store
from modelvault.tensors import CHUNK_BYTES

Progress = Callable[[str, int, int], None]

_CACHE_BYTES = 4 << 20
"""A file's chunks are wanted once each, but for what several tensors lean on."""

_UNHASHED_CALLS = 16
"""How often about a chunk of a file may wait for its SHA-256, which takes as long as all else that the caller does. In
turn, of what 91 MB take in two threads if the caller hashes: 0.88 at depth 0, 0.94 at depth 1, 0.98 at depths 1 to 4
together; with 4 that wait 1.06 times that, with 48 the same. Of shorter files (9 MB: 1.02) and on one processor (1.02)
the caller does it."""


class Restored(NamedTuple):
    """What a checkout wrote.

    Attributes:
        commit_id: the commit.
        written: (where, file) of each file written.
        present: paths that held the right bytes already.
        branch: the branch HEAD is on now, None if it is detached or was not moved.
        moved: whether HEAD was moved.
    """

    commit_id: CommitId
    written: tuple[tuple[Path, FileEntry], ...]
    present: tuple[Path, ...]
    branch: str | None
    moved: bool


class Script(NamedTuple):
    """What a file is rebuilt by."""

    template: Template
    recipe: Recipe


def read_script(txn: ReadTransaction, entry: FileEntry, like: Script | None = None) -> Script:
    """Return what a file is rebuilt by.

    Args:
        txn: the state to look at.
        entry: the file.
        like: that of another file, whose template is taken where it is the same.

    Raises:
        CorruptError: it is missing or damaged.
    """
    recipe = read_recipe(txn, entry.file_id)
    if like is not None and (like.recipe.template, like.recipe.patch) == (recipe.template, recipe.patch):
        return Script(like.template, recipe)
    return Script(load_template(txn, recipe), recipe)


def restore(
    store: Store,
    entry: FileEntry,
    progress: Callable[[int], None] | None = None,
    reader: ChunkReader | None = None,
    script: Script | None = None,
    chunks: Generator[bytes, None, None] | None = None,
    aside: Aside | None = None,
) -> Generator[bytes, None, None]:
    """Yield one file's bytes in order; raises after the last one if they are not the committed ones.

    Args:
        store: where it is.
        entry: the file.
        progress: told how many bytes came.
        reader: decodes chunks; one that is shared by several files remembers what they have in common.
        script: what it is rebuilt by, if that is known.
        chunks: what `chunk_jobs` of the script asks for, if somebody else decodes that.
        aside: computes its SHA-256; one for all files that are restored abreast.

    Raises:
        CorruptError: names what is damaged and the commits it hurts. What was yielded before must be thrown away.
    """
    try:
        with store.kept_open():
            shared = reader or ChunkReader(store, cache_bytes=_CACHE_BYTES)
            with contextlib.closing(hashing_thread()) if aside is None else contextlib.nullcontext(aside) as aside:
                yield from _restore(store, entry, progress, shared, script, chunks, aside)
    except TensorDamagedError as error:
        raise _with_hurt(store, error, {error.number}, set()) from None
    except CorruptError as error:
        raise _with_hurt(store, error, set(), {entry.file_id}) from None


def hashing_thread() -> Aside:
    """Return what computes SHA-256 of files while they are decoded and written."""
    return Aside(_UNHASHED_CALLS if thread_count() > 1 else 0)


class _FileHashing:
    """SHA-256 of one file, computed aside in the order in which its pieces come."""

    def __init__(self, aside: Aside) -> None:
        self._aside, self._hasher = aside, ids.file_hasher()
        self._pieces, self._nbytes = list[bytes](), 0

    def update(self, data: bytes) -> None:
        """Take one more piece. Short ones are handed over together: each by itself takes as long as its hash."""
        self._pieces.append(data)
        self._nbytes += len(data)
        if self._nbytes >= CHUNK_BYTES:
            self._hand_over()

    def digest(self) -> bytes:
        """Return the SHA-256 of all pieces, waiting for it."""
        self._hand_over()
        return self._aside.call(self._hasher.digest).result()

    def _hand_over(self) -> None:
        pieces, self._pieces, self._nbytes = self._pieces, [], 0
        self._aside.call(self._hash, pieces)

    def _hash(self, pieces: Sequence[bytes]) -> None:
        for data in pieces:
            self._hasher.update(data)


def _restore(
    store: Store,
    entry: FileEntry,
    progress: Callable[[int], None] | None,
    reader: ChunkReader,
    script: Script | None,
    chunks: Generator[bytes, None, None] | None,
    aside: Aside,
) -> Iterator[bytes]:
    if script is None:
        with store.read() as txn:
            script = read_script(txn, entry)
    template, recipe = script
    hashing = _FileHashing(aside if entry.size > _UNHASHED_CALLS * CHUNK_BYTES else Aside(0))
    size = 0
    with contextlib.closing(rebuild(reader, template, recipe.stem, recipe.tensors, chunks)) as pieces:
        for data in pieces:
            hashing.update(data)
            size += len(data)
            if progress is not None:
                progress(len(data))
            yield data
    found = hashing.digest()
    if size != entry.size or found != entry.file_id:
        raise CorruptError(
            f"{entry.path}: the restored bytes are not the committed ones (SHA-256 {entry.file_id.hex()[:16]} expected,"
            f" {found.hex()[:16]} found)",
            hint="run modelvault fsck",
        )


def read_recipe(txn: ReadTransaction, wanted: FileId) -> Recipe:
    """Return a file's recipe.

    Raises:
        CorruptError: it is missing or damaged.
    """
    data = txn.get("recipes", wanted)
    if data is None:
        raise CorruptError(f"the recipe of file {wanted.hex()[:16]} is missing", hint="run modelvault fsck")
    try:
        return Recipe.from_bytes(data, wanted)
    except CorruptError as error:
        raise CorruptError(f"the recipe of file {wanted.hex()[:16]} is damaged: {error}") from None


def _with_hurt(store: Store, error: CorruptError, tensors: set[int], files: set[FileId]) -> CorruptError:
    """Say which commits a damaged object hurts."""
    try:
        with store.read() as txn:
            hurt = commits_hurt_by(txn, tensors, files)
            names = [history.shorten(txn, commit_id) for commit_id in hurt[:8]]
    except CorruptError:
        return error  # the damage goes further than this object; the first finding is the one to show
    more = f" and {len(hurt) - len(names)} more" if len(hurt) > len(names) else ""
    suffix = f"; it hurts {', '.join(names)}{more}" if names else ""
    return CorruptError(error.message + suffix, hint=error.hint or "run modelvault fsck")


class Described(Protocol):
    """A tensor: its id, and how many bytes it has."""

    @property
    def tensor_id(self) -> TensorId:
        """Digest of its bytes."""

    @property
    def nbytes(self) -> int:
        """How many they are."""


class Chunks(Protocol):
    """What gives tensors chunk by chunk: a vault's `ChunkReader`, or a bundle."""

    def record(self, number: int) -> Described:
        """Return what a tensor is."""

    def fetch(self, jobs: Sequence[tuple[int, int]]) -> None:
        """Get ready for chunks (tensor, place) that are asked for next."""

    def chunk(self, number: int, place: int) -> bytes:
        """Return one raw chunk."""


def rebuild(
    reader: Chunks,
    template: Template,
    stem: bytes,
    tensors: Sequence[int],
    chunks: Generator[bytes, None, None] | None = None,
) -> Generator[bytes, None, None]:
    """Yield a file's bytes in order, each tensor checked against its id.

    Args:
        reader: gives the tensors.
        template: the file's.
        stem: what its stem events write.
        tensors: numbers of what fills its slots.
        chunks: what `chunk_jobs` asks for, if somebody else decodes that.

    Raises:
        TensorDamagedError: one is not what it should be.
    """
    with contextlib.closing(_SlotReader(reader, template, tensors, chunks)) as slots:
        yield from assemble(template, stem, slots.fill)


class _SlotReader:
    """Gives the segments of one file their bytes, in file order."""

    def __init__(
        self,
        reader: Chunks,
        template: Template,
        tensors: Sequence[int],
        chunks: Generator[bytes, None, None] | None,
    ) -> None:
        self._reader, self._template, self._tensors = reader, template, tensors
        self._members = _members(template)
        self._groups: dict[int, _GroupCursor] = {}
        # Segments are asked for in file order, so the chunks of those that stand alone are one stream for the threads.
        self._chunks = chunks or in_order(lambda job: self._reader.chunk(*job), self._jobs())

    def close(self) -> None:
        """Let the threads go."""
        self._chunks.close()

    def _jobs(self) -> Iterator[tuple[int, int]]:
        jobs = ((self._tensors[slot], place) for slot, place in chunk_jobs(self._template))
        while some := list(itertools.islice(jobs, FETCH_CHUNKS)):
            self._reader.fetch(some)
            yield from some

    def fill(self, number: int) -> Iterator[bytes]:
        segment = self._template.segments[number]
        tensor = self._tensors[segment.slot]
        if self._members[segment.slot] == 1:
            yield from self._whole(tensor, segment.length)
            return
        if segment.slot not in self._groups:
            self._groups[segment.slot] = _GroupCursor(self._reader, tensor)
        yield from self._groups[segment.slot].take(segment.length)

    def _whole(self, tensor: int, length: int) -> Iterator[bytes]:
        record = self._reader.record(tensor)
        if record.nbytes != length:
            raise TensorDamagedError(tensor, f"it has {record.nbytes} bytes, {length} are wanted")
        hasher = ids.tensor_hasher()
        for raw in itertools.islice(self._chunks, -(-length // CHUNK_BYTES)):
            hasher.update(raw)
            yield raw
        if hasher.digest() != record.tensor_id:
            raise TensorDamagedError(tensor, "its bytes do not match its id")


def chunk_jobs(template: Template) -> Iterator[tuple[int, int]]:
    """Yield (slot, place) of every chunk of what fills a slot alone, in file order."""
    members = _members(template)
    for segment in template.segments:
        if members[segment.slot] == 1:
            for place in range(-(-segment.length // CHUNK_BYTES)):
                yield segment.slot, place


def _members(template: Template) -> list[int]:
    """Return how many segments take their bytes from each slot."""
    members = [0] * template.slots
    for segment in template.segments:
        members[segment.slot] += 1
    return members


class _GroupCursor:
    """Deals out a group's bytes to the segments that share it, one after the other."""

    def __init__(self, reader: Chunks, tensor: int) -> None:
        self._reader, self._tensor = reader, tensor
        self._record = reader.record(tensor)
        self._hasher = ids.tensor_hasher()
        self._position = 0
        self._chunk = b""

    def take(self, length: int) -> Iterator[bytes]:
        if self._position + length > self._record.nbytes:
            raise TensorDamagedError(self._tensor, f"it has {self._record.nbytes} bytes, more are wanted")
        while length:
            inside = self._position % CHUNK_BYTES
            if inside == 0:
                self._chunk = self._reader.chunk(self._tensor, self._position // CHUNK_BYTES)
                self._hasher.update(self._chunk)
            data = self._chunk[inside : inside + length]
            self._position += len(data)
            length -= len(data)
            if self._position == self._record.nbytes and self._hasher.digest() != self._record.tensor_id:
                raise TensorDamagedError(self._tensor, "its bytes do not match its id")
            yield data


def checkout(
    repository: Repository,
    resolved: Resolved,
    paths: tuple[str, ...] = (),
    *,
    output: Path | None = None,
    is_directory: bool = False,
    force: bool = False,
    progress: Progress | None = None,
) -> Restored:
    """Write a commit's files to disk.

    Args:
        repository: the vault.
        resolved: which commit, and the branch if it was named by one.
        paths: only these files; HEAD stays.
        output: write there instead of below the root: a file, or a directory; HEAD stays. A directory that is not there
            yet appears with all its files in it.
        is_directory: `output` is a directory even if there is one file only and nothing has that name.
        force: overwrite files whose bytes no commit holds.
        progress: told how far it is.

    Raises:
        WouldLoseDataError: a target holds bytes that no commit holds. Nothing was written.
        ForgottenError: the commit, or a part that one of the files has, was forgotten. Nothing was written.
        CorruptError: something needed is damaged. Nothing was written.
        InputError, NoSpaceError: a target cannot be written. Nothing was written.
    """
    store = repository.store
    with store.read() as txn:
        commit = history.read_commit(txn, resolved.commit_id)
        files = history.kept_files(txn, resolved.commit_id, commit)
        entries = select(files, paths, history.shorten(txn, resolved.commit_id))
        targets = _targets(repository.root, entries, output, is_directory)
        retention.check_kept(txn, resolved.commit_id, entries)
    present, todo = [], []
    done, total = 0, sum(entry.size for _, entry in targets)

    def compared(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress("comparing", done, total)

    for target, entry in targets:
        if check_target(store, target, entry, force, compared):
            present.append(target)
        else:
            todo.append((target, entry))
    done, total = 0, sum(entry.size for _, entry in todo)

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress("restoring", done, total)

    with Publisher() as publisher, contextlib.closing(hashing_thread()) as aside:
        for target, entry in todo:
            pieces = restore(store, entry, advance, aside=aside)
            if output is None:
                publisher.prepare_in_tree(repository.root, entry.path, pieces, entry.size, entry.executable)
            elif target == output:
                publisher.prepare(target, pieces, entry.size, entry.executable)
            elif output.is_dir():
                publisher.prepare_in_tree(output, entry.path, pieces, entry.size, entry.executable)
            else:
                path = f"{output.name}/{entry.path}"
                publisher.prepare_in_tree(output.parent, path, pieces, entry.size, entry.executable)
        publisher.publish()
    moved = output is None and not paths
    if moved:
        _move_head(repository, resolved)
    return Restored(resolved.commit_id, tuple(todo), tuple(present), resolved.branch if moved else None, moved)


def stream(repository: Repository, commit_id: CommitId, paths: tuple[str, ...]) -> Iterator[bytes]:
    """Yield the bytes of a commit's one file, or of the one named, after verifying all of them.

    Raises:
        UsageError: the commit has several files and none, or several, are named.
        ForgottenError: the commit, or a part that the file has, was forgotten.
    """
    store = repository.store
    with store.read() as txn:
        commit = history.read_commit(txn, commit_id)
        short = history.shorten(txn, commit_id)
        entries = select(history.kept_files(txn, commit_id, commit), paths, short)
        retention.check_kept(txn, commit_id, entries)
    if len(entries) != 1:
        raise UsageError(f"{short} has {len(entries)} files, a stream takes one", hint="name it: -o - REV FILE")
    for _ in restore(store, entries[0]):
        pass
    return restore(store, entries[0])


def select(files: tuple[FileEntry, ...], paths: tuple[str, ...], shown: str) -> tuple[FileEntry, ...]:
    """Return the entries that `paths` name: files, or directories with all below them; all if none are named.

    Raises:
        InputError: a path is not in the commit.
    """
    if not paths:
        return files
    chosen: dict[str, FileEntry] = {}
    for path in paths:
        found = [entry for entry in files if entry.path == path or entry.path.startswith(path.rstrip("/") + "/")]
        if not found:
            raise InputError(f"{path!a} is not in {shown}", hint=f"it has {', '.join(e.path for e in files[:5])}")
        chosen.update((entry.path, entry) for entry in found)
    return tuple(chosen.values())


def _targets(
    root: Path, entries: tuple[FileEntry, ...], output: Path | None, is_directory: bool
) -> list[tuple[Path, FileEntry]]:
    for entry in entries:
        check_path(entry.path)  # a vault may come from a stranger
    if output is None:
        return [(root / entry.path, entry) for entry in entries]
    if len(entries) == 1 and not is_directory and not output.is_dir():
        return [(output, entries[0])]
    if output.exists() and not output.is_dir():
        raise UsageError(f"{str(output)!a} is a file, a directory is wanted", hint="give another name")
    return [(output / entry.path, entry) for entry in entries]


def check_target(store: Store, target: Path, entry: FileEntry, force: bool, compared: Callable[[int], None]) -> bool:
    """Return whether the target holds the right bytes already; refuse if writing would lose what it holds."""
    if target.is_dir():
        raise InputError(f"{str(target)!a} is a directory, a file is to be written there")
    if target.is_symlink() and not target.exists():
        return False  # a dangling link holds no bytes
    found = file_id(target, compared)
    if found is None:
        return False
    if found == entry.file_id:
        return True  # through a link, too: it leads to the right bytes
    if not force and not _is_held(store, found):
        raise WouldLoseDataError(
            f"{str(target)!a} holds bytes that are in no commit",
            hint="commit it first, or overwrite it with --force",
        )
    return False


def _is_held(store: Store, wanted: FileId) -> bool:
    try:
        with store.read() as txn:
            return retention.is_held(txn, wanted)
    except CorruptError:
        return False  # what cannot be read back is not held


def _move_head(repository: Repository, resolved: Resolved) -> None:
    with repository.store.write(timeout=repository.lock_timeout, waiting=repository.waiting) as txn:
        before = refs.read_head(txn)
        after = Head(resolved.branch) if resolved.branch else Head(before.branch, resolved.commit_id)
        if after != before:
            refs.move(txn, f"checkout {history.shorten(txn, resolved.commit_id)}", [], head=after)
