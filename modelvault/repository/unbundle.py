"""A bundle's commits brought into a vault, or its files built on files that lie on disk.

What is read may be damaged, or made to do damage. The checksum comes first, then everything that the index says is
checked against itself. Every file is rebuilt in a temporary directory, verified by its SHA-256, and then stored as a
commit's files are: cut up, coded and compared by this vault itself, so no frame of a stranger's gets into it.
Commits and refs appear in one last transaction, or not at all.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from modelvault import codec, ids
from modelvault.checkpoint import FileSource, Source
from modelvault.errors import CorruptError, InputError, NewerFormatError, UsageError, WouldLoseDataError
from modelvault.ids import CommitId, FileId
from modelvault.objects import bundle as index
from modelvault.objects.bundle import BaseFile, BaseTensor, Bundle, SentFile, SentTensor
from modelvault.objects.commit import Commit, FileEntry
from modelvault.objects.payload import EXACT, LOSSY, Payload
from modelvault.objects.recipe import Recipe
from modelvault.objects.ref import Move
from modelvault.objects.template import Template
from modelvault.repository import history, refs, retention
from modelvault.repository.assemble import segment_places
from modelvault.repository.bases import Bases, Work, read_range, restoring_of
from modelvault.repository.checkout import read_recipe, rebuild
from modelvault.repository.chunks import ChunkReader, TensorDamagedError
from modelvault.repository.collect import Named
from modelvault.repository.commit import Taken, parent_files, place_file, take
from modelvault.repository.dissect import Slot, read_exactly
from modelvault.repository.encode import Encoder, RaceLostError, find_tensor
from modelvault.repository.lossy import no_room
from modelvault.repository.names import check_path, check_ref
from modelvault.repository.packs import next_number
from modelvault.repository.repository import Repository
from modelvault.repository.shapes import load_template, shape_of
from modelvault.repository.worktree import Publisher, file_id, open_regular
from modelvault.store.base import MAX_VALUE_BYTES, ReadTransaction, Store, WriteTransaction
from modelvault.tensors import CHUNK_BYTES, DType

Progress = Callable[[str, int, int], None]

_MAX_CHAIN = 256
"""Longest chain that is followed; the writer makes none longer than 16."""

_CACHE_BYTES = 64 << 20
"""Decoded chunks kept, as references of what is decoded next."""

_READ_BYTES = 1 << 20

_DIGEST_BYTES = 32

_AGAIN = "get the bundle again, or have it made anew"


class OpenBundle(NamedTuple):
    """A bundle that is whole.

    Attributes:
        name: its file's.
        source: its bytes.
        bundle: what it says.
        offsets: where the first frame of each tensor that is sent stands.
    """

    name: str
    source: Source
    bundle: Bundle
    offsets: tuple[int, ...]


class Unbundled(NamedTuple):
    """What a bundle brought.

    Attributes:
        tip: the commit it is for.
        commits: commits that the vault did not have, oldest first.
        raw_bytes: lengths of the files that were stored.
        added_bytes: what they added to the vault.
        moved: (full name, where it was or None, where it is) of each ref that moved.
        left: full names of tags that are on other commits here, and stay there.
    """

    tip: CommitId
    commits: tuple[CommitId, ...]
    raw_bytes: int
    added_bytes: int
    moved: tuple[tuple[str, CommitId | None, CommitId], ...]
    left: tuple[str, ...]


@contextlib.contextmanager
def open_bundle(path: Path, progress: Progress | None = None) -> Iterator[OpenBundle]:
    """Open a bundle and check that it is whole and says nothing that cannot be.

    Raises:
        InputError: it cannot be read, or is no bundle.
        CorruptError: it is not what was written.
        NewerFormatError: a later version wrote it.
    """
    with open_regular(path) as descriptor:
        source, name = FileSource(descriptor), path.name
        if source.read(0, len(index.MAGIC)) != index.MAGIC:
            raise InputError(f"{name!a} is no bundle", hint="modelvault bundle A..B -o FILE makes one")
        body = _check_digest(source, name, progress)
        version = source.read(len(index.MAGIC), 1)[0]
        if version != index.VERSION:
            raise NewerFormatError(
                f"{name!a} is a bundle of version {version}, this program reads version {index.VERSION}",
                hint="use the version of modelvault that made it, or a later one",
            )
        try:
            opened = _read_index(source, name, body)
        except CorruptError as error:
            raise CorruptError(f"{name!a}: {error.message}", hint=_AGAIN) from None
        yield opened


def _check_digest(source: Source, name: str, progress: Progress | None) -> int:
    """Return where the index's length stands."""
    least = len(index.MAGIC) + 1 + 8 + _DIGEST_BYTES
    end = source.size - _DIGEST_BYTES
    hasher = ids.file_hasher()
    for start in range(0, max(0, end), _READ_BYTES):
        hasher.update(source.read(start, min(_READ_BYTES, end - start)))
        if progress is not None:
            progress("checking", start, end)
    if source.size < least or hasher.digest() != source.read(end, _DIGEST_BYTES):
        raise CorruptError(f"{name!a} is damaged or cut short: its checksum does not match", hint=_AGAIN)
    return end - 8


