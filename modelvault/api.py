"""The Python interface: a vault as an object. Safe in threads; holds no lock between calls.

torch is imported only when a state goes in or comes out; numpy only when bytes are encoded or decoded.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

from modelvault.errors import InputError, NoVaultError, UnsupportedError, UsageError
from modelvault.report import Report, make_report
from modelvault.repository import history, refs, revisions
from modelvault.repository.names import VAULT_DIRECTORY
from modelvault.repository.repository import DEFAULT_LOCK_TIMEOUT, Repository, init_repository, repository_at

if TYPE_CHECKING:
    from modelvault.ids import CommitId
    from modelvault.objects.commit import Commit
    from modelvault.objects.payload import Payload
    from modelvault.store.base import ReadTransaction

StrPath: TypeAlias = "str | os.PathLike[str]"

STATE_FILE = "state.pt"
"""The path under which a state that was handed over in memory is recorded."""


@runtime_checkable
class HasStateDict(Protocol):
    """A model, an optimizer, a scheduler: anything whose state can be asked for."""

    def state_dict(self) -> Mapping[str, Any]:
        """Return its state."""


class CommitInfo(NamedTuple):
    """One commit, as `Vault.commit` and `Vault.log` give it.

    Attributes:
        id: its full id in hexadecimal.
        short: the shortest prefix of it that is unique now.
        parents: full ids of its parents.
        message: what was said; the first line is the subject.
        author: who made it.
        time: seconds since the epoch.
        step: the training step, or None.
        metrics: measured values.
        meta: free text.
        files: (path, size in bytes, SHA-256 in hexadecimal) of each file.
        mode: "lossless".
        raw_bytes: sizes of its files added up.
        added_bytes: what it added to the vault.
        depth: the deepest chain among its tensors.
    """

    id: str
    short: str
    parents: tuple[str, ...]
    message: str
    author: str
    time: float
    step: int | None
    metrics: Mapping[str, float]
    meta: Mapping[str, str]
    files: tuple[tuple[str, int, str], ...]
    mode: str
    raw_bytes: int
    added_bytes: int
    depth: int

    @property
    def subject(self) -> str:
        """First line of the message."""
        return self.message.split("\n", 1)[0]


def open(path: StrPath, *, create: bool = False, lock_timeout: float = DEFAULT_LOCK_TIMEOUT) -> Vault:
    """Open the vault in a directory.

    Args:
        path: the directory that holds `.modelvault`, or `.modelvault` itself.
        create: make the vault (and the directory) if it is not there.
        lock_timeout: seconds to wait for another writer.

    Raises:
        NoVaultError: there is none, and `create` is not set.
    """
    root = Path(path)
    if root.name == VAULT_DIRECTORY:
        root = root.parent
    directory = root / VAULT_DIRECTORY
    if directory.is_dir():
        repository = repository_at(directory)
    elif create:
        repository = init_repository(root)
    else:
        raise NoVaultError(f"there is no vault in {root}", hint="modelvault.open(..., create=True) makes one")
    repository.lock_timeout = lock_timeout
    return Vault(repository)


class Vault:
    """A vault, opened."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository

    def __repr__(self) -> str:
        return f"Vault({str(self.root)!r})"

    @property
    def root(self) -> Path:
        """The directory that recorded paths are relative to."""
        return self._repository.root

    def commit(
        self,
        path_or_state: StrPath | list[StrPath] | Mapping[str, Any] | HasStateDict,
        *,
        message: str,
        tag: str | None = None,
        step: int | None = None,
        metrics: Mapping[str, float] | None = None,
        meta: Mapping[str, str] | None = None,
    ) -> CommitInfo:
        """Commit files, or a state held in memory.

        Args:
            path_or_state: a path, several, or a state: a mapping, or an object with `state_dict()`. Values of the
                mapping that have a `state_dict()` are asked for it. A state is written as `torch.save` writes it and
                recorded as `state.pt`.
            message: what to say about it; its first line names the commit.
            tag: a tag to put on it.
            step: the training step.
            metrics: measured values.
            meta: free text.

        Raises:
            ModelVaultError: whatever is wrong; nothing was committed.
        """
        if isinstance(path_or_state, (str, os.PathLike)):
            return self._commit([Path(path_or_state)], message, tag, step, metrics, meta)
        if isinstance(path_or_state, list):
            return self._commit([Path(path) for path in path_or_state], message, tag, step, metrics, meta)
        torch = _torch("commit a state")
        with tempfile.TemporaryDirectory(prefix="modelvault-") as directory:
            # In a directory of its own, so that the archive's name inside is always the same.
            file = Path(directory, STATE_FILE)
            torch.save(_state_of(path_or_state), file)
            return self._commit([file], message, tag, step, metrics, meta)

    def _commit(
        self,
        paths: list[Path],
        message: str,
        tag: str | None,
        step: int | None,
        metrics: Mapping[str, float] | None,
        meta: Mapping[str, str] | None,
    ) -> CommitInfo:
        from modelvault.repository.commit import Request, make_commit

        numbers = {name: float(value) for name, value in (metrics or {}).items()}
        texts = {name: str(value) for name, value in (meta or {}).items()}
        done = make_commit(self._repository, Request(paths, message, tag, step, numbers, texts))
        with self._repository.store.read() as txn:
            return _info(txn, done.commit_id, done.commit, done.payload)

    def load(self, revision: str = "HEAD", *, path: str | None = None, map_location: Any = "cpu") -> Any:
        """Return what `torch.load(weights_only=True)` gives for a committed file.

        Args:
            revision: which commit.
            path: which of its files; may be left out if it has one.
            map_location: as `torch.load` takes it.

        Raises:
            ForgottenError: the commit, or a part that the file has, was forgotten.
            InputError: torch refuses the file: it holds more than tensors and plain containers. `checkout` still
                gives its bytes.
        """
        import pickle

        torch = _torch("load a state")
        with tempfile.TemporaryDirectory(prefix="modelvault-") as directory:
            target = Path(directory, "state")
            self._restore(revision, target, path)
            try:
                return torch.load(target, map_location=map_location, weights_only=True)
            except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
                reason = str(error).strip().split("\n", 1)[0]
                raise InputError(
                    f"torch cannot load {revision} with weights_only=True: {reason}",
                    hint="vault.checkout(revision, path) writes the file as it is",
                ) from None

    def checkout(
        self,
        revision: str = "HEAD",
        output: StrPath | None = None,
        *,
        path: str | None = None,
        force: bool = False,
    ) -> None:
        """Write a commit's files to disk.

        Args:
            revision: which commit.
            output: where to write the file, or a directory for several; without it, files go to their recorded paths
                below the root and HEAD moves.
            path: only this file of the commit.
            force: overwrite files whose bytes no commit holds.

        Raises:
            WouldLoseDataError: a target holds bytes that no commit holds.
        """
        if output is not None:
            self._restore(revision, Path(output), path, force=force)
            return
        from modelvault.repository.checkout import checkout

        checkout(self._repository, self._resolve(revision), (path,) if path else (), force=force)

    def log(self, revision: str = "HEAD") -> Iterator[CommitInfo]:
        """Yield commits, newest first, from a revision or a range `A..B`; nothing in an empty vault."""
        with self._repository.store.read() as txn:
            if revision == "HEAD" and refs.head_commit(txn) is None:
                found = []
            else:
                selected = revisions.resolve_range(txn, revision, self._repository.config)
                exclude = history.ancestors(txn, selected.exclude) if selected.exclude else set()
                found = [
                    _info(txn, commit_id, commit, history.read_payload(txn, commit_id))
                    for commit_id, commit in history.walk(txn, [selected.include], exclude)
                ]
        yield from found

    def report(self) -> Report:
        """Say what the vault saves."""
        return make_report(self._repository)

    def _resolve(self, revision: str) -> revisions.Resolved:
        with self._repository.store.read() as txn:
            return revisions.resolve(txn, revision, self._repository.config)

    def _restore(self, revision: str, output: Path, path: str | None, *, force: bool = False) -> None:
        from modelvault.repository.checkout import checkout

        checkout(self._repository, self._resolve(revision), (path,) if path else (), output=output, force=force)


