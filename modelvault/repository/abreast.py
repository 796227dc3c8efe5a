"""The files of several commits restored side by side, for little more than one of them takes.

Neighbours lean on one another: what one decodes is the reference of the next. So files of one path and shape are
rebuilt abreast, a few at a time: the same chunk of all of them is decoded in one go, the oldest first, and written, and
then the next chunk. What must be kept of decoded chunks is a chain or two, however large the files are.
"""

from __future__ import annotations

import contextlib
import itertools
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path

from modelvault.errors import UsageError
from modelvault.ids import CommitId
from modelvault.objects.commit import FileEntry
from modelvault.repository import history, retention
from modelvault.repository.checkout import (
    Progress,
    Restored,
    Script,
    check_target,
    chunk_jobs,
    hashing_thread,
    read_script,
    restore,
)
from modelvault.repository.chunks import FETCH_CHUNKS, ChunkReader
from modelvault.repository.names import check_path
from modelvault.repository.repository import Repository
from modelvault.repository.threads import in_order, thread_count
from modelvault.repository.worktree import Publisher, Wanted
from modelvault.store.base import Store
from modelvault.tensors import CHUNK_BYTES

_ABREAST = 16
"""Files that are rebuilt at a time. The first of them decodes its own chain, so that of a long range at most twice as
many chunks are decoded as it has, if chains are as long as commits make them."""

_CACHE_CHUNKS = 2 * _ABREAST
"""Decoded chunks that are kept for each thread: a chain that ends in the row that it decodes. More is only slower,
since fresh memory is: with 512 MiB, six snapshots of MiniLM took 2.3 s of CPU, with 64 MiB 0.94."""


def checkout_many(
    repository: Repository,
    commit_ids: Sequence[CommitId],
    directory: Path,
    *,
    force: bool = False,
    progress: Progress | None = None,
) -> list[Restored]:
    """Write the files of several commits below a directory, each commit's in one of its own that has its short id.

    What one decodes the others do not decode again, as neighbours share chains. HEAD stays.

    Args:
        repository: the vault.
        commit_ids: which commits.
        directory: where; if it is not there yet it appears with everything in it.
        force: overwrite files whose bytes no commit holds.
        progress: told how far it is.

    Raises:
        WouldLoseDataError: a target holds bytes that no commit holds. Nothing was written.
        ForgottenError: a commit, or a part of it, was forgotten. Nothing was written.
        CorruptError: something needed is damaged. Nothing was written.
        InputError, NoSpaceError: a target cannot be written. Nothing was written.
    """
    store = repository.store
    targets: list[tuple[CommitId, str, FileEntry]] = []
    with store.read() as txn:
        commits = [(commit_id, history.read_commit(txn, commit_id)) for commit_id in dict.fromkeys(commit_ids)]
        commits.sort(key=lambda pair: (pair[1].time_ms, pair[0]))
        for commit_id, commit in commits:
            files = history.kept_files(txn, commit_id, commit)
            retention.check_kept(txn, commit_id, files)
            for entry in files:
                check_path(entry.path)
                targets.append((commit_id, f"{history.shorten(txn, commit_id)}/{entry.path}", entry))
    if directory.exists() and not directory.is_dir():
        raise UsageError(f"{str(directory)!a} is a file, a directory is wanted", hint="give another name")
    done, total = 0, sum(entry.size for _, _, entry in targets)
    found = {commit_id: (list[tuple[Path, FileEntry]](), list[Path]()) for commit_id, _ in commits}

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress("restoring", done, total)

    is_there = directory.is_dir()
    reader = ChunkReader(store, cache_bytes=thread_count() * _CACHE_CHUNKS * CHUNK_BYTES)
    todo = []
    for commit_id, path, entry in targets:
        if check_target(store, directory / path, entry, force, advance):
            found[commit_id][1].append(directory / path)
        else:
            todo.append((commit_id, path, entry))
    done, total = 0, sum(entry.size for _, _, entry in todo)
    todo.sort(key=lambda item: item[2].path)  # stable: of each path the oldest first
    with Publisher() as publisher, contextlib.closing(hashing_thread()) as aside:
        root, above = (directory, "") if is_there else (directory.parent, f"{directory.name}/")
        for group in _groups(store, [entry for _, _, entry in todo]):
            some, todo = todo[: len(group)], todo[len(group) :]
            with contextlib.closing(_Rows(reader, group)) as rows:
                publisher.prepare_abreast(
                    root,
                    [
                        Wanted(
                            above + path,
                            restore(store, entry, advance, reader, script, rows.column(at), aside),
                            entry.size,
                            entry.executable,
                        )
                        for at, ((_, path, entry), script) in enumerate(zip(some, group, strict=True))
                    ],
                )
            for commit_id, path, entry in some:
                found[commit_id][0].append((directory / path, entry))
        publisher.publish()
    return [Restored(one, tuple(written), tuple(same), None, False) for one, (written, same) in found.items()]


def _groups(store: Store, entries: Sequence[FileEntry]) -> Iterator[list[Script]]:
    """Yield what files are rebuilt by, those together that follow one another and have tensors of the same sizes."""
    group: list[Script] = []
    for entry in entries:
        with store.read() as txn:
            script = read_script(txn, entry, group[-1] if group else None)
        if group and (len(group) == _ABREAST or _sizes(group[0]) != _sizes(script)):
            yield group
            group = []
        group.append(script)
    if group:
        yield group


def _sizes(script: Script) -> list[tuple[int, int]]:
    return [(segment.slot, segment.length) for segment in script.template.segments]


class _Rows:
    """The same chunks of several files, decoded by one thread one after the other: each finds its base in the cache."""

    def __init__(self, reader: ChunkReader, scripts: Sequence[Script]) -> None:
        self._reader, self._scripts = reader, scripts
        self._rows = in_order(self._row, self._jobs())
        self._columns: list[deque[bytes]] = [deque() for _ in scripts]

    def close(self) -> None:
        """Let the threads go."""
        self._rows.close()

    def column(self, at: int) -> Generator[bytes, None, None]:
        """Yield the chunks of one file. Whoever runs ahead of the others has theirs kept for them."""
        own = self._columns[at]
        while True:
            if not own:
                row = next(self._rows, None)
                if row is None:
                    return
                for column, raw in zip(self._columns, row, strict=True):
                    column.append(raw)
            yield own.popleft()

    def _jobs(self) -> Iterator[tuple[int, int]]:
        first = self._scripts[0]
        jobs = chunk_jobs(first.template)
        while some := list(itertools.islice(jobs, FETCH_CHUNKS)):
            self._reader.fetch([(first.recipe.tensors[slot], place) for slot, place in some])  # others lean on it
            yield from some

    def _row(self, job: tuple[int, int]) -> list[bytes]:
        slot, place = job
        return [self._reader.chunk(script.recipe.tensors[slot], place) for script in self._scripts]