def _read_index(source: Source, name: str, body: int) -> OpenBundle:
    length = int.from_bytes(source.read(body, 8), "little")
    first = len(index.MAGIC) + 1
    if length > body - first:
        raise CorruptError("its index is longer than it is")
    bundle = Bundle.from_bytes(codec.unpack(source.read(body - length, length), MAX_VALUE_BYTES))
    offsets = tuple(itertools.accumulate((sum(tensor.lengths) for tensor in bundle.tensors), initial=first))
    if offsets[-1] != body - length:
        raise CorruptError("its frames end elsewhere than it says")
    return OpenBundle(name, source, bundle, offsets)


class _BundleReader:
    """Decodes a bundle's tensors, by their numbers.

    Args:
        opened: the bundle.
        elsewhere: gives a chunk of a tensor that is had already, None where it is not.
    """

    def __init__(self, opened: OpenBundle, elsewhere: Callable[[int, int], bytes | None]) -> None:
        self._opened, self._elsewhere = opened, elsewhere
        self._lock = threading.Lock()
        self._chunks: OrderedDict[tuple[int, int], bytes] = OrderedDict()
        self._cached_bytes = 0

    def record(self, number: int) -> BaseTensor | SentTensor:
        """Return what a tensor is."""
        return self._opened.bundle.tensor(number)

    def fetch(self, jobs: Sequence[tuple[int, int]]) -> None:
        """Do nothing: a bundle is a file, and needs no transaction."""

    def chunk(self, number: int, place: int) -> bytes:
        """Return one raw chunk.

        Raises:
            CorruptError: it, or what it leans on, cannot be decoded, or is not there.
        """
        links: list[tuple[int, SentTensor, bytes]] = []
        raw: bytes | None = None
        while raw is None:
            raw = self._recall(number, place)
            if raw is None:
                raw = self._elsewhere(number, place)
            if raw is not None:
                break
            tensor = self.record(number)
            if isinstance(tensor, BaseTensor):
                raise _missing(self._opened, tensor)
            frame = self._frame(number, tensor, place)
            links.append((number, tensor, frame))
            if not codec.is_delta(frame):
                break
            if not tensor.base or len(links) > _MAX_CHAIN:
                raise CorruptError(f"tensor {number} leans on nothing, or its chain does not end")
            number = tensor.base
        for number, tensor, frame in reversed(links):
            size = min(CHUNK_BYTES, tensor.nbytes - place * CHUNK_BYTES)
            parameters = codec.Parameters.from_bytes(tensor.parameters)
            raw = codec.decode_chunk(frame, size, parameters, [] if raw is None else [raw])
            self._remember(number, place, raw)
        assert raw is not None  # there was a link, or a chunk elsewhere
        return raw

    def _frame(self, number: int, tensor: SentTensor, place: int) -> bytes:
        own = number - len(self._opened.bundle.base_tensors) - 1
        offset = self._opened.offsets[own] + sum(tensor.lengths[:place])
        return read_exactly(self._opened.source, offset, tensor.lengths[place])

    def _recall(self, number: int, place: int) -> bytes | None:
        with self._lock:
            raw = self._chunks.get((number, place))
            if raw is not None:
                self._chunks.move_to_end((number, place))
            return raw

    def _remember(self, number: int, place: int, raw: bytes) -> None:
        with self._lock:
            if (number, place) not in self._chunks:
                self._chunks[number, place] = raw
                self._cached_bytes += len(raw)
                while self._cached_bytes > _CACHE_BYTES:
                    self._cached_bytes -= len(self._chunks.popitem(last=False)[1])


