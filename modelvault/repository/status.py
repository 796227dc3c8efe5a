"""HEAD's snapshot against the files on disk. Light: files are hashed, nothing is decoded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

from modelvault.errors import InputError
from modelvault.ids import CommitId
from modelvault.repository import history, refs
from modelvault.repository.repository import Repository
from modelvault.repository.worktree import file_id

Progress = Callable[[str, int, int], None]
State = Literal["same", "changed", "missing", "unreadable"]


class FileStatus(NamedTuple):
    """One file of HEAD's snapshot: its path, and what became of it on disk."""

    path: str
    state: State


class Status(NamedTuple):
    """Where HEAD is and how the files stand.

    Attributes:
        branch: the branch HEAD is on, or was on last.
        detached: whether it is on none.
        commit_id: HEAD's commit, None before the first.
        short: the commit's shortened id, or "".
        subject: the commit's subject, or "".
        files: each file of its snapshot.
    """

    branch: str
    detached: bool
    commit_id: CommitId | None
    short: str
    subject: str
    files: tuple[FileStatus, ...]

    @property
    def is_clean(self) -> bool:
        """Whether every file on disk is as HEAD has it."""
        return all(file.state == "same" for file in self.files)


def read_status(repository: Repository, progress: Progress | None = None) -> Status:
    """Compare HEAD's files with those on disk, by SHA-256 where the size is the same."""
    with repository.store.read() as txn:
        head, tip = refs.read_head(txn), refs.head_commit(txn)
        commit = history.read_commit(txn, tip) if tip is not None else None
        kept = history.kept_files(txn, tip, commit) if tip is not None and commit is not None else ()
        short = history.shorten(txn, tip) if tip is not None else ""
    files = []
    entries = commit.files if commit is not None else ()
    done, total = 0, sum(entry.size for entry in entries)

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress("comparing", done, total)

    for entry, as_kept in zip(entries, kept, strict=True):
        path = repository.root / entry.path
        state: State
        try:
            if not path.exists():
                state = "missing"
            elif path.stat().st_size != entry.size or file_id(path, advance) not in (entry.file_id, as_kept.file_id):
                state = "changed"
            else:
                state = "same"
        except (InputError, OSError):
            state = "unreadable"
        files.append(FileStatus(entry.path, state))
    subject = commit.subject if commit is not None else ""
    return Status(head.branch, head.detached is not None, tip, short, subject, tuple(files))
