"""What tests of a whole vault share: making one, committing to it, and looking at what is in it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from modelvault import wire
from modelvault.ids import CommitId
from modelvault.objects.tensor import TensorRecord
from modelvault.repository import history, refs
from modelvault.repository.checkout import restore
from modelvault.repository.commit import Committed, Request, make_commit
from modelvault.repository.contents import FileContents, read_contents
from modelvault.repository.fsck import Findings, check
from modelvault.repository.repository import Repository, init_repository
from modelvault.repository.revisions import resolve
from modelvault.store.base import TABLES, Table
from modelvault.store.memory import MemoryStore

STORES = ("lmdb", "memory")


def new_vault(root: Path, store: str = "lmdb") -> Repository:
    """Make a vault in `root`, on one of the two stores."""
    if store == "lmdb":
        return init_repository(root)
    directory = root / ".modelvault"
    directory.mkdir(parents=True)
    return Repository(directory, MemoryStore())


def commit(
    repository: Repository,
    files: bytes | Mapping[str, bytes],
    message: str = "a commit",
    *,
    tag: str | None = None,
    step: int | None = None,
    metrics: Mapping[str, float] | None = None,
) -> Committed:
    """Write files below the root and commit them; bare bytes are `model.pt`."""
    named = {"model.pt": files} if isinstance(files, bytes) else files
    for name, data in named.items():
        path = repository.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    paths = [repository.root / name for name in named]
    return make_commit(repository, Request(paths, message, tag, step, metrics or {}))


def files_of(repository: Repository, commit_id: CommitId) -> dict[str, bytes]:
    """Restore every file of a commit, or its stand-in, verified as checkout does it."""
    with repository.store.read() as txn:
        entries = history.kept_files(txn, commit_id, history.read_commit(txn, commit_id))
    return {entry.path: b"".join(restore(repository.store, entry)) for entry in entries}


def contents_of(repository: Repository, commit_id: CommitId) -> dict[str, FileContents]:
    """Return what each file of a commit is made of."""
    with repository.store.read() as txn:
        return {entry.path: read_contents(txn, entry) for entry in history.read_commit(txn, commit_id).files}


def all_commits(repository: Repository) -> list[CommitId]:
    """Return the commits that branches, tags and HEAD lead to, newest first."""
    with repository.store.read() as txn:
        starts = [*refs.list_refs(txn, refs.BRANCHES).values(), *refs.list_refs(txn, refs.TAGS).values()]
        tip = refs.head_commit(txn)
        return [commit_id for commit_id, _ in history.walk(txn, starts + ([tip] if tip else []))]


def find(repository: Repository, revision: str) -> CommitId:
    """Return the commit that a revision names."""
    with repository.store.read() as txn:
        return resolve(txn, revision, repository.config).commit_id


def tensor_records(repository: Repository) -> dict[int, TensorRecord]:
    """Return every tensor's record by its number."""
    with repository.store.read() as txn:
        return {wire.read_sortable(key): TensorRecord.from_bytes(value) for key, value in txn.scan("tensors")}


def table_bytes(repository: Repository) -> dict[Table, int]:
    """Return how many bytes of keys and values each table holds."""
    with repository.store.read() as txn:
        return {table: sum(len(key) + len(value) for key, value in txn.scan(table)) for table in TABLES}


def copy_value(repository: Repository, table: Table, key: bytes) -> bytes:
    """Return a value that must be there."""
    with repository.store.read() as txn:
        value = txn.get(table, key)
    assert value is not None
    return value


def fsck(repository: Repository) -> Findings:
    """Check everything; fail at once if anything is wrong."""
    found = check(repository)
    assert found.problems == ()
    return found