def _missing(opened: OpenBundle, tensor: BaseTensor) -> InputError:
    base = opened.bundle.base_files[tensor.file]
    return InputError(
        f"{opened.name!a} builds on {base.path!a} with SHA-256 {base.file_id.hex()[:16]}, which is not here",
        hint="have a bundle made from what is here: bundle A..B with another A, or B alone",
    )


def _file(opened: OpenBundle, reader: _BundleReader, file: SentFile) -> Generator[bytes, None, None]:
    """Yield a file's bytes; raises after the last one if they are not what the bundle says.

    Raises:
        CorruptError: they are not. What was yielded before must be thrown away.
    """
    template = Template.from_bytes(opened.bundle.templates[file.template])
    hasher = ids.file_hasher()
    try:
        with contextlib.closing(rebuild(reader, template, file.stem, file.tensors)) as pieces:
            for data in pieces:
                hasher.update(data)
                yield data
    except TensorDamagedError as error:
        raise _damaged(opened, error.message) from None
    except CorruptError as error:
        raise CorruptError(f"{opened.name!a}: {error.message}", hint=error.hint or _AGAIN) from None
    if hasher.digest() != file.file_id:
        raise _damaged(opened, f"a file does not match its SHA-256 {file.file_id.hex()[:16]}")


def _damaged(opened: OpenBundle, why: str) -> CorruptError:
    return CorruptError(f"{opened.name!a}: {why}", hint=_AGAIN)


# into a vault


def unbundle(
    repository: Repository, path: Path, *, branch: str | None = None, progress: Progress | None = None
) -> Unbundled:
    """Bring a bundle's commits into a vault.

    Args:
        repository: the vault.
        path: the bundle.
        branch: the branch to put them on; None: the one that the bundle names.
        progress: told how far it is.

    Raises:
        UsageError: the bundle names no branch, and none is given.
        InputError: it is no bundle, or builds on what is not here, or the branch has commits that it does not know.
        CorruptError: it is damaged. As after every error, the vault has none of it.
        LockedError, NoSpaceError: as their docs say.
    """
    with open_bundle(path, progress) as opened:
        try:
            return _Unbundling(repository, opened, branch, progress or (lambda *_: None)).run()
        except RaceLostError as error:
            raise CorruptError(f"what the bundle builds on changed meanwhile: {error}", hint="try again") from None