def _info(txn: ReadTransaction, commit_id: CommitId, commit: Commit, payload: Payload) -> CommitInfo:
    return CommitInfo(
        commit_id.hex(),
        history.shorten(txn, commit_id),
        tuple(parent.hex() for parent in commit.parents),
        commit.message,
        commit.author,
        commit.time_ms / 1000,
        commit.step,
        commit.metrics,
        commit.meta,
        tuple((entry.path, entry.size, entry.file_id.hex()) for entry in commit.files),
        "lossless",
        commit.raw_bytes,
        payload.added_bytes,
        payload.depth,
    )


def _state_of(value: Mapping[str, Any] | HasStateDict) -> Any:
    """Return what is to be saved: state dicts in place of the objects that have one."""
    if isinstance(value, Mapping):
        return {name: item.state_dict() if isinstance(item, HasStateDict) else item for name, item in value.items()}
    if isinstance(value, HasStateDict):
        return value.state_dict()
    raise UsageError(
        f"cannot commit a {type(value).__name__}",
        hint="give a path, a mapping, or an object with state_dict()",
    )


def _torch(purpose: str) -> Any:
    try:
        import torch
    except ImportError:
        raise UnsupportedError(
            f"torch is needed to {purpose}", hint="install it: pip install 'mvault[torch]'"
        ) from None
    return torch