class _Unbundling:
    def __init__(self, repository: Repository, opened: OpenBundle, branch: str | None, progress: Progress) -> None:
        self._repository, self._store, self._opened, self._progress = repository, repository.store, opened, progress
        self._sent = {commit.commit_id: commit for commit in opened.bundle.commits}
        self._commits = {commit_id: Commit.from_bytes(sent.data) for commit_id, sent in self._sent.items()}
        self._tip = next(reversed(self._sent))
        self._files = {file.file_id: file for file in opened.bundle.files}
        self._branch = refs.BRANCHES + self._branch_of(branch)
        self._reader = _BundleReader(opened, _InVault(repository.store, opened.bundle))
        self._taken: dict[FileId, Taken] = {}
        self._versions: dict[CommitId, dict[str, tuple[Template, Recipe]]] = {}

    def _branch_of(self, named: str | None) -> str:
        for name, _ in self._opened.bundle.refs:
            prefix = next((prefix for prefix in (refs.BRANCHES, refs.TAGS) if name.startswith(prefix)), None)
            if prefix is None:
                raise _damaged(self._opened, f"{name!a} is neither a branch nor a tag")
            check_ref(name.removeprefix(prefix), "branch" if prefix == refs.BRANCHES else "tag")
            if named is None and prefix == refs.BRANCHES:
                named = name.removeprefix(prefix)
        if named is None:
            raise UsageError(f"{self._opened.name!a} names no branch", hint="say which: --as BRANCH")
        check_ref(named, "branch")
        return named

    def run(self) -> Unbundled:
        for commit in self._commits.values():
            for entry in commit.files:
                check_path(entry.path)
        with self._store.read() as txn:
            floors = {table: next_number(txn, table) for table in ("tensors", "packs", "templates")}
            new = [commit_id for commit_id in self._sent if txn.get("commits", commit_id) is None]
            self._check_parents(txn, new)
            self._check_branch(txn)
        total = sum(file.size for file in self._opened.bundle.files)
        done = 0
        payloads: dict[CommitId, Payload] = {}
        with self._store.open_session(floors), tempfile.TemporaryDirectory(prefix="modelvault-") as directory:
            for commit_id in new:
                reader, entries = ChunkReader(self._store), list(self._entries(commit_id))
                restoring = restoring_of(self._repository.config, sum(entry.size for entry in entries))
                bases = Bases(self._store, reader, restoring)
                encoder = Encoder(reader, self._write_batch, lambda _: None, bases)
                for entry in entries:
                    self._take(commit_id, entry, encoder, Path(directory))
                    done += entry.size
                    self._progress("unbundling", min(done, total), total)
                tally, sent = encoder.tally, self._sent[commit_id]
                mode = LOSSY if sent.lossy is not None else EXACT
                payloads[commit_id] = Payload(
                    mode, tally.added_bytes, tally.keyframes, tally.deltas, 0, lossy=sent.lossy
                )
            return self._publish(payloads)

    def _check_parents(self, txn: ReadTransaction, new: list[CommitId]) -> None:
        for commit_id in new:
            for parent in self._commits[commit_id].parents:
                if parent not in self._sent and txn.get("commits", parent) is None:
                    raise InputError(
                        f"{self._opened.name!a} builds on commit {parent.hex()[:16]}, which is not in this vault",
                        hint="have a bundle made from a commit that is, or build on a file: --base FILE -o FILE",
                    )

    def _check_branch(self, txn: ReadTransaction) -> bool:
        """Return whether the branch is to move: not where it has the tip already.

        Raises:
            InputError: moving it would leave commits behind.
        """
        at = refs.read_ref(txn, self._branch)
        if at is None:
            return True
        inside, outside, todo = {self._tip}, set[CommitId](), [self._tip]
        while todo:
            for parent in self._commits[todo.pop()].parents:
                if parent not in self._commits:
                    outside.add(parent)
                elif parent not in inside:
                    inside.add(parent)
                    todo.append(parent)
        if at == self._tip or (txn.get("commits", self._tip) is not None and self._tip in history.ancestors(txn, at)):
            return False
        if at not in inside and at not in {commit_id for commit_id, _ in history.walk(txn, outside)}:
            name = self._branch.removeprefix(refs.BRANCHES)
            raise InputError(
                f"branch {name} has commits here that the bundle does not know", hint="put it on another: --as BRANCH"
            )
        return True

    def _entries(self, commit_id: CommitId) -> Iterator[FileEntry]:
        """Yield the files that come with a commit, under the ids that they come under."""
        sent, commit = self._sent[commit_id], self._commits[commit_id]
        if sent.mode != index.WITHOUT_BYTES:
            for entry, kept in zip(commit.files, index.kept_files(commit, sent.lossy), strict=True):
                if entry.size != self._files[kept].size:
                    raise _damaged(self._opened, f"{entry.path!a} has another size than its commit says")
                yield entry._replace(file_id=kept)

    def _write_batch(self, write: Callable[[WriteTransaction], None]) -> None:
        with self._store.write(timeout=self._repository.lock_timeout, waiting=self._repository.waiting) as txn:
            write(txn)

    def _take(self, commit_id: CommitId, entry: FileEntry, encoder: Encoder, directory: Path) -> None:
        """Store the tensors of one file, unless that was done."""
        version = self._versions.setdefault(commit_id, {})
        with self._store.read() as txn:
            if entry.file_id not in self._taken and retention.is_held(txn, entry.file_id):
                self._taken[entry.file_id] = Taken(entry, None, None, None, ())
                recipe = read_recipe(txn, entry.file_id)
                version[entry.path] = load_template(txn, recipe), recipe
        if entry.file_id in self._taken:
            done = self._taken[entry.file_id]
            if done.template is not None and done.recipe is not None:
                version[entry.path] = done.template, done.recipe
            return
        target = directory / "file"
        try:
            pieces = _file(self._opened, self._reader, self._files[entry.file_id])
            with contextlib.closing(pieces), target.open("wb") as out:
                out.writelines(pieces)
        except OSError as error:
            raise no_room(error, target) from None
        named = Named(entry.path, target, False)
        done = take(self._repository, named, encoder, self._parents(commit_id), lambda _: None, [])
        encoder.settle()
        done = done.settled(encoder.numbers)
        assert done.entry.file_id == entry.file_id  # it was verified while it was written
        self._taken[entry.file_id] = done
        if done.template is not None and done.recipe is not None:
            version[entry.path] = done.template, done.recipe
        target.unlink()

    def _parents(self, commit_id: CommitId) -> Mapping[str, tuple[Template, Recipe]]:
        """Return the files of the nearest first parent that has any."""
        for _ in range(len(self._sent) + 1):
            parents = self._commits[commit_id].parents
            if not parents:
                return {}
            commit_id = parents[0]
            if self._versions.get(commit_id):
                return self._versions[commit_id]
            if commit_id not in self._sent:
                with self._store.read() as txn:
                    return parent_files(txn, commit_id)
        return {}

    def _publish(self, payloads: Mapping[CommitId, Payload]) -> Unbundled:
        """Let everything count, in one transaction."""
        raw = added = 0
        with self._store.write(timeout=self._repository.lock_timeout, waiting=self._repository.waiting) as txn:
            new = [commit_id for commit_id in payloads if txn.get("commits", commit_id) is None]
            self._check_parents(txn, new)
            is_moving = self._check_branch(txn)
            templates: dict[bytes, int] = {}
            now = time.time_ns() // 1_000_000
            for commit_id in new:
                payload, mine = payloads[commit_id], 0
                depth = 0
                for entry in self._entries(commit_id):
                    was_held = retention.is_held(txn, entry.file_id)
                    file_added, file_depth = place_file(txn, self._shaped(txn, entry), templates)
                    mine += file_added
                    depth = max(depth, file_depth)
                    raw += 0 if was_held else entry.size
                data = self._sent[commit_id].data
                mine += payload.added_bytes + len(data) + len(commit_id)
                payload = payload._replace(added_bytes=mine, depth=depth)
                if self._sent[commit_id].mode == index.WITHOUT_BYTES:
                    payload = payload._replace(forgotten=(now, now, now))
                txn.put("commits", commit_id, data)
                txn.put("payloads", commit_id, payload.to_bytes(commit_id))
                added += mine
            moved, left = self._moves(txn, is_moving)
            if moved:
                moves = [Move(name, after) for name, _, after in moved]
                refs.move(txn, f"unbundle {self._opened.name}", moves, time_ms=now)
        return Unbundled(self._tip, tuple(new), raw, added, tuple(moved), tuple(left))

    def _shaped(self, txn: WriteTransaction, entry: FileEntry) -> Taken:
        """Return a file with what it needs of the template side as that is now: files before it bring templates."""
        done = self._taken[entry.file_id]
        if done.recipe is None or done.template is None or done.recipe.template:
            return done
        shape = shape_of(txn, done.template, None)
        return done._replace(shape=shape, recipe=done.recipe._replace(template=shape.number, patch=shape.patch))

    def _moves(
        self, txn: ReadTransaction, is_moving: bool
    ) -> tuple[list[tuple[str, CommitId | None, CommitId]], list[str]]:
        """Return how refs are to move, and the tags that are somewhere else already."""
        moved: list[tuple[str, CommitId | None, CommitId]] = []
        left = []
        if is_moving:
            moved.append((self._branch, refs.read_ref(txn, self._branch), self._tip))
        order = list(self._sent)
        for name, place in self._opened.bundle.refs:
            at = refs.read_ref(txn, name)
            if name.startswith(refs.TAGS) and at is None:
                moved.append((name, None, order[place]))
            elif name.startswith(refs.TAGS) and at != order[place]:
                left.append(name)
        return moved, left


class _InVault:
    """Tensors that a vault has, under whatever number."""

    def __init__(self, store: Store, bundle: Bundle) -> None:
        self._store, self._bundle = store, bundle
        self._reader = ChunkReader(store)
        self._numbers: dict[int, int] = {}

    def __call__(self, number: int, place: int) -> bytes | None:
        known = self._numbers.get(number)
        if known is None:
            tensor = self._bundle.tensor(number)
            with self._store.read() as txn:
                known = find_tensor(txn, tensor.tensor_id, tensor.nbytes)
            if known is None:
                return None
            self._numbers[number] = known
        try:
            return self._reader.chunk(known, place)
        except TensorDamagedError as error:
            raise CorruptError(f"what it builds on is damaged: {error.message}", hint=error.hint) from None


# onto files


class Built(NamedTuple):
    """What `build` wrote: the commit, what it says, and (where, file) of each file."""

    commit_id: CommitId
    commit: Commit
    mode: str
    written: tuple[tuple[Path, FileEntry], ...]


def build(path: Path, base: Path, output: Path, *, force: bool = False, progress: Progress | None = None) -> Built:
    """Write the files of the commit that a bundle is for, built on files on disk. No vault is needed.

    Args:
        path: the bundle.
        base: the file that it builds on, or a directory with all of them.
        output: where to write: a file, or a directory if there are several.
        force: overwrite what is there.
        progress: told how far it is.

    Raises:
        InputError: it is no bundle, or the base is not what it builds on.
        CorruptError: it is damaged.
        WouldLoseDataError: something is there already. In any case, nothing was written.
    """
    with open_bundle(path, progress) as opened, contextlib.ExitStack() as stack:
        sent = opened.bundle.commits[-1]
        commit = Commit.from_bytes(sent.data)
        if sent.mode == index.WITHOUT_BYTES:
            raise _damaged(opened, "the commit that it is for comes without bytes")
        files = {file.file_id: file for file in opened.bundle.files}
        entries = [
            entry._replace(file_id=kept)
            for entry, kept in zip(commit.files, index.kept_files(commit, sent.lossy), strict=True)
        ]
        for entry in entries:
            check_path(entry.path)
        reader = _BundleReader(opened, _InFiles(opened, _base_files(opened, base, stack)))
        written = []
        with Publisher() as publisher:
            for entry in entries:
                target = output if len(entries) == 1 and not output.is_dir() else output / entry.path
                if os.path.lexists(target) and not force:
                    raise WouldLoseDataError(f"{str(target)!a} exists already", hint="write elsewhere, or --force")
                pieces = _file(opened, reader, files[entry.file_id])
                if target == output:
                    publisher.prepare(target, pieces, entry.size, entry.executable)
                else:
                    root = output if output.is_dir() else output.parent
                    below = entry.path if output.is_dir() else f"{output.name}/{entry.path}"
                    publisher.prepare_in_tree(root, below, pieces, entry.size, entry.executable)
                written.append((target, entry))
            publisher.publish()
        mode = str(sent.lossy) if sent.lossy is not None else "lossless"
        return Built(sent.commit_id, commit, mode, tuple(written))


def _base_files(opened: OpenBundle, base: Path, stack: contextlib.ExitStack) -> dict[int, Source]:
    """Return the files on disk that the bundle builds on, by their numbers, each verified."""
    found: dict[int, Source] = {}
    for number, wanted in enumerate(opened.bundle.base_files):
        check_path(wanted.path)
        place = base / wanted.path if base.is_dir() else base
        if file_id(place) == wanted.file_id:
            found[number] = FileSource(stack.enter_context(open_regular(place)))
    if opened.bundle.base_files and not found:
        first = opened.bundle.base_files[0]
        raise InputError(
            f"{opened.name!a} builds on {first.path!a} with SHA-256 {first.file_id.hex()[:16]}, which"
            f" {str(base)!a} is not",
            hint="name that file, or a directory that holds it: --base PATH",
        )
    return found


class _InFiles:
    """Tensors of files on disk."""

    def __init__(self, opened: OpenBundle, sources: Mapping[int, Source]) -> None:
        self._works: dict[int, Work] = {}
        slots = {number: _slots(opened.bundle, opened.bundle.base_files[number]) for number in sources}
        for place, tensor in enumerate(opened.bundle.base_tensors, start=1):
            if tensor.file in sources:
                ranges = slots[tensor.file][tensor.slot]
                starts = itertools.accumulate((length for _, length in ranges[:-1]), initial=0)
                slot = Slot("", "other", DType.BYTES, 0, tensor.nbytes, tuple(ranges), tuple(starts), tensor.tensor_id)
                self._works[place] = Work(slot, sources[tensor.file], ())

    def __call__(self, number: int, place: int) -> bytes | None:
        work = self._works.get(number)
        return read_range(work, place * CHUNK_BYTES, CHUNK_BYTES) if work is not None else None


def _slots(bundle: Bundle, base: BaseFile) -> list[list[tuple[int, int]]]:
    """Return where the pieces of each slot stand in a file."""
    template = Template.from_bytes(bundle.templates[base.template])
    found: list[list[tuple[int, int]]] = [[] for _ in range(template.slots)]
    for segment, offset in segment_places(template, base.stem):
        found[segment.slot].append((offset, segment.length))
    return found
